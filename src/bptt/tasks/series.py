"""Series: forecasts of the next steps of columns of a table, compared with those of simple rules.

A table holds one series, or several, whose rows the cells of a column or more tell apart: one model learns from all.
The steps of each are divided in the order of time into three parts. Scaling, rules and network are fitted to the
training part alone. The validation part chooses among the rules, and among the weights of all epochs and of the
untrained network. The test part is read once, by `backtest`. Each batch holds windows of the training part, in a new
random order in every epoch, and the network forecasts from every step of a window after its first quarter. An epoch is
a pass over all windows, or over as many, drawn anew each time, as `STEPS_PER_EPOCH` batches hold.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bptt import train
from bptt.errors import InputError
from bptt.sheet.losses import loss as loss_of
from bptt.tasks import coding, columns, forecaster, network, seasons, table, timeline
from bptt.tasks.coding import Coding
from bptt.tasks.columns import Columns, Name, One
from bptt.tasks.forecaster import Forecaster, Panel
from bptt.tasks.table import Table
from bptt.train import Measure

UNITS, SHORT = (16, 32), 400  # hidden units for a training part of fewer steps, and of more
LEAST = 8  # the training part has at least so many steps and one horizon
MOST_AHEAD = 10_000  # steps of a forecast
STEPS_PER_EPOCH = 100  # at most, so that evaluations are frequent enough
MOST_VALIDATION_ORIGINS = 4000  # the network is evaluated at no more than so many steps of the validation part
FOUND = ("season", "further", "window", "base", "anchor", "lags", "gaps", "parts")  # of `Series.about`, in the table
MOST_ASKED = 40  # series of many that are asked for their season


@dataclass(frozen=True)
class Recipe(network.Recipe):
    """Everything that decides a training besides the table and its columns.

    horizon             steps to forecast at once
    window              steps the network reads before it forecasts; None: two seasons, at least 32
    season              steps of a season, or of several, of which the rule has the first; None: found
    base                the rule that the network corrects: "linear", "last", "season", "none", or "auto", the best
    hidden              None: 16 units, for longer series 32
    batch               windows side by side
    epochs              passes over the windows, of `STEPS_PER_EPOCH` batches at most
    validation, test    shares of the steps, at the end of the series
    """

    horizon: int = 1
    window: int | None = None
    season: int | tuple[int, ...] | None = None
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
        train.require_whole("window", self.window, optional=True, least=2)
        if isinstance(self.season, list | tuple):
            object.__setattr__(self, "season", tuple(self.season))
        for season in self.season if isinstance(self.season, tuple) else (self.season,):
            train.require_whole("season", season, optional=self.season is None, least=2)
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

    columns     the columns that are read; `assumed` says what was taken for granted of them, a line each
    series      the series that are learnt from; `left_out`: the others of several, each with the reason
    parts       the three parts of each
    panel       the series with all three parts; `known`: without the test part
    season      steps of a season, or None; `season_reason` says why; `further`: steps of further seasons
    fitted      a forecaster with base and linear rule fitted, and its network untrained
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
        series: Sequence[str] = (),
        codings: Sequence[Coding] | None = None,
    ) -> None:
        """series: the columns that tell the rows of several series apart; codings: how inputs are read, if known.

        Raises InputError for columns that cannot be used and series too short for the recipe.
        """
        self.source, self.sha256 = data.source, data.sha256
        self.rank, self.workers = 0, 1
        self._order: tuple[int, Tensor] | None = None
        self.columns = columns.read(data, targets, inputs, time, series, codings)
        self.dialect, self.assumed = data.dialect, data.assumed([*targets, *coding.numeric(self.columns.codings)])
        self.series, self.parts, self.left_out = self._usable(data, recipe)
        self.size = sum(of.steps for of in self.parts)
        train = torch.tensor([of.train for of in self.parts])
        self.recipe = recipe = replace(recipe, hidden=recipe.hidden or UNITS[int(train.sum()) >= SHORT])
        longest = sorted(zip(self.series, train.tolist(), strict=True), key=lambda one: -one[1])[:MOST_ASKED]
        asked = [column.numpy() for one, steps in longest for column in one.values[:steps, : len(targets)].mT]
        self.season, self.further, self.season_reason = seasons.find(asked, recipe.season, self.columns.spacing)
        if recipe.base == "season" and self.season is None:
            raise InputError(
                f"The base 'season' needs a season, and none was found: {self.season_reason}. Say how many steps it "
                "has, --season, or take another base."
            )
        self.window = _window(recipe.window, self.season, int(train.median()), recipe.horizon)
        values = [one.values[: one.known] for one in self.series]
        parts = [of[:steps] for of, steps in zip(values, train.tolist(), strict=True)]
        mean, sd = map(torch.stack, zip(*map(forecaster.scales, parts), strict=True))
        for column in self.columns.static:
            mean[:, column], sd[:, column] = forecaster.scales(torch.cat(parts)[:, column])
        self.panel = Panel(torch.cat(values), torch.tensor([len(of) for of in values]), mean, sd)
        self.known = self.panel.cut(torch.tensor([of.known for of in self.parts]))
        self.fitted, self.errors = forecaster.fit(
            self.known,
            train,
            targets=len(targets),
            horizon=recipe.horizon,
            window=self.window,
            season=self.season,
            further=self.further,
            base=recipe.base,  # type: ignore[arg-type]
        )
        self._lay_out(train)

    def _usable(self, data: Table, recipe: Recipe) -> tuple[list[One], list[Parts], list[tuple[One, InputError]]]:
        """The series that can be learnt from, their parts, and the others of several, each with its flaw."""
        usable, parts, left_out = [], [], []
        for one in self.columns.series:
            try:
                of = part(one.known, recipe)
                self._require_something_to_judge_by(data, one, of)
                self._require_something_to_learn(one.values[: of.train])
            except InputError as flaw:
                if not self.columns.keys:
                    raise
                left_out.append((one, flaw))
            else:
                usable.append(one)
                parts.append(of)
        if not usable:
            one, flaw = max(left_out, key=lambda left: left[0].known)
            raise InputError(f"None of the {len(left_out):,} series can be learnt from. Of {one}, the longest: {flaw}")
        return usable, parts, left_out

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

    def _require_something_to_judge_by(self, data: Table, one: One, parts: Parts) -> None:
        line = one.timeline
        for part, purpose, first, end, share in (
            ("validation", "chooses base and weights", parts.train, parts.known, "--validation"),
            ("test", "says how good forecasts are", parts.known, parts.steps, "--test (0: no test part)"),
        ):
            rows = np.flatnonzero((first <= line.places) & (line.places < end))
            edges = [data.place(int(one.rows[row])) for row in rows[[0, -1]]] if len(rows) else []
            where = " to ".join(edges) or "no row"
            for name, column in zip(self.columns.names[: self.columns.targets], one.values.mT, strict=False):
                if end > first and column[first:end].isnan().all():
                    raise InputError(
                        f"A target must be known somewhere in the {part} part, which {purpose}; {name!r} is missing in "
                        f"all of its {end - first:,} steps, {line.label(line.times[first])} to "
                        f"{line.label(line.times[end - 1])} ({where} of {self.source}). Nothing is left to judge by: "
                        f"fill in what is known, end the table before the gap, or make the part larger with {share}."
                    )

    def _lay_out(self, train: Tensor) -> None:
        """Computes the inputs of the network, its targets, and the ends of its windows, all of the known parts."""
        panel, horizon, targets = self.known, self.recipe.horizon, self.columns.targets
        every, training = torch.arange(len(panel)), train[panel.number]
        place = every - panel.begin
        self.u = self.fitted.channels(panel)
        rule, left_over = self.fitted.rule(panel, every), self.fitted.left_over
        self.rest = ((panel.following(targets, horizon) - rule) / left_over).float()
        self.wanted = ((panel.following(targets, horizon, panel.begin + training) - rule) / left_over).float()
        self.wanted[place < self.fitted.blind] = math.nan
        self.warm_up = self.window // 4
        before = torch.cat((torch.zeros(1, dtype=torch.bool), (~self.wanted.isnan()).any(1))).long().cumsum(0)
        ends = every[(place < training) & (place + 1 >= training.clamp_max(self.window))]
        self.ends = ends[before[ends + 1] > before[panel.before(ends, self.window - self.warm_up - 1)]]
        if not len(self.ends):
            raise InputError(
                f"The training part must hold a window with something to forecast; its {int(train.max()):,} steps have "
                f"none for windows of {self.window} steps, a horizon of {horizon} and the base {self.fitted.base!r}. "
                "Give a longer series, or a shorter --window or --season."
            )
        origins = every[(place >= training - 1) & (every < panel.end - horizon)]
        origins = origins[(~self.rest[origins].isnan()).any(1)]
        if len(origins) > MOST_VALIDATION_ORIGINS:
            # Drawn at random, since an even spacing could meet one phase of the season alone.
            drawn = torch.randperm(len(origins), generator=torch.Generator().manual_seed(0))[:MOST_VALIDATION_ORIGINS]
            origins = origins[drawn.sort().values]
        self.validation_origins = origins
        self.base_leaves = forecaster.mean_square(self.rest[origins].double())

    @property
    def origins(self) -> Tensor:
        """The steps (n) of the panel to forecast from in the test parts; none where there are none."""
        known, every = self.known.lengths[self.panel.number], torch.arange(len(self.panel))
        in_test = (every - self.panel.begin >= known - 1) & (known < self.panel.lengths[self.panel.number])
        return every[in_test & (every < self.panel.end - self.recipe.horizon)]

    @classmethod
    def again(cls, about: Mapping[str, Any], recipe: Recipe, source: str) -> "Series":
        task = cls(
            table.read(source, table.Dialect.of(about)), recipe, about["targets"], about["inputs"], *_as_before(about)
        )
        found = task.about()
        if others := [name for name in FOUND if found[name] != about.get(name, [])]:
            before, now = (", ".join(f"{name} {of.get(name, [])}" for name in others) for of in (about, found))
            raise InputError(
                f"A resumed training goes on as it began, with {before}; this version of bptt finds {now} in {source}. "
                "Start a new run in another directory with -o."
            )
        return task

    def about(self) -> dict[str, Any]:
        return {
            "targets": list(self.columns.names[: self.columns.targets]),
            "inputs": [column for column, _ in self.columns.codings],
            "codings": [list(one) for one in self.columns.codings],
            "time": self.columns.time,
            "series": list(self.columns.keys),
            "names": [list(one.name) for one in self.series],
            "static": list(self.columns.static),
            "spacing": str(self.columns.spacing),
            "season": self.season,
            "further": self.further,
            "window": self.window,
            "base": self.fitted.base,
            "anchor": self.fitted.anchor,
            "lags": self.fitted.lags,
            "gaps": self.fitted.gaps,
            "parts": [sum(sizes) for sizes in zip(*map(astuple, self.parts), strict=True)],
            **self.dialect.said(),
        }

    @staticmethod
    def network(about: Mapping[str, Any], recipe: Recipe) -> Forecaster:
        return Forecaster(
            len(about["targets"]),
            len(coding.names_of(_as_before(about)[2])),
            recipe.horizon,
            about["window"],
            season=about["season"],
            further=about.get("further", []),
            base=about["base"],
            anchor=about["anchor"],
            lags=about["lags"],
            gaps=about["gaps"],
            series=len(about.get("names", [()])),
            layers=replace(recipe, hidden=recipe.hidden or UNITS[1]).recurrent_layers,
        )

    def prepare(self, model: Forecaster) -> None:
        model.copy_fitted(self.fitted)

    def __len__(self) -> int:
        return min(STEPS_PER_EPOCH, -(-len(self.ends) // self.recipe.batch))

    def loss(self, model: Forecaster, step: int, h: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
        chosen = self._chosen(step)
        own = chosen[self.rank :: self.workers]
        if not len(own):
            return torch.zeros(()), None, 0
        o, _ = model(self.u[self.known.windows(own, self.window)])
        wanted = self._wanted_in(own)
        known = (~self._wanted_in(chosen).isnan()).sum()
        L = loss_of("squared_error", o[self.warm_up :], wanted, 1 / known, skip_nan=True)
        return L, None, wanted[..., 0].numel()

    def _chosen(self, step: int) -> Tensor:
        """The ends of the windows of a batch."""
        epoch, place = divmod(step, len(self))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self.ends[train.shuffled(len(self.ends), self.recipe.seed, epoch)]
        return self._order[1][place * self.recipe.batch :][: self.recipe.batch]

    def _wanted_in(self, ends: Tensor) -> Tensor:
        """The targets at the steps of windows after their first quarter, (T, B, ·); NaN before a series begins."""
        steps = ends - torch.arange(self.window - self.warm_up - 1, -1, -1)[:, None]
        return self.wanted[steps].where((steps >= self.known.begin[ends])[..., None], math.nan)

    def shard(self, rank: int, workers: int) -> "Series":
        part = copy.copy(self)
        part.rank, part.workers = rank, workers
        return part

    def evaluate(self, model: Forecaster) -> float:
        """Squared error in the validation part as a multiple of the base's; 1 where the base has none."""
        left = model.fit_trust(self.u, self.known, self.rest, self.validation_origins)
        return left / self.base_leaves if self.base_leaves else 1.0


