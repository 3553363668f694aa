"""Series: forecasts of the next steps of columns of a table, compared with those of simple rules.

The steps are divided in the order of time into three parts. Scaling, rules and network are fitted to the training part
alone. The validation part chooses among the rules, and among the weights of all epochs and of the untrained network.
The test part is read once, by `backtest`. Each batch holds windows of the training part, in a new random order in every
epoch, and the network forecasts from every step of a window after its first quarter. An epoch is a pass over all
windows, or over as many, drawn anew each time, as `STEPS_PER_EPOCH` batches hold.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bptt import train
from bptt.errors import InputError
from bptt.sheet.losses import loss as loss_of
from bptt.tasks import forecaster, network, table, timeline
from bptt.tasks.forecaster import Forecaster
from bptt.tasks.spacing import Spacing
from bptt.tasks.table import Table
from bptt.train import Measure

UNITS, SHORT = (16, 32), 400  # hidden units for a training part of fewer steps, and of more
LEAST = 8  # the training part has at least so many steps and one horizon
MOST_AHEAD = 10_000  # steps of a forecast
STEPS_PER_EPOCH = 100  # at most, so that evaluations are frequent enough
OF_CALENDAR, OF_ANY = 0.6, 1.4  # how sure a season of the calendar must be, and one of many lags
CLEARLY = 0.75  # what is left by a season that explains clearly more
MOST_VALIDATION_ORIGINS = 4000  # the network is evaluated at no more than so many steps of the validation part
FOUND = ("season", "window", "base", "anchor", "lags", "gaps", "parts")  # of `Series.about`, in the table


@dataclass(frozen=True)
class Recipe(network.Recipe):
    """Everything that decides a training besides the table and its columns.

    horizon             steps to forecast at once
    window              steps the network reads before it forecasts; None: two seasons, at least 32
    season              steps of a season; None: found
    base                the rule that the network corrects: "linear", "last", "season", "none", or "auto", the best
    hidden              None: 16 units, for longer series 32
    batch               windows side by side
    epochs              passes over the windows, of `STEPS_PER_EPOCH` batches at most
    validation, test    shares of the steps, at the end of the series
    """

    horizon: int = 1
    window: int | None = None
    season: int | None = None
    base: str = "auto"
    hidden: int | None = None
    batch: int = 32
    validation: float = 0.15
    test: float = 0.15
    epochs: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("horizon", "batch"):
            train.require_whole(name, getattr(self, name))
        train.require_whole("hidden", self.hidden, optional=True)
        for name in ("window", "season"):
            train.require_whole(name, getattr(self, name), optional=True, least=2)
        train.require_one_of("base", self.base, ("auto", *forecaster.BASES))
        for name in ("validation", "test"):
            train.require_share(name, getattr(self, name))
        if self.validation == 0:
            raise InputError("validation must be above 0: the validation part chooses base and weights.")
        if self.validation + self.test >= 0.9:
            raise InputError(
                "validation and test must leave something to train on: together less than 0.9 of the series; got "
                f"{self.validation:g} and {self.test:g}."
            )


@dataclass(frozen=True)
class Parts:
    """Number of steps of the three parts, in the order of time."""

    train: int
    validation: int
    test: int

    @property
    def known(self) -> int:
        """Steps before the test part."""
        return self.train + self.validation

    @property
    def steps(self) -> int:
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Columns:
    """Columns of a table on an even grid of time.

    names       targets first, then inputs; `targets` is the number of the former
    values      (N + future, C) float64, NaN where the value is not known
    timeline    of all steps
    time        its column, or several with commas between; `timeline.ROWS`: rows were given as even steps; None: no
                column was found
    known       N, the steps up to the last that has a target; later steps have inputs alone, known in advance
    unread      the table's other columns
    """

    names: Sequence[str]
    targets: int
    values: Tensor
    timeline: timeline.Timeline
    time: str | None
    known: int
    unread: Sequence[str]


def columns(data: Table, targets: Sequence[str], inputs: Sequence[str] = (), time: str | None = None) -> Columns:
    """Reads columns of a table; time as for `timeline.of`.

    Raises InputError for columns that do not exist, are named twice, hold no numbers or nothing at all, and for times
    that cannot be read or occur twice.
    """
    names = [*targets, *inputs]
    if not targets:
        raise InputError(f"A series needs a column to forecast, --target; the table has {data.listed()}.")
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"A column is a target or an input, once; {name!r} was named {names.count(name)} times. Targets are "
                "read by the network too: leave it out of the inputs."
            )
        if time not in (None, timeline.ROWS) and name in timeline.parts_of(data, time):
            raise InputError(f"The time column can be neither target nor input; got {name!r} as both.")
        data.column(name)
    line = timeline.of(data, time, taken=names)
    read = [data.numbers(name) for name in names]
    for name, column in zip(names, read, strict=True):
        if np.isnan(column).all():
            raise InputError(
                f"Column {name!r} must hold numbers; all {len(column):,} cells of {data.source} are empty or NaN. "
                "Name another."
            )
    values = torch.from_numpy(np.stack([line.on_grid(column) for column in read], 1))
    some = (~values[:, : len(targets)].isnan()).any(1)
    found = time if time == timeline.ROWS else line.column
    read_already = {*names, *timeline.parts_of(data, line.column or "")}
    unread = [name for name in data.columns if name not in read_already]
    return Columns(names, len(targets), values, line, found, int(some.nonzero()[-1]) + 1, unread)


def part(steps: int, recipe: Recipe) -> Parts:
    """The sizes of the parts. Raises InputError where the series is too short for the horizon."""
    found = _part(steps, recipe, recipe.horizon)
    if found is not None:
        return found
    longest = next((h for h in range(min(recipe.horizon, steps) - 1, 0, -1) if _part(steps, recipe, h)), 0)
    fix = f"Forecast at most {longest} at once, --horizon {longest}," if longest else "Give a longer series"
    fix += " or a longer series." if longest else "."
    parts = "training, validation and test part" if recipe.test else "training and validation part"
    raise InputError(
        f"The {parts} must each hold a horizon, the first {LEAST} steps more; the series has {steps:,} steps and the "
        f"horizon is {recipe.horizon:,}. {fix}"
    )


def _part(steps: int, recipe: Recipe, horizon: int) -> Parts | None:
    validation, test = (
        max(horizon, round(share * steps)) if share else 0 for share in (recipe.validation, recipe.test)
    )
    parts = Parts(steps - validation - test, validation, test)
    return parts if parts.train >= horizon + LEAST else None


class Series:
    """The task: columns of a table, and the recipe. See `bptt.train.Task`.

    columns     the columns that are read
    parts       the three parts
    season      steps of a season, or None; `season_reason` says why
    fitted      a forecaster with scaling, base and linear rule fitted, and its network untrained
    errors      root mean square error of each rule in the validation part, in standard deviations of the training part
    base_leaves mean square error of the base in the validation part, in units of its error in the training part
    """

    name: ClassVar[str] = "series"
    Recipe = Recipe
    items = "steps"
    measure = Measure("times the base's squared error", "of the base", "relative_squared_error")
    state = None
    evaluates_at_start = True  # the untrained network is the base, with a loss of 1 in each part

    def __init__(
        self,
        data: Table,
        recipe: Recipe,
        targets: Sequence[str],
        inputs: Sequence[str] = (),
        time: str | None = None,
    ) -> None:
        """Raises InputError for columns that cannot be used and series too short for the recipe."""
        self.recipe, self.source, self.sha256 = recipe, data.source, data.sha256
        self.rank, self.workers = 0, 1
        self._order: tuple[int, Tensor] | None = None
        self.columns = columns(data, targets, inputs, time)
        self.size = self.columns.known
        self.parts = part(self.size, recipe)
        if recipe.hidden is None:
            self.recipe = recipe = replace(recipe, hidden=UNITS[self.parts.train >= SHORT])
        self.values = self.columns.values[: self.size]
        self._require_something_to_judge_by(data)
        training = self.values[: self.parts.train]
        self._require_something_to_learn(training)
        self.season, self.season_reason = _season(
            training[:, : len(targets)], recipe.season, self.columns.timeline.spacing
        )
        if recipe.base == "season" and self.season is None:
            raise InputError(
                f"The base 'season' needs a season, and none was found: {self.season_reason}. Say how many steps it "
                "has, --season, or take another base."
            )
        self.window = _window(recipe.window, self.season, self.parts.train, recipe.horizon)
        self.fitted, self.errors = forecaster.fit(
            self.values,
            self.parts.train,
            self.parts.validation,
            targets=len(targets),
            horizon=recipe.horizon,
            window=self.window,
            season=self.season,
            base=recipe.base,  # type: ignore[arg-type]
        )
        self._lay_out()

    def _require_something_to_learn(self, training: Tensor) -> None:
        for name, column in zip(self.columns.names[: self.columns.targets], training.mT, strict=False):
            known = column[~column.isnan()]
            if len(known) < LEAST:
                raise InputError(
                    f"A target must have at least {LEAST} known values in the training part; {name!r} has {len(known)} "
                    f"in the first {len(training):,} steps. Name another, or leave the empty rows out."
                )
            if (known == known[0]).all():
                raise InputError(
                    f"A target must vary in the training part; {name!r} is {float(known[0]):g} in all of its first "
                    f"{len(training):,} steps. There is nothing to learn; name another."
                )

    def _require_something_to_judge_by(self, data: Table) -> None:
        line, parts = self.columns.timeline, self.parts
        for part, purpose, first, end, share in (
            ("validation", "chooses base and weights", parts.train, parts.known, "--validation"),
            ("test", "says how good forecasts are", parts.known, self.size, "--test (0: no test part)"),
        ):
            rows = np.flatnonzero((first <= line.places) & (line.places < end))
            where = f"{data.place(rows[0])} to {data.place(rows[-1])}" if len(rows) else "no row"
            for name, column in zip(self.columns.names[: self.columns.targets], self.values.mT, strict=False):
                if end > first and column[first:end].isnan().all():
                    raise InputError(
                        f"A target must be known somewhere in the {part} part, which {purpose}; {name!r} is missing in "
                        f"all of its {end - first:,} steps, {line.label(line.times[first])} to "
                        f"{line.label(line.times[end - 1])} ({where} of {self.source}). Nothing is left to judge by: "
                        f"fill in what is known, end the table before the gap, or make the part larger with {share}."
                    )

    def _lay_out(self) -> None:
        """Computes the inputs of the network, its targets, and the starts of its windows."""
        train, known = self.parts.train, self.parts.known
        values = self.values[:known]
        s = self.fitted.scaled(values)
        self.u = self.fitted.channels(values, s)
        rule = self.fitted.rule(s, torch.arange(known))
        self.rest = ((self.fitted.following(values) - rule) / self.fitted.left_over).float()
        self.wanted = ((self.fitted.following(values[:train]) - rule[:train]) / self.fitted.left_over).float()
        self.wanted[: self.fitted.blind] = math.nan
        self.warm_up = self.window // 4
        before = torch.cat((torch.zeros(1, dtype=torch.bool), (~self.wanted.isnan()).any(1))).long().cumsum(0)
        starts = torch.arange(train - self.window + 1)
        self.starts = starts[before[starts + self.window] > before[starts + self.warm_up]]
        if not len(self.starts):
            raise InputError(
                f"The training part must hold a window with something to forecast; its {train:,} steps have none for "
                f"windows of {self.window} steps, a horizon of {self.recipe.horizon} and the base "
                f"{self.fitted.base!r}. Give a longer series, or a shorter --window or --season."
            )
        origins = torch.arange(train - 1, known - self.recipe.horizon)
        origins = origins[(~self.rest[origins].isnan()).any(1)]
        if len(origins) > MOST_VALIDATION_ORIGINS:
            # Drawn at random, since an even spacing could meet one phase of the season alone.
            drawn = torch.randperm(len(origins), generator=torch.Generator().manual_seed(0))[:MOST_VALIDATION_ORIGINS]
            origins = origins[drawn.sort().values]
        self.validation_origins = origins
        self.base_leaves = forecaster.mean_square(self.rest[origins].double())

    @property
    def origins(self) -> Tensor:
        """The steps (n) to forecast from in the test part; none where there is no test part."""
        first = self.parts.known - 1
        return torch.arange(first, self.size - self.recipe.horizon if self.parts.test else first)

    @classmethod
    def again(cls, about: Mapping[str, Any], recipe: Recipe, source: str) -> "Series":
        task = cls(table.read(source), recipe, about["targets"], about["inputs"], about["time"] or timeline.ROWS)
        found = task.about()
        if others := [name for name in FOUND if found[name] != about[name]]:
            before, now = (", ".join(f"{name} {of[name]}" for name in others) for of in (about, found))
            raise InputError(
                f"A resumed training goes on as it began, with {before}; this version of bptt finds {now} in {source}. "
                "Start a new run in another directory with -o."
            )
        return task

    def about(self) -> dict[str, Any]:
        names, targets = list(self.columns.names), self.columns.targets
        return {
            "targets": names[:targets],
            "inputs": names[targets:],
            "time": self.columns.time,
            "spacing": str(self.columns.timeline.spacing),
            "season": self.season,
            "window": self.window,
            "base": self.fitted.base,
            "anchor": self.fitted.anchor,
            "lags": self.fitted.lags,
            "gaps": self.fitted.gaps,
            "parts": [self.parts.train, self.parts.validation, self.parts.test],
        }

    @staticmethod
    def network(about: Mapping[str, Any], recipe: Recipe) -> Forecaster:
        return Forecaster(
            len(about["targets"]),
            len(about["inputs"]),
            recipe.horizon,
            about["window"],
            season=about["season"],
            base=about["base"],
            anchor=about["anchor"],
            lags=about["lags"],
            gaps=about["gaps"],
            layers=replace(recipe, hidden=recipe.hidden or UNITS[1]).recurrent_layers,
        )

    def prepare(self, model: Forecaster) -> None:
        model.copy_fitted(self.fitted)

    def __len__(self) -> int:
        return min(STEPS_PER_EPOCH, -(-len(self.starts) // self.recipe.batch))

    def loss(self, model: Forecaster, step: int, h: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
        chosen = self._chosen(step)
        own = chosen[self.rank :: self.workers]
        if not len(own):
            return torch.zeros(()), None, 0
        o, _ = model(self.u[own + torch.arange(self.window)[:, None]])
        wanted = self._wanted_in(own)
        known = (~self._wanted_in(chosen).isnan()).sum()
        L = loss_of("squared_error", o[self.warm_up :], wanted, 1 / known, skip_nan=True)
        return L, None, wanted[..., 0].numel()

    def _chosen(self, step: int) -> Tensor:
        """The starts of the windows of a batch."""
        epoch, place = divmod(step, len(self))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self.starts[train.shuffled(len(self.starts), self.recipe.seed, epoch)]
        return self._order[1][place * self.recipe.batch :][: self.recipe.batch]

    def _wanted_in(self, starts: Tensor) -> Tensor:
        """The targets at the steps of windows after their first quarter, (T, B, ·)."""
        return self.wanted[starts + torch.arange(self.warm_up, self.window)[:, None]]

    def shard(self, rank: int, workers: int) -> "Series":
        part = copy.copy(self)
        part.rank, part.workers = rank, workers
        return part

    def evaluate(self, model: Forecaster) -> float:
        """Squared error in the validation part as a multiple of the base's; 1 where the base has none."""
        left = model.fit_trust(self.u, self.rest, self.validation_origins)
        return left / self.base_leaves if self.base_leaves else 1.0


