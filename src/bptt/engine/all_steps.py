"""An environment of expressions in which every name has the rows of all steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bptt.engine.contract import Made, Signature, Weights, sizes_of
from bptt.engine.evaluation import SIZE, Environment, evaluated, key_of
from bptt.engine.steps import Steps
from bptt.sheet import Cell


class AllSteps(Environment):
    """All that the way back of a layer reads beside cotangents, arrays (N, ·); made when it is asked for.

    Parameters and sizes, which have no rows, are in it too. Arguments as for `contract.Engine.backward`.
    """

    def __init__(
        self,
        cell: Cell,
        weights: Weights,
        made: Made,
        x: Tensor,
        first: Sequence[Tensor | None],
        steps: Steps,
        extras: Sequence[Tensor],
    ) -> None:
        signature = Signature.of(cell)
        masks = len(signature.masks)
        length = sizes_of(cell, weights, x, first, extras)
        self.without_rows: Environment = {(size, SIZE): n for size, n in length.items()}
        self.without_rows |= {(name, None): tensor for name, tensor in weights.by_name().items()}
        super().__init__(self.without_rows)
        self.cell, self.steps, self.y = cell, steps, made.y
        self.first = dict(zip(signature.states, first, strict=True))
        self.masks = dict(zip(signature.masks, extras, strict=False))
        self.arrays = {"x": x, signature.output: made.y} | dict(zip(signature.inputs, extras[masks:], strict=True))
        self.arrays |= {key_of(e): array for e, array in zip(signature.kept, made.kept, strict=True)}

    def __missing__(self, key: tuple[str, int | str | None]) -> Any:
        self[key] = self._made(*key)
        return self[key]

    def has_rows(self, key: tuple[str, int | str | None]) -> bool:
        name, step = key
        return step in (0, -1) or (step is None and name in self.masks)

    def of_sample(self, v: int, samples: int) -> Environment:
        """Of the rows r * samples + v of every step alone."""
        return _Sample(self, v, samples)

    def _made(self, name: str, step: int | str | None) -> Any:
        if step is None:
            return self.steps.at_every_step(self.masks[name])
        if step == -1:
            array, first = self.arrays[name], self.first[name]
            if first is None:
                first = array.new_zeros(1, self.steps.B, array.shape[-1])
            return self.steps.previous_of(self.steps.with_first(array, first)).flatten(0, -2)
        if name in self.arrays:
            array = self.arrays[name]
            return array.flatten(0, -2) if array.is_floating_point() else array.flatten()
        line = next(line for line in self.cell.derivation.steps if line.name == name)
        value = torch.as_tensor(evaluated(line.value, self.cell)(self), dtype=self.y.dtype)
        return value.expand(sum(self.steps.rows_of_steps), self[self.cell.derivation.widths[name], SIZE])


class _Sample(Environment):
    def __init__(self, whole: AllSteps, v: int, samples: int) -> None:
        super().__init__(whole.without_rows)
        self.whole, self.v, self.samples = whole, v, samples

    def __missing__(self, key: tuple[str, int | str | None]) -> Any:
        self[key] = self.whole[key].unflatten(0, (-1, self.samples))[:, self.v]
        return self[key]