def read_again(data: Table, about: Mapping[str, Any]) -> Columns:
    """The columns that a run was trained on, read from the same or another table.

    Raises InputError where the steps of another table are too few or have another spacing, and as `columns.read` does.
    """
    data.require([*about["targets"], *about["inputs"], *about.get("series", [])])
    found = columns.read(data, about["targets"], about["inputs"], *_as_before(about))
    if str(found.spacing) != about["spacing"]:
        raise InputError(
            f"The steps of a series must be as far apart as those trained on, {about['spacing']}; in {data.source} "
            f"they are {found.spacing}. Train on this series, or bring it to the same steps. Earlier versions "
            "of bptt call some steps otherwise: a run of theirs has to be trained anew."
        )
    found = replace(found, static=about.get("static", []))
    if not found.keys and found.series[0].known < about["window"]:
        raise InputError(
            f"A forecast reads the last {about['window']} steps; {data.source} has {found.series[0].known}. Give a "
            "longer series."
        )
    return found


def _as_before(about: Mapping[str, Any]) -> tuple[str, list[str], list[Coding]]:
    """Time, the columns that tell series apart, and how inputs are read; runs of earlier versions had numbers alone."""
    codings = about.get("codings", [[name, None] for name in about["inputs"]])
    return about["time"] or timeline.ROWS, about.get("series", []), coding.from_json(codings)


