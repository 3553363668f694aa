"""How far the gradient reaches: ‖∂L_t/∂h_k‖ by the distance t − k, and what goes with it.

An origin is a row of the batch at a step t: what enters there, dh_direct[t], goes back alone (`alone`), through all
layers that stand above one another without dropout between them. Summed over the origins it is the gradient.

Where rows have ends of their own, or resets cut them, steps are those of each sequence. With layers below the top one,
∂L_t is what the loss at step t sends to the top layer; in the layers below it arrives at many steps.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from bptt.autograd.recorded import Record
from bptt.errors import InputError
from bptt.tape import spectra
from bptt.tape.alone import NOTHING, Layer, Origins, Scaled, reads_the_layer_below, scaled, sweep, times_power

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPREAD = 32
"""Origins of each row, spread over its steps, unless others are asked for."""
ROWS = 1024
"""Origins that go back together."""
MOST = 2 << 30
"""Bytes that the norms of a tape may take."""
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(eq=False, repr=False)
class Lags:
    """What of the gradient of one state, or of the output, of one layer is left by lag.

    steps      (S,) the steps t of the origins
    log_norms  (S, T, B) float64, log2 ‖∂L_t/∂·_k‖; −inf where nothing arrives, NaN where no origin or step is
    """

    layer: int
    direction: Literal["forward", "reverse"]
    state: str
    steps: Tensor
    log_norms: Tensor

    @property
    def norms(self) -> Tensor:
        """(S, T, B) ‖∂L_t/∂·_k‖ for each origin t, each k and each row."""
        return self.log_norms.exp2()

    @cached_property
    def _by_lag(self) -> Tensor:
        """(S, L, B), log2 of the norms by lag: steps back in the order in which the layer computed them."""
        _, T, B = self.log_norms.shape
        sign = -1 if self.direction == "reverse" else 1
        k = self.steps[:, None] - sign * torch.arange(T)
        lagged = self.log_norms.gather(1, k.clamp(0, T - 1)[..., None].expand(-1, -1, B))
        return lagged.masked_fill(((k < 0) | (k >= T))[..., None], torch.nan)

    @property
    def name(self) -> str:
        return f"{self.state}_l{self.layer}{'_reverse' * (self.direction == 'reverse')}"

    @property
    def by_lag(self) -> Tensor:
        """(L,) mean over origins and rows of ‖∂L_t/∂·_{t−lag}‖; NaN for lags that no origin has."""
        return self._by_lag.exp2().nanmean((0, 2))

    def quantiles(self, of: Sequence[float] = QUANTILES) -> Tensor:
        """(len(of), L) of the same norms."""
        per_lag = self._by_lag.transpose(0, 1).flatten(1)
        return per_lag.nanquantile(torch.tensor(of, dtype=per_lag.dtype), dim=1, interpolation="lower").exp2()

    @cached_property
    def nearest(self) -> int:
        """The least lag at which anything arrives: 1 for a state that only later steps read."""
        arrives = (self._by_lag > -torch.inf).any(2).any(0)
        return int(arrives.int().argmax()) if bool(arrives.any()) else 0

    @cached_property
    def share(self) -> Tensor:
        """(L,) the sum over origins and rows of the norms, by what it is at the nearest lag for the same ones."""
        return _share(self._by_lag, self.nearest).exp2()

    @cached_property
    def rate(self) -> float:
        """The factor per step: the slope of the straight line through log share."""
        return math.exp(_slope(_share(self._by_lag, self.nearest)))

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The rate less and more two standard errors, from the rates of the rows of the batch; None for one row."""
        rows = [_slope(_share(self._by_lag[:, :, [b]], self.nearest)) for b in range(self._by_lag.shape[2])]
        slopes = torch.tensor([slope for slope in rows if math.isfinite(slope)], dtype=torch.float64)
        if len(slopes) < 2:
            return None
        error = 2 * float(slopes.std()) / math.sqrt(len(slopes))
        return self.rate * math.exp(-error), self.rate * math.exp(error)

    @property
    def half_life(self) -> float:
        """Steps after which half is left; negative where it doubles after so many."""
        slope = math.log(self.rate) if self.rate > 0 else -math.inf
        return math.inf if slope == 0 else -math.log(2) / slope

    def reached(self, share: float = 0.01) -> int | None:
        """The first lag at which less than this share is left; None if all steps are within reach."""
        below = (self.share < share).nonzero()
        return int(below[0]) if len(below) else None

    @property
    def verdict(self) -> str:
        """In words."""
        last = int((~self.share.isnan()).nonzero()[-1]) if not bool(self.share.isnan().all()) else 0
        if last <= self.nearest or math.isnan(self.rate):
            return f"∂{self.state}: too few steps to say how far it reaches."
        left, far = float(self.share[last]), self.reached()
        if abs(self.half_life) > 10 * last:
            how = "keeps its size"
        else:
            how = f"{'halves' if self.rate < 1 else 'doubles'} every {abs(self.half_life):.3g} steps"
        if far is not None:
            return f"∂{self.state} {how}: less than 1 % of it reaches {far} steps back, which a loss cannot teach."
        return f"∂{self.state} {how}: {_percent(left)} of it reaches the whole {last} steps back."

    def to_dict(self) -> dict[str, Any]:
        return {
            "layer": self.layer, "direction": self.direction, "state": self.state, "nearest": self.nearest,
            "rate": _number(self.rate), "interval": self.interval, "half_life": _number(self.half_life),
            "steps_to_10_percent": self.reached(0.1), "steps_to_1_percent": self.reached(0.01),
            "by_lag": _numbers(self.by_lag), "share": _numbers(self.share),
            "quantiles": {str(q): _numbers(row) for q, row in zip(QUANTILES, self.quantiles(), strict=True)},
            "verdict": self.verdict,
        }  # fmt: skip


