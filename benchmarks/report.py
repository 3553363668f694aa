"""Tables and the verdict on every bar, from lines of JSON: `python -m benchmarks.report results/2026-01-31.jsonl`.

--markdown prints the same as tables for the documentation. A ratio is the peer's time divided by ours: above 1 we are
faster, below 1 the peer is, and such figures carry a `<`. A peer that failed the correctness gate was not timed. Each
cell has tables and bars of its own.
"""

import argparse
import json
import statistics
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.cases import FORMS, MODES, Cell, Mode

OURS = "bptt"
Record = dict[str, Any]
MODE_NAMES = {
    "train": "Forward and backward, without dx",
    "train_dx": "Forward and backward, with dx",
    "infer": "Forward alone, no gradients",
}


@dataclass(frozen=True)
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """What was promised and what was measured; `worst` says where it was worst."""

    name: str
    required: str
    measured: str
    met: bool
    worst: str = ""


@dataclass(frozen=True)
class Race:
    """A bar against the best of some peers in one mode: what the geometric mean and the worst shape must reach."""

    mode: Mode
    peers: tuple[str, ...]
    mean: float
    worst: float


OTHERS = ("jax", "onednn", "onnxruntime")
AGAINST_OTHERS = [Race("train", ("jax",), 1.3, 1.0), Race("train_dx", ("onednn",), 1.15, 0.9)]
RACES: dict[Cell, list[Race]] = {
    "rnn": [race for mode in MODES for race in (Race(mode, ("torch",), 5, 1.3), Race(mode, OTHERS, 1.3, 1.0))],
    "lstm": [Race("train", ("torch",), 2, 1.1), *AGAINST_OTHERS],
    "gru": [Race("train", ("torch",), 6, 1.5), *AGAINST_OTHERS],
}
SHARE_OF_LIMIT: dict[Cell, float] = {"rnn": 0.85, "lstm": 0.8, "gru": 0.8}


def _cell(record: Record) -> Cell:
    return record.get("cell", "rnn")


def _shape(case: str) -> tuple[int, int, int, int]:
    T, B, I, H = map(int, case.split(","))
    return T, B, I, H


def _ms(found: Record | None) -> str:
    if found is None:
        return "–"
    return f"{found['ms']:.4g}" if "ms" in found else f"FAILED: {found['failed']}"


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio:.2f}" + (" <" if ratio < 1 else "")


def _most_threads(records: Iterable[Record]) -> int:
    return max((record["threads"] for record in records if record["kind"] in ("layer", "small")), default=1)


def layer_table(records: list[Record], kind: str, mode: str, threads: int) -> Table | None:
    mine = [r for r in records if (r["kind"], r.get("mode"), r.get("threads")) == (kind, mode, threads)]
    if not mine:
        return None
    peers = [peer for peer in mine[0]["versions"] if any(peer in record["peers"] for record in mine)]
    rivals = [peer for peer in peers if peer != OURS]
    head = ["T,B,I,H", *(f"{peer} ms" for peer in peers), *(f"{peer} / {OURS}" for peer in rivals)]
    limits = any("limit_ms" in record for record in mine)
    head += ["limit ms", "set by", "reached"] if limits else []
    rows = []
    for record in mine:
        ratios = record.get("ratio", {})
        row = [record["case"], *(_ms(record["peers"].get(peer)) for peer in peers)]
        row += [_ratio(ratios.get(peer)) for peer in rivals]
        if limits:
            reached = record.get("share_of_limit")
            row += [f"{record.get('limit_ms', '–')}", record.get("limit_by", "–")]
            row.append("–" if reached is None else f"{reached:.0%}")
        rows.append(row)
    prefix = "Small calls. " if kind == "small" else ""
    return Table(f"{prefix}{MODE_NAMES[mode]}, {threads} thread{'s' * (threads > 1)}", head, rows)


