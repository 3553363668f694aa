"""What the results say: tables as Markdown, and one picture."""

import statistics
from pathlib import Path

from experiments.reach.grid import Results
from experiments.reach.remedies import REMEDIES
from experiments.reach.tasks import TASKS
from experiments.reach.training import Result

NOTE = """\
An entry is the number of updates until it was solved and the seconds these took, medians of the seeds that solved it;
"2/3" says how many did, where not all. Where none did: the share of wrong answers at the end, or "diverged". "·" was
not run: a seed that fails at one length is not tried at the next. Rate is the factor by which ∂L/∂h changes per step
back before training, 1 % the steps after which less than that is left, both at the shortest length; "all" is farther
than the sequence goes."""

Seeds = dict[tuple[str, int, str], list[Result]]
"""The results of all seeds by task, T and remedy."""


def tables(results: Results) -> str:
    """One for each task that there is anything of."""
    seeds_of = _by_seed(results)
    columns = _columns(seeds_of)
    tasks = dict.fromkeys(task for task, _ in columns)
    return "\n\n".join([*(_table(task, [T for of, T in columns if of == task], seeds_of) for task in tasks), NOTE])


def _by_seed(results: Results) -> Seeds:
    found: Seeds = {}
    for cell, result in results.items():
        found.setdefault((cell.task, cell.T, cell.remedy), []).append(result)
    return found


def _columns(seeds_of: Seeds) -> list[tuple[str, int]]:
    """Tasks and lengths that there is anything of."""
    there = {(task, T) for task, T, _ in seeds_of}
    return [(name, T) for name, task in TASKS.items() for T in task.lengths if (name, T) in there]


def _table(task: str, lengths: list[int], seeds_of: Seeds) -> str:
    rows = [["remedy", "rate", "1 %", *(f"T = {T}" for T in lengths)], ["---", *["--:"] * (2 + len(lengths))]]
    for remedy in REMEDIES:
        seeds = [seeds_of.get((task, T, remedy), []) for T in lengths]
        if any(seeds):
            rows.append([remedy, *_reach(next(filter(None, seeds))), *map(_entry, seeds)])
    return f"**{task}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _reach(seeds: list[Result]) -> tuple[str, str]:
    rates = [result.rate for result in seeds if result.rate is not None]
    if not rates:
        return "not finite", ""
    left = [result.steps_to_1_percent for result in seeds if result.rate is not None]
    within = [steps for steps in left if steps is not None]
    return f"{statistics.median(rates):.3f}", f"{statistics.median(within):.0f}" if 2 * len(within) > len(
        left
    ) else "all"


def _entry(seeds: list[Result]) -> str:
    if not seeds:
        return "·"
    solved = [result for result in seeds if result.solved is not None]
    if not solved:
        return _end(seeds)
    share = f"{len(solved)}/{len(seeds)}: " if len(solved) < len(seeds) else ""
    return f"{share}{_updates(solved):,.0f}, {statistics.median(result.seconds for result in solved):.0f} s"


def _end(seeds: list[Result]) -> str:
    if all(result.diverged for result in seeds):
        return "diverged"
    return f"{statistics.median(result.wrong for result in seeds):.0%} wrong"


def _updates(seeds: list[Result]) -> float:
    """The median of those that solved it."""
    return statistics.median(result.solved for result in seeds if result.solved is not None)


def picture(results: Results, path: Path) -> None:
    """Remedies by tasks and lengths: the updates until it was solved, and where no seed solved it.

    Raises OSError where the file cannot be written.
    """
    import matplotlib
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    seeds_of = _by_seed(results)
    columns = _columns(seeds_of)
    remedies = [remedy for remedy in REMEDIES if any(of == remedy for *_, of in seeds_of)]
    figure = Figure(figsize=(2.6 + 0.62 * len(columns), 1.6 + 0.3 * len(remedies)), layout="constrained")
    axes = figure.subplots()
    norm, colours = LogNorm(100, 10_000), matplotlib.colormaps["viridis_r"]
    for y, remedy in enumerate(remedies):
        for x, (task, T) in enumerate(columns):
            seeds = seeds_of.get((task, T, remedy), [])
            solved = [result for result in seeds if result.solved is not None]
            if not seeds:
                continue
            updates = _updates(solved) if solved else None
            colour = colours(norm(updates)) if updates else "#e4e4e4"
            axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour))
            text = _short(updates) + "*" * (len(solved) < len(seeds)) if updates else _end(seeds).replace(" wrong", "")
            dark = updates is not None and updates > 2_000
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(remedies) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), [f"T={T}" for _, T in columns], fontsize=7)
    axes.set_yticks(range(len(remedies)), remedies, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for task in dict.fromkeys(task for task, _ in columns):
        at = [x for x, (other, _) in enumerate(columns) if other == task]
        axes.text(statistics.mean(at), -0.75, task.replace(" ", "\n"), ha="center", va="bottom", fontsize=8)
        if at[0]:
            axes.axvline(at[0] - 0.5, color="#7d8590", lw=0.8)
    axes.set_xlabel(
        "coloured: updates until solved, median of the seeds that solved it (*: not all did)\n"
        "grey: no seed solved it, share of wrong answers; empty: not run", fontsize=8,
    )  # fmt: skip
    with matplotlib.rc_context({"svg.hashsalt": "bptt"}):
        figure.savefig(path, metadata={"Date": None})


def _short(updates: float) -> str:
    return f"{updates / 1000:.1f}k" if updates >= 1000 else f"{updates:.0f}"