def forecast(
    model: Forecaster, found: Columns, steps: int, names: Sequence[Sequence[str]] = ((),)
) -> list[tuple[One, dict[str, dict[str, np.ndarray]]]]:
    """For each series, and each target, "forecast", "low" and "high" (steps) after the last known step.

    names   of the series that the model was trained on; others are scaled by what is known of them, and those with
            fewer than `LEAST` known values of a target are left out

    Beyond the horizon of the network, forecasts are fed back as values, and the band of its last step grows with the
    square root of the distance.

    Raises InputError where inputs must be known in advance and are not.
    """
    targets, moving, place = found.names[: found.targets], [], found.targets
    for one in found.codings:
        moving += [one.column] if set(range(place, place + len(one.names))) - set(found.static) else []
        place += len(one.names)
    places = {tuple(name): place for place, name in enumerate(names)}
    series = _scaled(found, places)
    ahead = [one.values[one.known :, found.targets :] for one in series]
    needed = model.horizon * ((steps - 1) // model.horizon)
    for one, known in zip(series, ahead, strict=True):
        if moving and len(known) < needed:
            most = model.horizon * (1 + len(known) // model.horizon)
            has = f"the table has {len(known)}" + (f" for {one}" if one.name else "")
            raise InputError(
                f"A forecast beyond the horizon of {model.horizon} must know the inputs ({', '.join(moving)}) in "
                f"advance; for {steps} steps it needs {needed} rows with inputs and empty targets at the end of the "
                f"series, and {has}. Add them, ask for at most {most} steps, or train without inputs."
            )
    known = _panel(model, series, places, found.static)
    says = model.onwards(known, steps, ahead)
    place = torch.arange(steps)
    wider = ((place + 1) / model.horizon).clamp_min(1).sqrt()[:, None]
    band = model.band.view(model.horizon, -1)[place.clamp_max(model.horizon - 1)] * wider
    result = []
    for one, said, sd in zip(series, says, known.sd[:, : found.targets], strict=True):
        parts = {"forecast": said, "low": said - band * sd, "high": said + band * sd}
        result.append(
            (one, {name: {key: of[:, k].numpy() for key, of in parts.items()} for k, name in enumerate(targets)})
        )
    return result


def loss_of_windows(model: Forecaster, found: Columns, names: Sequence[Sequence[str]], batch: int) -> Tensor:
    """The loss, as in a training, of one batch of windows spread over all that have something to forecast.

    names: as for `forecast`. Raises InputError where there is no such window, or no series can be scaled.
    """
    places = {tuple(name): place for place, name in enumerate(names)}
    panel = _panel(model, _scaled(found, places), places, found.static)
    every, window, warm_up = torch.arange(len(panel)), model.window, model.window // 4
    rest = (panel.following(model.targets, model.horizon) - model.rule(panel, every)) / model.left_over
    rest[every - panel.begin < model.blind] = math.nan
    before = torch.cat((torch.zeros(1, dtype=torch.bool), (~rest.isnan()).any(1))).long().cumsum(0)
    ends = every[every - panel.begin + 1 >= window]
    ends = ends[before[ends + 1] > before[ends + 1 - (window - warm_up)]]
    if not len(ends):
        raise InputError(
            f"There must be a window of {window} steps with known ones to forecast; this table has none. Give a longer "
            "series."
        )
    ends = ends[torch.linspace(0, len(ends) - 1, min(batch, len(ends))).long()]
    windows = panel.windows(ends, window)
    o, _ = model(model.channels(panel)[windows])
    wanted = rest[windows[warm_up:]].float()
    return loss_of("squared_error", o[warm_up:], wanted, 1 / (~wanted.isnan()).sum(), skip_nan=True)


def _scaled(found: Columns, places: Mapping[Name, int]) -> list[One]:
    """The series that have a scale: those trained on, and those of which enough is known."""
    series = [one for one in found.series if one.known and (one.name in places or _known(one, found.targets) >= LEAST)]
    if not series:
        raise InputError(
            f"A series that the run was not trained on must have at least {LEAST} known values of each target; none of "
            f"the {len(found.series):,} has, and none is of those trained on. Give longer series, or name them as then."
        )
    return series


def _panel(model: Forecaster, series: Sequence[One], places: Mapping[Name, int], static: Sequence[int]) -> Panel:
    """The known steps of some series, those that were not trained on scaled by what is known of them."""
    values = [one.values[: one.known] for one in series]
    panel = model.panel(values, [places.get(one.name, 0) for one in series])
    for place, (one, of) in enumerate(zip(series, values, strict=True)):
        if one.name not in places:
            own = [column for column in range(of.shape[1]) if column not in static]
            panel.mean[place, own], panel.sd[place, own] = (scale[own] for scale in forecaster.scales(of))
    return panel


def _known(one: One, targets: int) -> int:
    """The number of known values of the target that has the fewest."""
    return int((~one.values[: one.known, :targets].isnan()).sum(0).min())


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
