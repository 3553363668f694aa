"""Forecasts: a simple rule, the base, and a recurrent network that has learnt to correct it.

At every step t the series is known up to t, and the next `horizon` steps of all targets are forecast at once:

    forecast = base + trust · left over · network

All columns of a series are scaled by the mean and standard deviation of its training part. Several series share one
base and one network. The base is one of

    none     the mean
    last     the last value, repeated
    season   the value one season before
    linear   one of these, the anchor, plus a linear function of the last values of all columns; where the series has
             several seasons, the anchor may also be the blend of the last value and of those one season before each
             that fits the training part best, for each output its own

The network, a `Network` of any cell with squared error, reads the last `window` steps from the zero state: of each
column the value, its change since the step before, and, if the training part has gaps, whether it is known; of each
target its change in each season, and how far the value that came next one season ago is from the present one. Inputs
outside the range of the training part are clipped to it, so that a trend never takes the network to inputs it has not
seen. Its outputs are in units of the base's error in the training part ("left over") and are zero at first: an
untrained network is the base.
`trust`, between 0 and 1, is the factor of each output that fits the validation part best.

Unknown values of a column are replaced by its last known value.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from bptt.nn import RNN, Network
from bptt.nn.layers import Layers

Base = Literal["none", "last", "season", "linear"]
BASES: tuple[Base, ...] = get_args(Base)
Anchor = Literal["none", "last", "season", "blend"]

PENALTIES = tuple(10.0**power for power in range(-6, 4))  # in units of the mean variance of the rule's inputs
BLOCK = 1 << 14  # steps of which the linear rule's inputs are in memory at a time
MOST_WEIGHTS = 512  # of the linear rule, for each of its outputs
WINDOWS = 512  # windows side by side in an evaluation
BAND = 0.8


@dataclass(frozen=True)
class Panel:
    """Series of the same columns, one after another: N steps of S series.

    values     (N, C) float64, the targets first, NaN where a value is not known
    lengths    (S) steps of each series
    mean, sd   (S, C) by which each series is scaled
    """

    values: Tensor
    lengths: Tensor
    mean: Tensor
    sd: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def number(self) -> Tensor:
        """The number of the series of each step (N)."""
        return torch.arange(len(self.lengths)).repeat_interleave(self.lengths)

    @cached_property
    def begin(self) -> Tensor:
        """The first step of the series of each step (N)."""
        return (self.lengths.cumsum(0) - self.lengths)[self.number]

    @cached_property
    def end(self) -> Tensor:
        """The step after the last of the series of each step (N)."""
        return self.lengths.cumsum(0)[self.number]

    @cached_property
    def scaled(self) -> Tensor:
        """(N, C) in standard deviations from the mean; gaps have the last known value of the series, at first 0."""
        s = (self.values - self.mean[self.number]) / self.sd[self.number]
        last = torch.where(s.isnan(), -1, torch.arange(len(s))[:, None]).cummax(0).values
        return torch.where(last >= self.begin[:, None], s.gather(0, last.clamp_min(0)), 0.0)

    def before(self, at: Tensor, lag: int | Tensor) -> Tensor:
        """The steps so many steps before; where a series has none, its first."""
        return torch.maximum(at - lag, self.begin[at])

    def windows(self, ends: Tensor, steps: int) -> Tensor:
        """The steps (steps, n) of windows that end at `ends` (n)."""
        return self.before(ends, torch.arange(steps - 1, -1, -1)[:, None])

    def following(self, targets: int, horizon: int, end: Tensor | None = None) -> Tensor:
        """The next values of each step (N, horizon · targets), scaled; NaN where not known, and from `end` (N) on."""
        end = self.end if end is None else end
        of = slice(targets)
        truth = (self.values[:, of] - self.mean[self.number, of]) / self.sd[self.number, of]
        ahead = torch.arange(len(truth))[:, None] + torch.arange(1, horizon + 1)
        found = truth[ahead.clamp_max(len(truth) - 1)]
        return found.where((ahead < end[:, None])[..., None], math.nan).flatten(1)

    def cut(self, lengths: Tensor) -> "Panel":
        """The first steps of each series."""
        kept = torch.arange(len(self)) - self.begin < lengths[self.number]
        return Panel(self.values[kept], lengths, self.mean, self.sd)


class Forecaster(torch.nn.Module):
    """Base and network, and the scaling of the series that they were fitted to.

    targets, inputs   number of columns to forecast, and of further columns
    horizon           steps forecast at once
    window            steps the network reads
    season            steps of a season, or None
    further           steps of further seasons
    base              the rule
    anchor, lags      of the linear rule: the rule that it adds to, and the number of last values that it reads
    gaps              the columns that have gaps in the training part
    series            number of series
    layers            makes the recurrent layers, given how many numbers they read at each step

    Fitted values are in buffers; `copy_fitted` copies them.
    """

    mean: Tensor
    sd: Tensor
    weight: Tensor
    bias: Tensor
    low: Tensor
    high: Tensor
    left_over: Tensor
    trust: Tensor
    band: Tensor
    blend: Tensor

    def __init__(
        self,
        targets: int,
        inputs: int,
        horizon: int,
        window: int,
        *,
        season: int | None = None,
        further: Sequence[int] = (),
        base: Base = "last",
        anchor: Anchor = "last",
        lags: int = 1,
        gaps: Sequence[int] = (),
        series: int = 1,
        layers: Callable[[int], Layers],
    ) -> None:
        super().__init__()
        columns, outputs = targets + inputs, horizon * targets
        self.targets, self.horizon, self.window = targets, horizon, window
        self.season, self.lags = season, lags
        self.seasons = [season, *further] if season else []
        self.base: Base = base
        self.anchor: Anchor = anchor
        self.gaps = list(gaps)
        channels = 2 * columns + len(self.gaps) + 2 * targets * len(self.seasons)
        of_series = [series] if series > 1 else []
        for name, value in {
            "mean": torch.zeros(*of_series, columns),
            "sd": torch.ones(*of_series, columns),
            "weight": torch.zeros(lags * columns, outputs),
            "bias": torch.zeros(outputs),
            **({"blend": torch.zeros(1 + len(self.seasons), outputs)} if further else {}),
            "low": torch.full((channels,), -math.inf),
            "high": torch.full((channels,), math.inf),
            "left_over": torch.ones(outputs),
            "trust": torch.ones(outputs),
            "band": torch.zeros(outputs),
        }.items():
            self.register_buffer(name, value.double())
        self.network = Network(layers(channels), outputs, loss="squared_error")
        torch.nn.init.zeros_(self.network.readout.weight)
        torch.nn.init.zeros_(self.network.readout.bias)

    def copy_fitted(self, other: "Forecaster") -> None:
        """Copies all values that are fitted, not learnt."""
        for name, value in other.named_buffers(recurse=False):
            getattr(self, name).copy_(value)

    def forward(self, u: Tensor, h0: Any = None) -> tuple[Tensor, Any]:
        """o (T, B, horizon · targets) and h_n for windows (T, B, channels) of the result of `channels`."""
        return self.network(u, h0)

    def panel(self, series: Sequence[Tensor], numbers: Sequence[int] = (0,)) -> Panel:
        """Series (n, C), scaled as those with these numbers that the forecaster was fitted to."""
        columns = series[0].shape[1]
        mean, sd = (of.view(-1, columns)[list(numbers)] for of in (self.mean, self.sd))
        return Panel(torch.cat(list(series)), torch.tensor([len(of) for of in series]), mean, sd)

    def channels(self, panel: Panel) -> Tensor:
        """The inputs of the network at each step (N, channels), float32."""
        s, at = panel.scaled, torch.arange(len(panel))
        targets = s[:, : self.targets]
        parts = [s, s - s[panel.before(at, 1)]]
        for season in self.seasons:
            parts += [targets - targets[panel.before(at, season)], targets[panel.before(at, season - 1)] - targets]
        parts.append(panel.values[:, self.gaps].isnan().to(s.dtype))
        return torch.cat(parts, 1).clamp(self.low, self.high).float()

    @property
    def blind(self) -> int:
        """The number of first steps for which the base lacks the values before."""
        back = {"none": 1, "last": 1, "season": self.season or 1, "blend": max(self.seasons, default=1)}
        return max(self.lags, back[self.anchor]) - 1 if self.base == "linear" else back[self.base] - 1

    def rule(self, panel: Panel, at: Tensor, base: Base | None = None) -> Tensor:
        """Forecasts of the base, or of another one, at the steps `at` (n, horizon · targets)."""
        base = base or self.base
        if base != "linear":
            return _simple(base, panel, at, self.targets, self.horizon, self.season)
        says = torch.cat([x @ self.weight + self.bias for x in _lagged(panel, at, self.lags)])
        if self.anchor == "blend":
            return says + _blended(self.blend, panel, at, self.targets, self.horizon, self.seasons)
        return says + _simple(self.anchor, panel, at, self.targets, self.horizon, self.season)

    @torch.no_grad()
    def outputs(self, u: Tensor, panel: Panel, at: Tensor) -> Tensor:
        """o (n, horizon · targets) at the steps `at`, each at the end of its window of `channels` u (N, channels)."""
        return torch.cat([self.network(u[panel.windows(part, self.window)])[0][-1] for part in at.split(WINDOWS)])

    @torch.no_grad()
    def forecasts(self, panel: Panel, at: Tensor, base: Base | None = None) -> Tensor:
        """Forecasts (n, horizon, targets) made at the steps `at` (n), in the units of the columns.

        base: forecasts of this rule alone, without the network.
        """
        says = self.rule(panel, at, base)
        if base is None:
            says = says + self.outputs(self.channels(panel), panel, at) * (self.trust * self.left_over)
        mean, sd = (of[panel.number[at], : self.targets][:, None] for of in (panel.mean, panel.sd))
        return says.view(-1, self.horizon, self.targets) * sd + mean

    def onwards(self, panel: Panel, steps: int, ahead: Sequence[Tensor] = ()) -> Tensor:
        """The `steps` after the end of each series: forecasts (S, steps, targets) in the units of the columns.

        Up to `horizon` steps are forecast at once. For more, the forecasts are taken for the truth, and the next steps
        are forecast from there; `ahead`, (n, inputs) for each series, then has the inputs of the steps to come, NaN
        where not known.
        """
        inputs = panel.values.shape[1] - self.targets
        found = panel.values.new_zeros(len(panel.lengths), 0, self.targets)
        while True:
            found = torch.cat((found, self.forecasts(panel, panel.lengths.cumsum(0) - 1)), 1)
            if found.shape[1] >= steps:
                return found[:, :steps]
            done = found.shape[1] - self.horizon
            longer = []
            for place, one in enumerate(panel.values.split(panel.lengths.tolist())):
                known = one.new_full((self.horizon, inputs), math.nan)
                if ahead:
                    given = ahead[place][done : done + self.horizon]
                    known[: len(given)] = given
                longer += [one, torch.cat((found[place, done:], known), 1)]
            panel = Panel(torch.cat(longer), panel.lengths + self.horizon, panel.mean, panel.sd)

    @torch.no_grad()
    def fit_trust(self, u: Tensor, panel: Panel, rest: Tensor, at: Tensor) -> float:
        """Fits `trust` to the steps `at`; returns the mean square of the errors that are left there.

        u: `channels`; rest: the errors of the base, (N, horizon · targets). Sets `band` too: 80 % of the errors are no
        larger, in standard deviations.
        """
        o, rest = self.outputs(u, panel, at).double(), rest[at]
        known = ~rest.isnan()
        o = o.where(known, 0)
        self.trust.copy_(((o * rest.nan_to_num()).sum(0) / o.square().sum(0).clamp_min(1e-30)).clamp(0, 1))
        errors = rest - self.trust * o
        self.band.copy_((errors.abs() * self.left_over).nanquantile(BAND, 0).nan_to_num())
        return mean_square(errors)


def mean_square(errors: Tensor) -> float:
    """The mean square of errors (n, outputs) without NaN: unlike torch's nanmean, the same bits for any threads."""
    return float(errors.square().nansum(0).sum() / (~errors.isnan()).sum())