@dataclass(eq=False, repr=False)
class Reach:
    """How far the gradient of a tape reaches; `print` shows it as a table.

    layers  those that a loss can be followed to: all down to the first dropout between them
    lags    one `Lags` for the output and each state of each layer and direction, bottom layer first
    steps   t of the origins, an index into the arrays of the tape
    """

    layers: list[Layer]
    lags: list[Lags]
    steps: list[int]

    @property
    def T(self) -> int:
        return len(self.layers[0].places)

    @property
    def B(self) -> int:
        return self.layers[0].record.batch

    def of(self, state: str | None = None, layer: int = -1, direction: str | None = None) -> Lags:
        """Of one state, by default the output of the top layer, forward.

        Raises KeyError for others than this tape has.
        """
        top = self.layers[-1].record
        layer = layer + top.layer + 1 if layer < 0 else layer
        state = state or top.output
        for lags in self.lags:
            if (lags.layer, lags.state) == (layer, state) and lags.direction == (direction or "forward"):
                return lags
        known = ", ".join(f"{lags.state} of layer {lags.layer} {lags.direction}" for lags in self.lags)
        raise KeyError(f"the reach of this tape is that of {known}; got {state!r}, layer={layer}, {direction=}")

    @property
    def rate(self) -> float:
        """As of `Lags`; so are half_life, by_lag, share, reached and verdict: of the output of the top layer."""
        return self.of().rate

    @property
    def half_life(self) -> float:
        return self.of().half_life

    @property
    def by_lag(self) -> Tensor:
        return self.of().by_lag

    @property
    def share(self) -> Tensor:
        return self.of().share

    def reached(self, share: float = 0.01) -> int | None:
        return self.of().reached(share)

    @property
    def verdict(self) -> str:
        return self.of().verdict

    @property
    def totals(self) -> dict[str, Tensor]:
        """(T,) mean over rows of ‖∂·_t‖, the total of all losses, of the output and each state of each layer."""
        return {
            f"{name} of {layer.name}": layer.in_time(layer.record.totals[name]).norm(dim=-1).nanmean(1)
            for layer in self.layers
            for name in layer.named
        }

    @cached_property
    def exponents(self) -> dict[str, Tensor]:
        """The leading Lyapunov exponents of each layer; see `spectra.exponents`."""
        return {layer.name: spectra.exponents(layer.record) for layer in self.layers}

    @cached_property
    def singular_values(self) -> dict[str, dict[int, Tensor]]:
        """The largest of ∂h_t/∂h_{t−k} by k, of each layer; see `spectra.singular_values`."""
        return {layer.name: spectra.singular_values(layer.record) for layer in self.layers}

    @cached_property
    def radius(self) -> dict[str, dict[str, float]]:
        """The spectral radius of each square matrix that multiplies a state, of each layer."""
        return {layer.name: spectra.radius(layer.record) for layer in self.layers}

    @cached_property
    def saturation(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The shares of saturated numbers and of dead units by value, of each layer; see `spectra.saturation`."""
        return {layer.name: spectra.saturation(layer.record) for layer in self.layers}

    @cached_property
    def truncation(self) -> dict[str, dict[int, tuple[float, float]]]:
        """Cosine and relative error of the gradient by window, of each layer; see `spectra.truncation`."""
        return {layer.name: spectra.truncation(layer) for layer in self.layers}

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it; None for what is not a number."""

        def by_number(rows: dict[str, dict[int, Any]]) -> dict[str, dict[str, Any]]:
            return {name: {str(k): _listed(v) for k, v in of.items()} for name, of in rows.items()}

        return {
            "T": self.T, "B": self.B, "origins": self.steps, "verdict": self.verdict,
            "lags": [lags.to_dict() for lags in self.lags],
            "totals": {name: _numbers(total) for name, total in self.totals.items()},
            "exponents": {name: _numbers(found) for name, found in self.exponents.items()},
            "singular_values": by_number(self.singular_values),
            "radius": self.radius,
            "saturation": {name: {v: list(s) for v, s in of.items()} for name, of in self.saturation.items()},
            "truncation": by_number(self.truncation),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Reach(T={self.T}, B={self.B}, origins={len(self.steps)}: {self.verdict})"

    def __str__(self) -> str:
        lines = [
            f"Reach of the gradient: T = {self.T}, B = {self.B}, from {len(self.steps)} steps",
            "",
            f"{'':<12}{'rate a step':>12}{'2 std. errors':>20}{'halves in':>11}{'10 % at':>9}{'1 % at':>9}",
        ]
        for lags in self.lags:
            low, high = lags.interval or (math.nan, math.nan)
            between = "" if lags.interval is None else f"{low:.4g} to {high:.4g}"
            life = f"{lags.half_life:.3g}" if lags.half_life > 0 else f"−{-lags.half_life:.3g}"
            ten, one = (f"{lags.reached(s)}" if lags.reached(s) is not None else "beyond" for s in (0.1, 0.01))
            lines.append(f"∂{lags.name:<11}{lags.rate:>12.4g}{between:>20}{life:>11}{ten:>9}{one:>9}")
        for name, exponents in self.exponents.items():
            said = "  ".join(f"{float(e):.3g}" for e in exponents.mean(0)[:4])
            lines += ["", f"layer {name}", f"  Lyapunov exponents, per step   {said}"]
            radii = ", ".join(f"{matrix} {value:.3g}" for matrix, value in self.radius[name].items())
            lines += [f"  spectral radius                {radii}"] if radii else []
            saturated = ", ".join(
                f"{value} {_percent(share)}" + f" ({_percent(dead)} of the units always)" * (dead > 0)
                for value, (share, dead) in self.saturation[name].items()
            )
            lines += [f"  saturated                      {saturated}"] if saturated else []
            lines += ["  windows of truncated BPTT:  steps   cosine   relative error"]
            for k, (cosine, error) in self.truncation[name].items():
                lines.append(f"{k:>35}{cosine:>9.4f}{_percent(error):>17}")
        return "\n".join([*lines, "", textwrap.fill(self.verdict, 79)])

    def plot(self) -> "Figure":
        """The shares by lag with their straight lines, and ‖∂·_t‖ over time: a figure of matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        lag, time = figure.subplots(1, 2)
        for lags in self.lags:
            share = lags.share
            (line,) = lag.semilogy(share.numpy(), label=f"∂{lags.name}, × {lags.rate:.3g} a step")
            k, scale = torch.arange(len(share)), lags.by_lag[lags.nearest]
            low, _, high = (q / scale for q in lags.quantiles())
            lag.fill_between(k, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        lag.axhline(0.01, color="gray", linestyle=":", label="1 %")
        lag.set(xlabel="lag t − k, steps", ylabel="share of ‖∂L_t‖ that is left", title=textwrap.fill(self.verdict, 56))
        for name, total in self.totals.items():
            time.semilogy(total.numpy(), label=f"‖∂{name}‖")
        time.set(xlabel="step", ylabel="norm of the total gradient")
        for axes in (lag, time):
            axes.legend()
        return figure


def reach(records: list[Record], origins: int | Literal["all"] | Sequence[int]) -> Reach:
    """See `Tape.reach`. Both sides of the records are there."""
    _check(records)
    dtype = records[-1].h.dtype
    dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    layers = [Layer.of(record, dtype) for record in _reachable(records)]
    seeds = [_seeds(layer, layers) for layer in layers]
    asking = torch.stack([(d != 0).any(-1) for of in seeds for d in of.values()]).any(0)
    steps = _chosen(asking, origins)
    asked, b = asking[steps].nonzero().unbind(1)
    T, B = asking.shape
    size = 8 * len(steps) * T * B * sum(len(layer.named) for layer in layers)
    if size > MOST:
        raise InputError(
            f"The norms of {len(steps)} origins over {T} steps of {B} rows must fit into {MOST >> 30} GiB; they take "
            f"{size / (1 << 30):.1f}. Ask for fewer: tape.reach(origins={SPREAD})."
        )
    found = {
        (k, name): torch.full((len(steps), T, B), torch.nan, dtype=torch.float64)
        for k, layer in enumerate(layers)
        for name in layer.named
    }
    for some in torch.arange(len(asked)).flip(0).split(_together(layers)):
        for (k, name), norms in _swept(layers, seeds, Origins(steps[asked[some]], b[some])).items():
            found[k, name][asked[some], :, b[some]] = norms
    lags = [Lags(layers[k].record.layer, layers[k].direction, name, steps, norms) for (k, name), norms in found.items()]
    return Reach(layers, lags, steps.tolist())


def _together(layers: list[Layer]) -> int:
    """How many origins go back at once. Where layers receive something at every step, all of that is held."""
    if len({layer.record.layer for layer in layers}) == 1 and layers[0].record.output in layers[0].states:
        return ROWS
    T, widest = len(layers[0].places), max(max(layer.inputs, layer.width(layer.record.output)) for layer in layers)
    return max(1, min(ROWS, (1 << 24) // (T * widest)))


def _swept(layers: list[Layer], seeds: list[dict[str, Tensor]], origins: Origins) -> dict[tuple[int, str], Tensor]:
    """log2 of the norms, (P, T), by the place of a layer and the name of its output or state."""
    found: dict[tuple[int, str], Tensor] = {}
    levels = sorted({layer.record.layer for layer in layers}, reverse=True)
    both, above = any(layer.record.reverse for layer in layers), list[Scaled]()
    for level in levels:
        sent, start = list[Scaled](), 0
        for k, layer in enumerate(layers):
            if layer.record.layer != level:
                continue
            own, output = layer.when(origins.t, origins.b), layer.record.output
            at = layer.lengths[origins.b] - 1 if above and both else own
            entering = {state: d[origins.t, origins.b] * (own == at)[:, None] for state, d in seeds[k].items()}
            stop = start + layer.width(output)
            parts = [Scaled(values[..., start:stop], exponents) for values, exponents in above]
            if output not in layer.states:
                parts.append(_at_origin(entering.pop(output), origins, len(layer.places)))
            norms, below = sweep(layer, origins, at, entering, _sum(parts), dx=level != levels[-1])
            found |= {(k, name): array for name, array in norms.items()}
            sent += [] if below is None else [below]
            start = stop
        above = sent
    return found


def _at_origin(d: Tensor, origins: Origins, T: int) -> Scaled:
    (values,), shift = scaled([d])
    pairs = torch.arange(len(d))
    found = Scaled(d.new_zeros(T, *d.shape), torch.full((T, len(d)), NOTHING))
    found.values[origins.t, pairs], found.exponents[origins.t, pairs] = values, shift
    return found


def _sum(parts: list[Scaled]) -> Scaled | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    exponents = torch.stack([part.exponents for part in parts]).amax(0)
    values = [times_power(part.values, part.exponents - exponents) for part in parts]
    return Scaled(torch.stack(values).sum(0), exponents)


def _reachable(records: list[Record]) -> list[Record]:
    """The layers to which a loss can be followed from the top: all down to the first dropout between them."""
    level = records[-1].layer
    while level > 0 and reads_the_layer_below(records, next(r for r in records if r.layer == level)):
        level -= 1
    return [record for record in records if record.layer >= level]


def _seeds(layer: Layer, layers: list[Layer]) -> dict[str, Tensor]:
    """What the output and each state receive from outside of all layers, (T, B, ·)."""
    record, output = layer.record, layer.record.output
    found = {name: record.from_outside[name].detach() for name in layer.named}
    from_above = [above.record.dx for above in layers if above.record.layer == record.layer + 1]
    if from_above:
        before = [other for other in layers if other.record.layer == record.layer and record.reverse]
        start = layer.width(output) if len(before) == 2 else 0  # x of the layer above: forward, then reverse
        whole, sent = found[output], torch.stack([dx for dx in from_above if dx is not None]).sum(0)
        rest = whole - sent[..., start : start + layer.width(output)]
        rounding = 16 * torch.finfo(whole.dtype).eps * whole.abs().max()
        found[output] = rest.where((rest.abs() > rounding).any(-1, keepdim=True), 0)
    return {name: layer.in_time(array) for name, array in found.items()}


def _chosen(asking: Tensor, origins: int | Literal["all"] | Sequence[int]) -> Tensor:
    """The steps of the origins, (S,): all that ask for something, so many spread over them, or those that are given.

    asking: (T, B), where a loss enters
    """
    steps = asking.any(1).nonzero()[:, 0]
    if not len(steps):
        raise InputError(
            "Some gradient must enter the network; all of dh_direct is zero on this tape. Is the loss a constant, or "
            "does its mask leave out every step?"
        )
    if origins == "all":
        return steps
    if isinstance(origins, int) and not isinstance(origins, bool) and origins > 0:
        if int(asking.sum()) <= origins * asking.shape[1] or len(steps) <= origins:
            return steps
        return steps[torch.linspace(0, len(steps) - 1, origins).round().long()]
    if isinstance(origins, str) or not isinstance(origins, Sequence) or not origins:
        raise InputError(f'origins must be a number above 0, "all", or a list of steps; got {origins!r}.')
    if unknown := [t for t in origins if t not in steps.tolist()]:
        raise InputError(
            "origins must be steps at which a loss enters, counted from 0; none does at "
            f"{', '.join(map(repr, unknown[:5]))}. Steps with a loss lie between {int(steps[0])} and {int(steps[-1])}."
        )
    return torch.tensor(sorted(set(origins)))


def _check(records: list[Record]) -> None:
    T = records[0].steps.T
    if T < 2:
        raise InputError(
            f"The reach of a gradient needs two steps at least; this tape has {T}. Record a longer sequence."
        )
    for side, kind in (("A", "values"), ("B", "totals")):
        for record in records[:: 1 if side == "A" else -1]:
            arrays = {name: array for name, array in getattr(record, kind).items() if not bool(array.isfinite().all())}
            if arrays:
                raise InputError(_not_finite(record, side, arrays))


def _not_finite(record: Record, side: str, arrays: dict[str, Tensor]) -> str:
    """Where numbers that are not finite come first on their side."""
    layer = Layer.of(record, record.h.dtype if record.h.dtype == torch.float64 else torch.float32)
    bad = {name: (~layer.in_time(array).isfinite()).any(-1) for name, array in arrays.items()}
    steps = torch.stack(list(bad.values())).any(0)
    first = int(steps.any(1).nonzero()[0 if (side == "A") != record.reverse else -1])
    names = [f"{'∂' * (side == 'B')}{name}" for name, where in bad.items() if bool(where[first].any())]
    rows = int(steps[first].sum())
    return (
        f"A reach is that of finite numbers; in layer {record.layer} {layer.direction}, from step t = {first + 1} on, "
        f"{', '.join(names)} are infinite or NaN in {rows} of {steps.shape[1]} rows. "
        + ("Look at what goes in there: tape.x, weights." if side == "A" else "The gradient exploded on its way back.")
    )


def _share(by_lag: Tensor, nearest: int) -> Tensor:
    """log2 of what is left by lag, summed over origins (S) and rows, of (S, L, B) log2 norms."""
    there = ~by_lag.isnan()
    norms = by_lag.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    begin = norms[:, [nearest]].expand_as(norms).masked_fill(~there, -torch.inf)
    left, of = ((math.log(2) * each).logsumexp((0, 2)) / math.log(2) for each in (norms, begin))
    return (left - of).masked_fill(~there.any(2).any(0) | (of == -torch.inf), torch.nan)


def _slope(log2_share: Tensor) -> float:
    """Of the straight line through the natural logarithm of the shares by lag; NaN for fewer than two."""
    lag = log2_share.isfinite().nonzero()[:, 0].double()
    if len(lag) < 2:
        return math.nan
    y, x = log2_share[log2_share.isfinite()] * math.log(2), lag - lag.mean()
    return float((x * y).sum() / x.square().sum())


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers(array: Tensor) -> list[Any]:
    return [_numbers(row) if row.dim() else _number(float(row)) for row in array]


def _listed(values: Tensor | tuple[float, ...]) -> list[Any]:
    return _numbers(torch.as_tensor(values))
