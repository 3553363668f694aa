"""What Jacobians and weights of a layer say of its gradient: exponents, singular values, radii, saturation."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bptt.autograd.recorded import Record
from bptt.sheet.expressions import Call, Name, Product, walk
from bptt.tape.alone import Back, Layer

ROWS = 4
LEADING = 8
FARTHEST = 128
"""Steps between the states whose Jacobian has its singular values taken, at most."""
WIDE = 1024
"""Rows of a Jacobian that go back together, at most."""
STEEPEST = {"tanh": 1.0, "σ": 0.25, "relu": 1.0}
SATURATED = 0.05
"""A number is saturated where the slope of its function is below this share of the steepest."""


def exponents(record: Record) -> Tensor:
    """The leading Lyapunov exponents of the states of a layer, (R, ≤ 8) for at most four rows: natural logarithms of
    the factor per step, largest first; −inf for directions that end.

    By QR along time (Benettin et al., 1980), in float64 and in the order of the way back: eight orthonormal columns,
    the QR of standard normal numbers with seed 0, go back through one step after another, ∂s_t/∂s_{t−1} transposed, of
    all states side by side, and are made orthonormal again; an exponent is the mean of log |R_ii| over the steps.
    Rows are the first of those that are as long as the longest.
    """
    layer, rows = _of_the_longest(record, ROWS)
    widths = [layer.width(state) for state in layer.states]
    steps, several = int(layer.lengths.max()), min(LEADING, sum(widths))
    drawn = torch.randn(sum(widths), several, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    columns = torch.linalg.qr(drawn).Q.expand(len(rows), -1, -1)
    total = torch.zeros(len(rows), several, dtype=torch.float64)
    of = rows.repeat_interleave(several)
    for step in reversed(range(steps)):
        d_last = columns.mT.flatten(0, 1).contiguous().split(widths, 1)
        back = _one_step(layer, step, of, [d.contiguous() for d in d_last])
        columns, R = torch.linalg.qr(torch.cat(back.first, 1).unflatten(0, (-1, several)).mT)
        total += R.diagonal(dim1=1, dim2=2).abs().log()
    return (total / steps).sort(dim=1, descending=True).values


def singular_values(record: Record) -> dict[int, Tensor]:
    """The largest singular values of ∂h_t/∂h_{t−k}, (R, ≤ 8), by k = 1, 2, 4, … up to 128; t is the last step.

    h is the output, or the first state of a cell whose output is none; what else goes back, such as the cell state of
    an LSTM, takes part in between. At most four rows, fewer of a wide layer. In float64.
    """
    name = record.output if record.output in record.first else next(iter(record.first))
    width = record.values[name].shape[-1]
    layer, rows = _of_the_longest(record, max(1, min(ROWS, WIDE // width)))
    steps, at = int(layer.lengths.max()), layer.states.index(name)
    d = layer.zeros(len(rows) * width)
    d[at] = torch.eye(width, dtype=torch.float64).repeat(len(rows), 1)
    of, found = rows.repeat_interleave(width), dict[int, Tensor]()
    for k in range(1, min(steps - 1, FARTHEST) + 1):
        d = _one_step(layer, steps - k, of, d).first
        if k & (k - 1) == 0:
            found[k] = torch.linalg.svdvals(d[at].unflatten(0, (-1, width)))[:, :LEADING]
    return found


def radius(record: Record) -> dict[str, float]:
    """The largest |eigenvalue| of each square matrix that multiplies a state of the step before."""
    found = {}
    for line in record.cell.derivation.steps:
        for e in walk(line.value):
            match e:
                case Product(Name(_, -1), Name(matrix, None)) if len(set(record[matrix].shape)) == 1:
                    found[matrix] = float(torch.linalg.eigvals(record[matrix].double()).abs().max())
    return found


def saturation(record: Record) -> dict[str, tuple[float, float]]:
    """For each value that is tanh, σ or relu of something: the share of its numbers that are saturated, and that of
    units which are so at every step of every row, dead ones.

    A number is saturated where the slope of its function is below 5 % of the steepest: |tanh| above 0.975, σ below
    0.0127 or above 0.9873, relu 0.
    """
    found = {}
    for name, function in bounded(record):
        y = record.values[name].flatten(0, -2)
        slope = {"tanh": lambda y: 1 - y**2, "σ": lambda y: y * (1 - y), "relu": lambda y: (y > 0).to(y.dtype)}
        is_flat = slope[function](y) < SATURATED * STEEPEST[function]
        found[name] = (float(is_flat.double().mean()), float(is_flat.all(0).double().mean()))
    return found


def bounded(record: Record) -> Iterator[tuple[str, str]]:
    """Names of values that are tanh, σ or relu of something, with that function."""
    for line in record.cell.derivation.steps:
        if isinstance(line.value, Call):
            function = record.cell.sheet.functions.get(line.value.function, line.value.function)
            if function in STEEPEST:
                yield line.name, function


def truncation(layer: Layer) -> dict[int, tuple[float, float]]:
    """What truncated BPTT would lose: (cosine, ‖truncated − full‖ / ‖full‖) of the gradient of all parameters of the
    layer, by windows of k = 1, 2, 4, … steps, between which no gradient goes back.

    What enters the layer from above is as it was. The windows begin at the first step.
    """
    T = len(layer.places)
    full = _windowed(layer, T)
    norm = full.norm()
    found = {}
    for k in (1 << j for j in range((T - 1).bit_length())):
        own = _windowed(layer, k)
        found[k] = (float(own @ full / (own.norm() * norm)), float((own - full).norm() / norm))
    return found


def _windowed(layer: Layer, window: int) -> Tensor:
    """The gradient of all parameters, in one row, with windows of so many steps."""
    record, rows = layer.record, torch.arange(layer.record.batch)
    sizes = (layer.lengths > torch.arange(len(layer.places))[:, None]).sum(1).tolist()
    of_output = record.from_outside[record.output].detach().cpu().flatten(0, -2).to(layer.dtype)
    total = [torch.zeros_like(tensor) for tensor in layer.weights.tensors if tensor is not None]
    for start in range(0, len(sizes), window):
        of_window = [size for size in sizes[start : start + window] if size]
        if not of_window:
            break
        now = of_window[0]
        d_last = layer.zeros(now)
        ends = (layer.lengths[:now] - 1).clamp(max=start + len(of_window) - 1)
        own = ends == layer.lengths[:now] - 1
        for state, d in zip(layer.states, d_last, strict=True):
            if state != record.output:
                last = record.from_outside[state].detach().cpu().flatten(0, -2)[layer.places[ends, rows[:now]]]
                d += last.to(layer.dtype) * own[:, None]
        places = torch.cat([layer.places[start + k, :size] for k, size in enumerate(of_window)])
        before = layer.places[start - 1, :now] if start else None
        layer.back(of_window, places, before, rows[:now], d_last, dy=of_output[places], d_weights=total)
    return torch.cat([d.flatten() for d in total])


def _one_step(layer: Layer, step: int, of: Tensor, d_last: list[Tensor]) -> Back:
    before = layer.places[step - 1, of] if step else None
    return layer.back([len(of)], layer.places[step, of], before, of, d_last)


def _of_the_longest(record: Record, count: int) -> tuple[Layer, Tensor]:
    layer = Layer.of(record, torch.float64)
    return layer, (layer.lengths == layer.lengths.max()).nonzero()[:count, 0]