def scales(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C) of columns (N, C); deviations that are rounding alone count as 1."""
    mean = values.nanmean(0)
    sd = (values - mean).square().nanmean(0).sqrt()
    return mean, torch.where(sd > 1e-9 * values.nan_to_num().abs().amax(0), sd, 1.0)


def fit(
    panel: Panel,
    train: Tensor,
    *,
    targets: int,
    horizon: int,
    window: int,
    season: int | None,
    further: Sequence[int] = (),
    base: Base | Literal["auto"],
) -> tuple[Forecaster, dict[Base, float]]:
    """A forecaster with rules fitted and a smallest possible, untrained network; and the rules' errors.

    panel   training and validation part: the first `train` (S) steps of each series are fitted to; the others choose
            lags and penalty of the linear rule, and, if `base` is "auto", the base
    The errors are root mean squares in the validation part, in standard deviations.
    """
    part = panel.cut(train)
    place, training = torch.arange(len(panel)) - panel.begin, train[panel.number]
    following = panel.following(targets, horizon)
    origins = ((place >= training - 1) & (torch.arange(len(panel)) < panel.end - horizon)).nonzero()[:, 0]
    linear = _linear(panel, training, following, origins, targets, horizon, season, further)
    model = Forecaster(
        targets,
        panel.values.shape[1] - targets,
        horizon,
        window,
        season=season,
        further=further,
        anchor=linear.anchor,
        lags=linear.lags,
        gaps=part.values.isnan().any(0).nonzero()[:, 0].tolist(),
        series=len(panel.lengths),
        layers=lambda channels: RNN(channels, 1),
    )
    fitted = {"mean": panel.mean, "sd": panel.sd, "weight": linear.weight, "bias": linear.bias}
    for name, value in fitted.items():
        getattr(model, name).copy_(value.view_as(getattr(model, name)))
    if further:
        model.blend.copy_(linear.blend)
    rules: list[Base] = [rule for rule in BASES if rule != "season" or season is not None]
    errors: dict[Base, float] = {
        rule: float((model.rule(panel, origins, rule) - following[origins]).square().nanmean().sqrt()) for rule in rules
    }
    model.base = min(rules, key=lambda rule: errors[rule]) if base == "auto" else base
    u = model.channels(part).double()
    model.low.copy_(u.amin(0))
    model.high.copy_(u.amax(0))
    seen = torch.arange(len(part)) - part.begin >= model.blind
    rest = part.following(targets, horizon) - model.rule(part, torch.arange(len(part)))
    model.left_over.copy_(rest[seen].square().nanmean(0).sqrt().nan_to_num(1.0).clamp_min(1e-6))
    return model, errors


class _Linear(NamedTuple):
    """The linear rule; blend: of the anchor that has this name."""

    anchor: Anchor
    lags: int
    weight: Tensor
    bias: Tensor
    blend: Tensor


def _linear(
    panel: Panel,
    train: Tensor,
    following: Tensor,
    origins: Tensor,
    targets: int,
    horizon: int,
    season: int | None,
    further: Sequence[int],
) -> _Linear:
    """The linear rule, by ridge regression in the training part.

    train       steps of the training part of the series of each step (N)
    following   the next values of each step (N, horizon · targets)
    origins     the steps by which anchor, lags and penalty are chosen
    """
    every, place = torch.arange(len(panel)), torch.arange(len(panel)) - panel.begin
    within = panel.following(targets, horizon, panel.begin + train)
    steps = (place < train - horizon).nonzero()[:, 0]
    wanted = torch.zeros_like(within)
    counts = torch.bincount(panel.number[steps], minlength=len(panel.lengths)).tolist()
    wanted[steps] = torch.cat([_interpolated(of) for of in within[steps].split(counts)])
    share = 1 - within.isnan().double().mean(1)
    simple: list[Anchor] = ["none", "last"]
    if season:
        simple.append("season")
    says: dict[Anchor, Tensor] = {rule: _simple(rule, panel, every, targets, horizon, season) for rule in simple}
    begins: dict[int, list[Anchor]] = {season or 1: list(says)}
    blend = panel.values.new_zeros(1 + len(further) + 1, horizon * targets)
    if season and further:
        seasons = [season, *further]
        blend = _blend(panel, steps[place[steps] >= max(seasons) - 1], within, targets, horizon, seasons)
        says["blend"] = _blended(blend, panel, every, targets, horizon, seasons)
        begins.setdefault(max(seasons), []).append("blend")
    zeros = panel.values.new_zeros(panel.values.shape[1], horizon * targets)
    best, chosen = math.inf, _Linear("last", 1, zeros, zeros[0], blend)
    for lags in _choices_of_lags(len(steps), panel.values.shape[1], [season, *further] if season else []):
        seen = torch.cat(list(_lagged(panel, origins, lags)))
        for first, anchors in begins.items():
            at = steps[place[steps] >= max(lags, first) - 1]
            total = share[at].sum()
            if total < 2:
                continue
            columns = lags * panel.values.shape[1] + 1
            gram = zeros.new_zeros(columns, columns)
            moments = {anchor: zeros.new_zeros(columns, horizon * targets) for anchor in anchors}
            for block, x in zip(at.split(BLOCK), _lagged(panel, at, lags), strict=True):
                x = torch.cat((x, x.new_ones(len(x), 1)), 1)
                weighted = share[block][:, None] * x / total
                gram += weighted.mT @ x
                for anchor in anchors:
                    moments[anchor] += weighted.mT @ (wanted[block] - says[anchor][block])
            middle = gram[-1, :-1]
            variances, directions = torch.linalg.eigh(gram[:-1, :-1] - middle[:, None] * middle)
            for anchor in anchors:
                centre = moments[anchor][-1]
                turned = directions.mT @ (moments[anchor][:-1] - middle[:, None] * centre)
                for penalty in PENALTIES:
                    damped = variances.clamp_min(0) + penalty * variances.mean().clamp_min(1e-30)
                    weight = directions @ (turned / damped[:, None])
                    bias = centre - middle @ weight
                    missed = seen @ weight + bias + says[anchor][origins] - following[origins]
                    if (error := float(missed.square().nanmean())) < best:
                        best = error
                        chosen = _Linear(anchor, lags, weight, bias, blend)
    return chosen


def _simple(rule: Base | Anchor, panel: Panel, at: Tensor, targets: int, horizon: int, season: int | None) -> Tensor:
    """Forecasts of a rule without weights at the steps `at` (n, horizon · targets)."""
    s = panel.scaled[:, :targets]
    match rule:
        case "none":
            return s.new_zeros(len(at), horizon * targets)
        case "last":
            return s[at].repeat(1, horizon)
        case _:
            assert season is not None, "a series without a season has no seasonal rule"
            back = [season * -(-ahead // season) - ahead for ahead in range(1, horizon + 1)]
            return torch.cat([s[panel.before(at, lag)] for lag in back], 1)


def _rules(panel: Panel, at: Tensor, targets: int, horizon: int, seasons: Sequence[int]) -> Tensor:
    """What a blend is made of, (1 + seasons, n, horizon · targets): the last value, and those of a season before."""
    seasonal = [_simple("season", panel, at, targets, horizon, season) for season in seasons]
    return torch.stack([_simple("last", panel, at, targets, horizon, None), *seasonal])


def _blended(blend: Tensor, panel: Panel, at: Tensor, targets: int, horizon: int, seasons: Sequence[int]) -> Tensor:
    return (blend[:, None] * _rules(panel, at, targets, horizon, seasons)).sum(0)


def _blend(panel: Panel, at: Tensor, wanted: Tensor, targets: int, horizon: int, seasons: Sequence[int]) -> Tensor:
    """The weights (1 + seasons, horizon · targets) of the last value and of the seasonal ones, by least squares."""
    rules = 1 + len(seasons)
    gram = panel.values.new_zeros(horizon * targets, rules, rules)
    moments = panel.values.new_zeros(horizon * targets, rules)
    for block in at.split(BLOCK):
        known = ~wanted[block].isnan()
        x = _rules(panel, block, targets, horizon, seasons) * known
        gram += torch.einsum("fno,gno->ofg", x, x)
        moments += torch.einsum("fno,no->of", x, wanted[block].nan_to_num())
    slightly = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    return torch.linalg.solve(gram + slightly[:, None, None] * torch.eye(rules).to(gram), moments).mT


def _choices_of_lags(steps: int, columns: int, seasons: Sequence[int]) -> list[int]:
    """The numbers of lags to try: with at least three steps for each weight of the linear rule."""
    choices = {1, 2, 4, 8, 16, 24, 32}.union(*((season + 2, 2 * season + 2) for season in seasons))
    return sorted(lags for lags in choices if 3 * lags * columns <= steps and lags * columns <= MOST_WEIGHTS) or [1]


def _lagged(panel: Panel, at: Tensor, lags: int) -> Iterator[Tensor]:
    """Inputs of the linear rule at the steps `at`, in blocks (n, lags · C): the values now, and each lag minus now."""
    s = panel.scaled
    for steps in at.split(BLOCK):
        now = s[steps]
        back = panel.before(steps, torch.arange(1, lags)[:, None]).mT
        yield torch.cat((now, (s[back] - now[:, None]).flatten(1)), 1)


def _interpolated(y: Tensor) -> Tensor:
    """Each column with its gaps filled by linear interpolation; zero where no value is known."""
    place = np.arange(len(y))
    columns = []
    for column in y.mT.numpy():
        known = np.flatnonzero(~np.isnan(column))
        columns.append(np.interp(place, known, column[known]) if len(known) else np.zeros(len(column)))
    return torch.from_numpy(np.stack(columns, 1))