def situation_tables(records: list[Record]) -> list[Table]:
    tables = []
    titles = {
        "packed": "PackedSequence, half of all steps padding: forward and backward, ms",
        "loaded": "Another process keeps one core busy: forward and backward, ms",
    }
    for kind, title in titles.items():
        mine = [record for record in records if record["kind"] == kind]
        if mine:
            names = list(dict.fromkeys(name for record in mine for name in record["peers"]))
            rows = [[r["case"], *(_ms(r["peers"].get(name)) for name in names)] for r in mine]
            tables.append(Table(title, ["T,B,I,H", *names], rows))
    mine = [record for record in records if record["kind"] == "memory"]
    if mine:
        rows = []
        for record in mine:
            for peer, found in record["peers"].items():
                figures = [str(found.get(name, "–")) for name in ("extra_mb", "kept_mb", "allowed_mb", "ratio")]
                rows.append([record["case"], peer, *([found["failed"], "", "", ""] if "failed" in found else figures)])
        tables.append(
            Table(
                "Peak memory of a training step beyond its inputs",
                ["T,B,I,H", "", "extra MB", "kept MB", "bar MB", "share"],
                rows,
            )
        )
    for record in records:
        if record["kind"] == "text":
            speeds = [f"{found['tokens_per_second']:,}" for found in record["peers"].values()]
            outside = f"{record['outside']:.0%}" if "outside" in record else record["failed"]
            head = ["T,B,symbols,H", *record["peers"], "outside engine and products"]
            tables.append(Table("Training on text, tokens per second", head, [[record["case"], *speeds, outside]]))
    return tables


def bars(records: list[Record]) -> list[Bar]:
    """Of the records of one cell."""
    cell, threads = _cell(records[0]), _most_threads(records)
    theirs = f"torch.nn.{cell.upper()}"
    found: list[Bar] = []

    def layers(mode: str, count: int = threads, kind: str = "layer") -> list[Record]:
        return [r for r in records if (r["kind"], r["mode"], r.get("threads")) == (kind, mode, count)]

    def at_least(name: str, least: float, values: dict[str, float], spell: Callable[[float], str] = _times) -> None:
        if values:
            where = min(values, key=values.__getitem__)
            found.append(Bar(name, f"≥ {spell(least)}", spell(values[where]), values[where] >= least, f"at {where}"))

    def at_most(name: str, most: float, values: dict[str, float]) -> None:
        if values:
            where = max(values, key=values.__getitem__)
            found.append(Bar(name, f"≤ {_times(most)}", _times(values[where]), values[where] <= most, f"at {where}"))

    def mean_of(name: str, least: float, values: dict[str, float]) -> None:
        if values:
            mean = statistics.geometric_mean(values.values())
            found.append(Bar(f"{name}, geometric mean", f"≥ {_times(least)}", _times(mean), mean >= least))

    for race in RACES[cell]:
        ratios: dict[str, float] = {}
        took_part: set[str] = set()
        for record in layers(race.mode):
            rivals = {peer: ratio for peer, ratio in record.get("ratio", {}).items() if peer in race.peers}
            if rivals:
                best = min(rivals, key=rivals.__getitem__)
                ratios[record["case"] + (f" ({best})" if len(race.peers) > 1 else "")] = rivals[best]
                took_part |= rivals.keys()
        rival = theirs if race.peers == ("torch",) else ", ".join(sorted(took_part))
        name = f"{race.mode}: {'best of ' * (len(race.peers) > 1)}{rival}"
        mean_of(name, race.mean, ratios)
        at_least(f"{name}, worst", race.worst, ratios)
    for mode in MODES:
        shares = {r["case"]: r["share_of_limit"] for r in layers(mode) if "share_of_limit" in r}
        thick = {case: share for case, share in shares.items() if _shape(case)[1] >= 16 and _shape(case)[3] >= 128}
        name = f"{mode}: share of the limit, B ≥ 16 and H ≥ 128"
        at_least(name, SHARE_OF_LIMIT[cell], thick, lambda share: f"{share:.0%}")
    for mode in MODES if cell == "rnn" else ():
        alone = {r["case"]: r["peers"][OURS]["ms"] for r in layers(mode, 1) if "ms" in r["peers"].get(OURS, {})}
        together = {r["case"]: r["peers"][OURS]["ms"] for r in layers(mode) if "ms" in r["peers"].get(OURS, {})}
        gains = {case: alone[case] / ms for case, ms in together.items() if case in alone and threads > 1}
        many = {case: gain for case, gain in gains.items() if _shape(case)[1] >= 2}
        wide = {case: gain for case, gain in gains.items() if _shape(case)[1] == 1 and _shape(case)[3] >= 256}
        at_least(f"{mode}: 1 → {threads} threads, B ≥ 2", 1.85, many)
        at_least(f"{mode}: 1 → {threads} threads, B = 1 and H ≥ 256", 1.0, wide)
    for mode in MODES:
        small = {r["case"]: r["ratio"]["torch"] for r in layers(mode, kind="small") if "torch" in r.get("ratio", {})}
        at_least(f"{mode}: small calls, {theirs}", 3.0, small)
    loaded: dict[str, float] = {}
    packed: dict[str, float] = {}
    padding: dict[str, float] = {}
    memory: dict[str, float] = {}
    for record in records:
        peers, case = record["peers"], record["case"]
        if record["kind"] == "loaded":
            many = f"{OURS}, {record['threads']} threads, loaded"
            one = f"{OURS}, 1 thread, idle"
            if "ms" in peers.get(many, {}) and "ms" in peers.get(one, {}):
                loaded[case] = peers[many]["ms"] / peers[one]["ms"]
        elif record["kind"] == "packed" and "ms" in peers.get(OURS, {}):
            padding[case] = peers[OURS]["ms"] / peers["bptt, dense"]["ms"]
            if "ms" in peers.get("torch", {}):
                packed[case] = peers["torch"]["ms"] / peers[OURS]["ms"]
        elif record["kind"] == "memory" and "ratio" in peers.get(OURS, {}):
            memory[case] = peers[OURS]["ratio"]
    at_most("under load, against 1 thread on the idle machine", 1.3, loaded)
    name = f"half padding: {theirs} with PackedSequence"
    if cell == "rnn":
        at_least(name, 10.0, packed)
        at_most("half padding: time against the dense batch", 0.6, padding)
    else:
        mean_of(name, 4.0, packed)
        at_least(f"{name}, worst", 2.0, packed)
    at_most("memory: extra against what is allowed", 1.01, memory)
    for record in records:
        if record["kind"] == "text" and "ratio" in record:
            at_least(f"training on text: {theirs}", 3.0, {record["case"]: record["ratio"]["torch"]})
            outside = record["outside"]
            found.append(Bar("training on text: share outside", "≤ 15%", f"{outside:.0%}", outside <= 0.15))
    return found


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×".replace(".00×", "×")