def read_again(data: Table, about: Mapping[str, Any]) -> Columns:
    """The columns that a run was trained on, read from the same or another table.

    Raises InputError where the steps of another table are too few or have another spacing, and as `columns` does.
    """
    found = columns(data, about["targets"], about["inputs"], about["time"] or timeline.ROWS)
    if str(found.timeline.spacing) != about["spacing"]:
        raise InputError(
            f"The steps of a series must be as far apart as those trained on, {about['spacing']}; in {data.source} "
            f"they are {found.timeline.spacing}. Train on this series, or bring it to the same steps. Earlier versions "
            "of bptt call some steps otherwise: a run of theirs has to be trained anew."
        )
    if found.known < about["window"]:
        raise InputError(
            f"A forecast reads the last {about['window']} steps; {data.source} has {found.known}. Give a longer series."
        )
    return found


def forecast(model: Forecaster, found: Columns, steps: int) -> dict[str, dict[str, np.ndarray]]:
    """For each target "forecast", "low" and "high" (steps) after the last known step.

    Beyond the horizon of the network, forecasts are fed back as values, and the band of its last step grows with the
    square root of the distance.

    Raises InputError where inputs must be known in advance and are not.
    """
    inputs = list(found.names[found.targets :])
    ahead = found.values[found.known :, found.targets :]
    needed = model.horizon * ((steps - 1) // model.horizon)
    if inputs and len(ahead) < needed:
        most = model.horizon * (1 + len(ahead) // model.horizon)
        raise InputError(
            f"A forecast beyond the horizon of {model.horizon} must know the inputs ({', '.join(inputs)}) in advance; "
            f"for {steps} steps it needs {needed} rows with inputs and empty targets at the end of the table, which "
            f"has {len(ahead)}. Add them, ask for at most {most} steps, or train without inputs."
        )
    says = model.onwards(found.values[: found.known], steps, ahead)
    of_step = (model.band * model.sd[: found.targets].repeat(model.horizon)).view(model.horizon, -1)
    place = torch.arange(steps)
    wider = ((place + 1) / model.horizon).clamp_min(1).sqrt()
    band = of_step[place.clamp_max(model.horizon - 1)] * wider[:, None]
    result = {}
    for said, width, name in zip(says.mT, band.mT, found.names[: found.targets], strict=True):
        parts = {"forecast": said, "low": said - width, "high": said + width}
        result[name] = {key: value.numpy() for key, value in parts.items()}
    return result


def _window(wanted: int | None, season: int | None, train: int, horizon: int) -> int:
    most = train - horizon
    if wanted is not None:
        if wanted > most:
            raise InputError(
                f"A window and a horizon must fit into the training part; --window {wanted} and --horizon {horizon} do "
                f"not fit into its {train:,} steps. Use --window {most} or less, or give a longer series."
            )
        return wanted
    return max(4, min(max(32, 2 * (season or 0)), train // 3, most))


def _season(training: Tensor, given: int | None, spacing: Spacing) -> tuple[int | None, str]:
    """The season of targets (N, K), or None, and the reason.

    Those of the calendar come first: of several, the one whose value a season before is clearly the nearest. Else it is
    the shortest that explains the targets, of the likeliest of 2 to 4 steps, of 5 to 8, of 9 to 16, and so on.
    """
    n = len(training)
    if given is not None:
        if given > n // 2:
            raise InputError(
                f"A season must fit twice into the training part; --season {given} does not into its {n:,} steps. "
                "Give a longer series or leave --season out."
            )
        return given, "as given"
    columns = [_without_line(column) for column in training.numpy().T]
    found: list[float] = []
    left = columns
    for season in spacing.seasons:
        if round(season) <= n // 2 and _Likeness(left, season).sure(season) > OF_CALENDAR:
            found.append(season)
            left = [_without_season(column, round(season)) for column in left]
            if all(_mean(rest**2) < 1e-6 * _mean(y**2) for rest, y in zip(left, columns, strict=True)):
                break
    if found:
        best = found[0]
        for season in found[1:]:
            r = _Likeness(columns, season).r
            if 1 - r[round(season)] < CLEARLY * (1 - r[round(best)]):
                best = season
        others = " and ".join(f"{season:,.7g}" for season in found if season != best)
        beside = f"; it repeats itself every {others} steps too, which is no input of its own" if others else ""
        return round(best), f"the calendar's, {_at(columns, best)}{beside}"
    chosen, longest = None, 4
    while longest // 2 < n // 3:
        lags = range(2 if longest == 4 else longest // 2 + 1, min(longest, n // 3) + 1)
        lag = max(lags, key=_Likeness(columns, lags[-1]).sure)
        near = range(max(2, lag - lag // 10), min(lag + lag // 10, n // 3) + 1)
        lag = max(near, key=_Likeness(columns, lag).of)
        if _Likeness(columns, lag).sure(lag) > OF_ANY and (chosen is None or _explains(columns, chosen, lag)):
            chosen = lag
        longest *= 2
    return (chosen, _at(columns, chosen)) if chosen else (None, "the training part does not repeat itself")


class _Likeness:
    """How alike columns are to themselves some steps later: their mean autocorrelation, over pairs of known values. Its
    estimate divides by the number of pairs at each lag and by the variance of all; where that of few pairs leaves
    [-1, 1], the nearer end stands for it.

    The mean of the season around each step is taken away first: of a drift, no lag would be the best. At both ends the
    columns are taken to go on as one season before or after, in the direction that they have there.
    """

    def __init__(self, columns: Sequence[np.ndarray], season: float) -> None:
        season, n = round(season), len(columns[0])
        half, self.r, self.pairs = season // 2, np.zeros(n), np.zeros(n)
        for y in columns:
            before, after = (_mean(y[at : at + season]) - _mean(y[at - season : at]) for at in (season, n - season))
            longer = np.concatenate((y[season - half : season] - before, y, y[n - season : n - season + half] + after))
            around = _sums(np.nan_to_num(longer), season) / np.maximum(_sums(~np.isnan(longer), season), 1)
            left = y - around
            known = ~np.isnan(left)
            pairs = np.maximum(_products(known.astype(float)), 1)
            covariance = _products(np.where(known, left - _mean(left), 0)) / pairs
            self.r += covariance / max(covariance[0], 1e-300) / len(columns)
            self.pairs += pairs / len(columns)
        self.r = self.r.clip(-1, 1)
        self._chance = 1 + 2 * np.append(0, (self.r[1:] ** 2).cumsum())

    def of(self, season: float) -> float:
        """The autocorrelation at a season and its multiples."""
        at = self._multiples(season)
        return float((self.r[at] * self.pairs[at]).sum() / self.pairs[at].sum())

    def sure(self, season: float) -> float:
        """The same times its multiple of what chance would make of values that resemble their neighbours so."""
        chance = self._chance[max(1, int(season / 2) - 1)] / self.pairs[self._multiples(season)].sum()
        return max(self.of(season), 0) ** 2 / math.sqrt(chance)

    def _multiples(self, season: float) -> np.ndarray:
        many = np.arange(1, int((len(self.r) - 1) / season) + 1)
        return np.rint(many * season).astype(int)


def _explains(columns: Sequence[np.ndarray], season: float, longer: float) -> bool:
    """Whether a longer season explains clearly more."""
    like = _Likeness(columns, longer)
    less, more = like.of(season), like.of(longer)
    chance = 3 / math.sqrt(like.pairs[like._multiples(longer)].sum())
    return more > less + chance and 1 - more < CLEARLY * (1 - less)


def _at(columns: Sequence[np.ndarray], season: float) -> str:
    return f"autocorrelation {_Likeness(columns, season).of(season):.2f} in the training part"


def _without_line(y: np.ndarray) -> np.ndarray:
    place, known = np.arange(len(y)), ~np.isnan(y)
    return y - np.polyval(np.polyfit(place[known], y[known], 1), place)


def _without_season(y: np.ndarray, season: int) -> np.ndarray:
    """y without the mean of each of the season's places."""
    known, place = ~np.isnan(y), np.arange(len(y)) % season
    sums = np.bincount(place[known], y[known], season)
    return y - (sums / np.maximum(np.bincount(place[known], minlength=season), 1))[place]


def _mean(y: np.ndarray) -> float:
    known = y[~np.isnan(y)]
    return float(known.mean()) if len(known) else 0.0


def _sums(y: np.ndarray, width: int) -> np.ndarray:
    """The sum around each place, whose ends count half where the width is even."""
    total = np.append(0, y.cumsum(dtype=float))
    sums = total[width:] - total[:-width]
    return sums if width % 2 else (sums[1:] + sums[:-1]) / 2


def _products(y: np.ndarray) -> np.ndarray:
    """The sum of the products of values at each distance (N)."""
    size = 2 ** (2 * len(y) - 1).bit_length()
    spectrum = np.fft.rfft(y, size)
    return np.fft.irfft(spectrum * spectrum.conj(), size)[: len(y)]
