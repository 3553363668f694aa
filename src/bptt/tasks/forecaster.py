"""Forecasts: a simple rule, the base, and a recurrent network that has learnt to correct it.

At every step t the series is known up to t, and the next `horizon` steps of all targets are forecast at once:

    forecast = base + trust · left over · network

All columns are scaled by the mean and standard deviation of the training part. The base is one of

    none     the mean
    last     the last value, repeated
    season   the value one season before
    linear   one of these, the anchor, plus a linear function of the last values of all columns

The network, a `Network` of any cell with squared error, reads the last `window` steps from the zero state: of each
column the value, its change since the step before, and, if the training part has gaps, whether it is known; of each
target its change in a season, and how far the value that came next one season ago is from the present one. Inputs
outside the range of the training part are clipped to it, so that a trend never takes the network to inputs it has not
seen. Its outputs are in units of the base's error in the training part ("left over") and are zero at first: an
untrained network is the base.
`trust`, between 0 and 1, is the factor of each output that fits the validation part best.

Unknown values of a column are replaced by its last known value.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bptt.nn import RNN, Network
from bptt.nn.layers import Layers

Base = Literal["none", "last", "season", "linear"]
BASES: tuple[Base, ...] = get_args(Base)

PENALTIES = tuple(10.0**power for power in range(-6, 4))  # in units of the mean variance of the rule's inputs
BLOCK = 1 << 14  # steps of which the linear rule's inputs are in memory at a time
MOST_WEIGHTS = 512  # of the linear rule, for each of its outputs
WINDOWS = 512  # windows side by side in an evaluation
BAND = 0.8


class Forecaster(torch.nn.Module):
    """Scaling, base and network. Arrays of columns are (N, C), the targets first, float64 with NaN.

    targets, inputs   number of columns to forecast, and of further columns
    horizon           steps forecast at once
    window            steps the network reads
    season            steps of a season, or None
    base              the rule
    anchor, lags      of the linear rule: the rule that it adds to, and the number of last values that it reads
    gaps              the columns that have gaps in the training part
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

    def __init__(
        self,
        targets: int,
        inputs: int,
        horizon: int,
        window: int,
        *,
        season: int | None = None,
        base: Base = "last",
        anchor: Base = "last",
        lags: int = 1,
        gaps: Sequence[int] = (),
        layers: Callable[[int], Layers],
    ) -> None:
        super().__init__()
        columns, outputs = targets + inputs, horizon * targets
        self.targets, self.horizon, self.window = targets, horizon, window
        self.season, self.lags = season, lags
        self.base: Base = base
        self.anchor: Base = anchor
        self.gaps = list(gaps)
        channels = 2 * columns + len(self.gaps) + (2 * targets if season else 0)
        for name, value in {
            "mean": torch.zeros(columns),
            "sd": torch.ones(columns),
            "weight": torch.zeros(lags * columns, outputs),
            "bias": torch.zeros(outputs),
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

    def scaled(self, values: Tensor) -> Tensor:
        """(N, C) in standard deviations from the mean, every gap filled with the last known value."""
        return _filled((values - self.mean) / self.sd)

    def channels(self, values: Tensor, s: Tensor) -> Tensor:
        """The inputs of the network at each step (N, channels), float32. s: `scaled` values."""
        targets = s[:, : self.targets]
        parts = [s, s - _back(s, 1)]
        if self.season:
            parts += [targets - _back(targets, self.season), _back(targets, self.season - 1) - targets]
        parts.append(values[:, self.gaps].isnan().to(s.dtype))
        return torch.cat(parts, 1).clamp(self.low, self.high).float()

    def following(self, values: Tensor) -> Tensor:
        """The next values of each step (N, horizon · targets), scaled; NaN where they are not known."""
        truth = (values[:, : self.targets] - self.mean[: self.targets]) / self.sd[: self.targets]
        return _following(truth, self.horizon)

    @property
    def blind(self) -> int:
        """The number of first steps for which the base lacks the values before."""
        back = {"none": 1, "last": 1, "season": self.season or 1}
        return max(self.lags, back[self.anchor]) - 1 if self.base == "linear" else back[self.base] - 1

    def rule(self, s: Tensor, at: Tensor, base: Base | None = None) -> Tensor:
        """Forecasts of the base, or of another one, at the steps `at` (n, horizon · targets). s: `scaled` values."""
        base = base or self.base
        if base != "linear":
            return _simple(base, s[:, : self.targets], at, self.horizon, self.season)
        parts = [x @ self.weight + self.bias for x in _lagged(s, at, self.lags)]
        return torch.cat(parts) + _simple(self.anchor, s[:, : self.targets], at, self.horizon, self.season)

    @torch.no_grad()
    def outputs(self, u: Tensor, at: Tensor) -> Tensor:
        """o (n, horizon · targets) at the steps `at`, each at the end of its window of `channels` u (N, channels)."""
        within = torch.arange(1 - self.window, 1)[:, None]
        return torch.cat([self.network(u[(part + within).clamp_min(0)])[0][-1] for part in at.split(WINDOWS)])

    @torch.no_grad()
    def forecasts(self, values: Tensor, at: Tensor, base: Base | None = None) -> Tensor:
        """Forecasts (n, horizon, targets) made at the steps `at` (n), in the units of the columns (N, C).

        base: forecasts of this rule alone, without the network.
        """
        s = self.scaled(values)
        says = self.rule(s, at, base)
        if base is None:
            says = says + self.outputs(self.channels(values, s), at) * (self.trust * self.left_over)
        return self.unscaled(says)

    def onwards(self, values: Tensor, steps: int, ahead: Tensor | None = None) -> Tensor:
        """The `steps` after the last of values (N, C): forecasts (steps, targets) in the units of the columns.

        Up to `horizon` steps are forecast at once. For more, the forecasts are taken for the truth, and the next steps
        are forecast from there; `ahead` (n, inputs) then has the inputs of the steps to come, NaN where not known.
        """
        inputs = values.shape[1] - self.targets
        found = values.new_zeros(0, self.targets)
        while True:
            found = torch.cat((found, self.forecasts(values, torch.tensor([len(values) - 1]))[0]))
            if len(found) >= steps:
                return found[:steps]
            done = len(found) - self.horizon
            known = values.new_full((self.horizon, inputs), math.nan)
            if ahead is not None:
                given = ahead[done : done + self.horizon]
                known[: len(given)] = given
            values = torch.cat((values, torch.cat((found[done:], known), 1)))

    def unscaled(self, says: Tensor) -> Tensor:
        """(n, horizon · targets) as (n, horizon, targets) in the units of the columns."""
        says = says.view(-1, self.horizon, self.targets)
        return says * self.sd[: self.targets] + self.mean[: self.targets]

    @torch.no_grad()
    def fit_trust(self, u: Tensor, rest: Tensor, at: Tensor) -> float:
        """Fits `trust` to the steps `at`; returns the mean square of the errors that are left there.

        rest: the errors of the base, (N, horizon · targets). Sets `band` too: 80 % of the errors are no larger, in
        standard deviations.
        """
        o, rest = self.outputs(u, at).double(), rest[at]
        known = ~rest.isnan()
        o = o.where(known, 0)
        self.trust.copy_(((o * rest.nan_to_num()).sum(0) / o.square().sum(0).clamp_min(1e-30)).clamp(0, 1))
        errors = rest - self.trust * o
        self.band.copy_((errors.abs() * self.left_over).nanquantile(BAND, 0).nan_to_num())
        return mean_square(errors)


def mean_square(errors: Tensor) -> float:
    """The mean square of errors (n, outputs) without NaN: unlike torch's nanmean, the same bits for any threads."""
    return float(errors.square().nansum(0).sum() / (~errors.isnan()).sum())


def fit(
    values: Tensor,
    train: int,
    validation: int,
    *,
    targets: int,
    horizon: int,
    window: int,
    season: int | None,
    base: Base | Literal["auto"],
) -> tuple[Forecaster, dict[Base, float]]:
    """A forecaster with scaling and rules fitted and a smallest possible, untrained network; and the rules' errors.

    values       (N, C): the first `train` steps are fitted to; the next `validation` steps choose lags and penalty of
                 the linear rule, and, if `base` is "auto", the base
    The errors are root mean squares in the validation part, in standard deviations.
    """
    part, known = values[:train], values[: train + validation]
    mean = part.nanmean(0)
    sd = (part - mean).square().nanmean(0).sqrt()
    sd = torch.where(sd > 1e-9 * part.nan_to_num().abs().amax(0), sd, 1.0)
    s, origins = _filled((known - mean) / sd), torch.arange(train - 1, train + validation - horizon)
    truth = ((known - mean) / sd)[:, :targets]
    following, within = _following(truth, horizon), _following(truth[:train], horizon)
    anchor, lags, weight, bias = _linear(s, within, following, origins, horizon, targets, season)
    model = Forecaster(
        targets,
        values.shape[1] - targets,
        horizon,
        window,
        season=season,
        anchor=anchor,
        lags=lags,
        gaps=part.isnan().any(0).nonzero()[:, 0].tolist(),
        layers=lambda channels: RNN(channels, 1),
    )
    for name, value in {"mean": mean, "sd": sd, "weight": weight, "bias": bias}.items():
        getattr(model, name).copy_(value)
    rules: list[Base] = [rule for rule in BASES if rule != "season" or season is not None]
    errors: dict[Base, float] = {
        rule: float((model.rule(s, origins, rule) - following[origins]).square().nanmean().sqrt()) for rule in rules
    }
    model.base = min(rules, key=lambda rule: errors[rule]) if base == "auto" else base
    u = model.channels(part, s[:train]).double()
    model.low.copy_(u.amin(0))
    model.high.copy_(u.amax(0))
    rest = (within - model.rule(s, torch.arange(train)))[model.blind :]
    model.left_over.copy_(rest.square().nanmean(0).sqrt().nan_to_num(1.0).clamp_min(1e-6))
    return model, errors


def _linear(
    s: Tensor, within: Tensor, following: Tensor, origins: Tensor, horizon: int, targets: int, season: int | None
) -> tuple[Base, int, Tensor, Tensor]:
    """Anchor, lags, weight and bias of the linear rule, by ridge regression in the training part.

    within, following   the next values of each step (n, horizon · targets): of the training part alone, and all
    origins             the steps by which anchor, lags and penalty are chosen
    """
    steps = torch.arange(len(within) - horizon)
    anchors: list[Base] = [rule for rule in BASES if rule != "linear" and (rule != "season" or season)]
    says = {anchor: _simple(anchor, s[:, :targets], torch.arange(len(s)), horizon, season) for anchor in anchors}
    wanted = _interpolated(within[steps])
    share = 1 - within[steps].isnan().double().mean(1)
    zeros = s.new_zeros(s.shape[1], horizon * targets)
    best = math.inf
    chosen: tuple[Base, int, Tensor, Tensor] = ("last", 1, zeros, zeros[0])
    for lags in _choices_of_lags(len(steps), s.shape[1], season):
        at = steps[max(lags, season or 1) - 1 :]
        total = share[at].sum()
        if total < 2:
            continue
        columns = lags * s.shape[1] + 1
        gram = s.new_zeros(columns, columns)
        moments = {anchor: s.new_zeros(columns, horizon * targets) for anchor in anchors}
        for block, x in zip(at.split(BLOCK), _lagged(s, at, lags), strict=True):
            x = torch.cat((x, x.new_ones(len(x), 1)), 1)
            weighted = share[block][:, None] * x / total
            gram += weighted.mT @ x
            for anchor in anchors:
                moments[anchor] += weighted.mT @ (wanted[block] - says[anchor][block])
        middle = gram[-1, :-1]
        variances, directions = torch.linalg.eigh(gram[:-1, :-1] - middle[:, None] * middle)
        seen = torch.cat(list(_lagged(s, origins, lags)))
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
                    chosen = anchor, lags, weight, bias
    return chosen


def _simple(rule: Base, targets: Tensor, at: Tensor, horizon: int, season: int | None) -> Tensor:
    """Forecasts of a rule without weights at the steps `at` (n, horizon · K). targets: (N, K) without gaps."""
    match rule:
        case "none":
            return targets.new_zeros(len(at), horizon * targets.shape[1])
        case "last":
            return targets[at].repeat(1, horizon)
        case _:
            assert season is not None, "a series without a season has no seasonal rule"
            back = [season * -(-ahead // season) - ahead for ahead in range(1, horizon + 1)]
            return torch.cat([targets[(at - lag).clamp_min(0)] for lag in back], 1)


def _choices_of_lags(steps: int, columns: int, season: int | None) -> list[int]:
    """The numbers of lags to try: with at least three steps for each weight of the linear rule."""
    choices = {1, 2, 4, 8, 16, 24, 32} | ({season + 2, 2 * season + 2} if season else set())
    return sorted(lags for lags in choices if 3 * lags * columns <= steps and lags * columns <= MOST_WEIGHTS) or [1]


def _lagged(s: Tensor, at: Tensor, lags: int) -> Iterator[Tensor]:
    """Inputs of the linear rule at the steps `at`, in blocks (n, lags · C): the values now, and each lag minus now."""
    for steps in at.split(BLOCK):
        now = s[steps]
        back = (steps[:, None] - torch.arange(1, lags)).clamp_min(0)
        yield torch.cat((now, (s[back] - now[:, None]).flatten(1)), 1)


def _following(truth: Tensor, horizon: int) -> Tensor:
    """The next values of each step (N, horizon · K) of truth (N, K); NaN after the end."""
    padded = torch.cat((truth, truth.new_full((horizon, truth.shape[1]), math.nan)))
    return torch.cat([padded[ahead : ahead + len(truth)] for ahead in range(1, horizon + 1)], 1)


def _filled(s: Tensor) -> Tensor:
    """Gaps of each column filled with the last known value, zero before the first."""
    known = ~s.isnan()
    last = torch.where(known, torch.arange(len(s))[:, None], -1).cummax(0).values
    return torch.where(last >= 0, s.gather(0, last.clamp_min(0)), 0.0)


def _back(s: Tensor, lag: int) -> Tensor:
    """s (N, C), `lag` steps before; where there is no such step, the first one."""
    return s[(torch.arange(len(s)) - lag).clamp_min(0)]


def _interpolated(y: Tensor) -> Tensor:
    """Each column with its gaps filled by linear interpolation; zero where no value is known."""
    place = np.arange(len(y))
    columns = []
    for column in y.mT.numpy():
        known = np.flatnonzero(~np.isnan(column))
        columns.append(np.interp(place, known, column[known]) if len(known) else np.zeros(len(column)))
    return torch.from_numpy(np.stack(columns, 1))
