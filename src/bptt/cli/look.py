"""`bptt look`: what would be read of a table, before any training."""

import json as json_format
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bptt.cli.series import _gaps, _of_several, _time
from bptt.cli.shell import say_on
from bptt.runs import progress
from bptt.tasks import findings, table
from bptt.tasks.columns import printable
from bptt.tasks.dialect import Dialect
from bptt.tasks.findings import SHOWN, Findings


def look(file: Path, time: str | None, written: Mapping[str, Any], *, json: bool) -> None:
    source = table.read(file, Dialect.of(written))
    found = findings.of(source, time)
    numbers = found.of_kind("numbers")
    assumed = [line for line in source.assumed(numbers) if not line.startswith("Odd")]
    commands = _commands(file, found, time, source.dialect)
    if json:
        print(json_format.dumps(_facts(source, found, assumed, commands), ensure_ascii=False, allow_nan=False))
        return
    say = say_on(progress.console())
    say(f"Table    {source.source}: {len(source):,} rows, {len(source.columns):,} columns")
    for line in (*assumed, *_of_time(found)):
        say(line)
    say("")
    width = max(len(of["name"][:30]) for of in found.fields)
    for of in found.fields:
        say(f"{of['name'][:30]:{width}}  {of['kind']:8} {_in_words(of)}".rstrip())
    if len(source.columns) > SHOWN:
        say(f"and {len(source.columns) - SHOWN:,} more columns")
    say("")
    for line in found.odd:
        say(f"Odd      {line}", "yellow")
    if commands:
        say("What next:")
    for command in commands:
        say(f"  {command}", "cyan")


def _of_time(found: Findings) -> list[str]:
    if found.no_time:
        return [f"Time     cannot be used: {found.no_time}"]
    if found.columns is None:
        return []
    gaps = _gaps(found.columns.series)
    several = [f"Series   {_of_several(found.columns).removesuffix(', ')}"] if found.columns.keys else []
    return several + _time(found.columns) + ([f"Gaps     {gaps.removeprefix(', with ')}"] if gaps else [])


def _in_words(of: Mapping[str, Any]) -> str:
    said = []
    if of["kind"] == "numbers":
        said.append(f"{of['from']:.6g} to {of['to']:.6g}, {'whole' if of['whole'] else 'decimal'}")
    elif of["kind"] == "text":
        said.append(f"{of['different']:,} different: {', '.join(printable(cell[:20]) for cell in of['first'])}")
    if of["unknown"] and of["kind"] != "empty":
        said.append(f"{of['unknown']:,} unknown")
    if of.get("season"):
        said.append(f"season {of['season']}")
    return "; ".join(said)


def _commands(file: Path, found: Findings, time: str | None, dialect: Dialect) -> list[str]:
    """How to train on the table."""
    options = [part for name, value in dialect.said().items() for one in ([value] if isinstance(value, str) else value)
               for part in (f"--{name}", one)]  # fmt: skip
    options += ["--time", time] if time else []
    begin = ["bptt", "train", str(file), "-o", f"runs/{file.name.split('.')[0]}"]
    asked = [["--label", label, "--sequence", sequence] for label, sequence in found.labels]
    if found.columns is not None:
        counting = {of["name"] for of in found.fields if of.get("counts")}
        likely = [
            name for place, name in enumerate(found.columns.names)
            if name not in counting and not found.columns.is_same_within(place)
        ]  # fmt: skip
        several = ["--series", ",".join(found.columns.keys)] if found.columns.keys else []
        asked = [["--target", name, *several] for name in likely[:1]] + asked
    return [shlex.join([*begin, *one, *options]) for one in asked]


def _facts(source: table.Table, found: Findings, assumed: list[str], commands: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "source": source.source, "rows": len(source), "columns": len(source.columns), "assumed": assumed,
        "time": None, "fields": found.fields, "odd": found.odd, "commands": commands,
    }  # fmt: skip
    if found.no_time:
        facts["time"] = {"error": found.no_time}
    elif found.columns is not None:
        lines = [one.timeline for one in found.columns.series]
        line, spacing = lines[0], found.columns.spacing
        facts["series"] = {"columns": list(found.columns.keys), "count": len(lines)}
        facts["time"] = {
            "column": line.column, "first": line.label(min(of.times[0] for of in lines)),
            "last": line.label(max(of.times[-1] for of in lines)), "spacing": str(spacing), "even": spacing.even,
            "gaps": sum(len(of.gaps()) for of in lines), "order": line.order,
        }  # fmt: skip
    return facts
