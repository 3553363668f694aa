"""One layer at one shape: every peer is checked against float64, then all that passed are timed in alternation."""

from typing import Any

from benchmarks.cases import MODES, TOLERANCE, Case, Mode, truth, worst_error
from benchmarks.measure import Effort, Entry, Timing, alternate
from benchmarks.team import OURS, Team
from benchmarks.worker import Worker, WorkerError

SMALLEST_FOOTPRINT = 1 << 20


def measure(team: Team, case: Case, effort: Effort, *, limits: bool = True) -> list[dict[str, Any]]:
    """One record for each mode and thread count. `limits` adds the machine's own products and bandwidth."""
    expected = truth(case)
    entries: dict[tuple[Any, ...], Entry] = {}
    errors: dict[tuple[Any, ...], float] = {}
    failures: dict[tuple[Any, ...], str] = {}
    for peer, threads, worker in team:
        for mode in MODES:
            key, request = (peer, mode, threads), ("prepare", case, mode)
            try:
                if not worker.prepare(request):
                    continue
                errors[key] = worst_error(worker.results(request), expected, case.results(mode))
            except WorkerError as error:
                failures[key] = str(error)
                continue
            if errors[key] > TOLERANCE:
                failures[key] = f"wrong by {errors[key]:.1e} of the largest entry"
                worker.release(request)
            else:
                entries[key] = Entry(worker, request)
    if limits:
        entries |= _machine(team, case)
    timings = alternate(entries, effort)
    for entry in entries.values():
        entry.worker.release(entry.request)
    failures |= {key: timing for key, timing in timings.items() if isinstance(timing, str)}
    times = {key: timing for key, timing in timings.items() if isinstance(timing, Timing)}
    counts = sorted({threads for _, threads, _ in team})
    return [_record(case, mode, threads, times, errors, failures) for mode in MODES for threads in counts]


def _machine(team: Team, case: Case) -> dict[tuple[Any, ...], Entry]:
    """The libraries' products at this case's sizes, and the bandwidth at its footprints."""
    wanted: list[tuple[tuple[Any, ...], Worker, tuple[Any, ...]]] = []
    for peer, threads, worker in team:
        if peer in ("torch", "onednn"):
            for sizes in case.products:
                wanted.append((("product", peer, sizes, threads), worker, ("prepare_product", *sizes)))
        if peer == "torch":
            for size in {_footprint(case, mode) for mode in MODES}:
                for way in ("copy", "read"):
                    wanted.append(((way, size, threads), worker, (f"prepare_{way}", size)))
    entries = {}
    for key, worker, request in wanted:
        worker.prepare(request)
        entries[key] = Entry(worker, request)
    return entries


def _footprint(case: Case, mode: Mode) -> int:
    return max(SMALLEST_FOOTPRINT, case.bytes(mode) // 8 * 8)


def _record(
    case: Case,
    mode: Mode,
    threads: int,
    times: dict[tuple[Any, ...], Timing],
    errors: dict[tuple[Any, ...], float],
    failures: dict[tuple[Any, ...], str],
) -> dict[str, Any]:
    def of_this(key: tuple[Any, ...]) -> bool:
        return key[1:] == (mode, threads)

    peers: dict[str, Any] = {key[0]: {"failed": text} for key, text in failures.items() if of_this(key)}
    for key, timing in times.items():
        if of_this(key):
            peers[key[0]] = {
                "ms": _digits(timing.median_s * 1e3),
                "quartiles_ms": [_digits(second * 1e3) for second in timing.quartiles_s],
                "calls": timing.calls,
                "cores": round(timing.cores, 2),
                "error": float(f"{errors[key]:.1e}"),
            }
    record: dict[str, Any] = {"kind": "layer", "case": str(case), "mode": mode, "threads": threads, "peers": peers}
    ours = peers.get(OURS, {}).get("ms")
    if ours:
        record["ratio"] = {
            peer: round(found["ms"] / ours, 3) for peer, found in peers.items() if peer != OURS and "ms" in found
        }
    product_rates = [
        (2 * m * k * n / timing.median_s, f"{key[1]} {m}x{k}x{n}")
        for key, timing in times.items()
        if key[0] == "product" and key[3] <= threads
        for m, k, n in [key[2]]
    ]
    bandwidths = [
        key[1] / timing.median_s
        for key, timing in times.items()
        if key[0] in ("copy", "read") and key[1] == _footprint(case, mode) and key[2] <= threads
    ]
    if product_rates and bandwidths:
        rate, product = max(product_rates)
        by_flops, by_bytes = case.flops(mode) / rate, case.bytes(mode) / max(bandwidths)
        limit = max(by_flops, by_bytes)
        record |= {
            "gemm_gflops": round(rate / 1e9, 1),
            "gemm": product,
            "bandwidth_gbytes": round(max(bandwidths) / 1e9, 1),
            "limit_ms": _digits(limit * 1e3),
            "limit_by": "flops" if by_flops >= by_bytes else "bytes",
        }
        if ours:
            record["share_of_limit"] = round(limit * 1e3 / ours, 3)
    return record


def _digits(number: float) -> float:
    return float(f"{number:.4g}")