def header(records: list[Record]) -> list[str]:
    first = records[0]
    machine = first["machine"]
    others = [record["others_cores"] for record in records if record["others_cores"] is not None]
    lines = [
        f"{first['date']}, {machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}",
        "; ".join(first["versions"].values()),
    ]
    if others:
        lines.append(
            f"other processes used {statistics.median(others):.2f} cores in the median, {max(others):.2f} at worst; "
            "above 0.1 the figures are noise"
        )
    return lines + [f"{peer} took no part: {reason}" for peer, reason in first["absent"].items()]


def tables(records: list[Record]) -> list[Table]:
    found = []
    for cell in FORMS:
        mine = [record for record in records if _cell(record) == cell]
        prefix = "" if cell == "rnn" else f"{cell.upper()}. "
        found += [replace(table, title=prefix + table.title) for table in _tables_of_one(mine)] if mine else []
    return found


def _tables_of_one(records: list[Record]) -> list[Table]:
    counts = sorted({r["threads"] for r in records if r["kind"] in ("layer", "small")}, reverse=True)
    layers = [layer_table(records, kind, mode, n) for kind in ("layer", "small") for n in counts for mode in MODES]
    rows = [[bar.name, bar.required, bar.measured, "met" if bar.met else "MISSED", bar.worst] for bar in bars(records)]
    threads = _most_threads(records)
    verdict = Table(f"The bars, {threads} thread{'s' * (threads > 1)}", ["", "bar", "measured", "", "worst"], rows)
    return [table for table in layers if table] + situation_tables(records) + ([verdict] if rows else [])


def aligned(table: Table) -> str:
    """The table as text, columns under each other."""
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (table.head, *table.rows)
    ]
    return "\n".join([table.title, *(line.rstrip() for line in lines)])


def text(records: list[Record]) -> str:
    parts = ["\n".join(header(records)), *map(aligned, tables(records))] if records else []
    return "\n\n".join(parts)


def markdown(records: list[Record]) -> str:
    parts = ["  \n".join(header(records))]
    for table in tables(records):
        rows = [table.head, ["---", *["--:"] * (len(table.head) - 1)], *table.rows]
        parts.append(f"### {table.title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=textwrap.dedent(__doc__ or ""))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("results", type=Path, nargs="+", help="files of lines of JSON")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    records = [json.loads(line) for path in arguments.results for line in path.read_text().splitlines()]
    print((markdown if arguments.markdown else text)(records))


if __name__ == "__main__":
    main()
