"""Recurrent layers of a cell that is given as text, by name or as a `bptt.Cell`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import Parameter
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from bptt.engine import blocks
from bptt.engine.contract import Layout, Signature
from bptt.engine.evaluation import fixed_lines
from bptt.errors import InputError, did_you_mean
from bptt.nn import initial, tracers
from bptt.nn.arguments import TOKENS, checked_share, checked_size, checked_sizes
from bptt.nn.layers import Functions, Further, LaidOut, Layers, OfLayer
from bptt.sheet import Cell, named
from bptt.sheet.expressions import Expression, Name, Place, Product, children
from bptt.sheet.language import DROP
from bptt.sheet.tokens import spelled


class Recurrent(Layers):
    """A stack of recurrent layers of a cell of your own, in one or both directions.

    cell               a `bptt.Cell`, the name of one that is built in, or the text of one
    hidden_size        the width of the output; also a list with one for each layer, num_layers is then its length
    sizes              the other sizes that the text declares, by their letters: {"S": 16}
    init               how parameters begin: "torch" draws all from U(±1/sqrt(hidden_size)); "orthogonal" draws the
                       matrices that no input is multiplied with, "identity" and "spectral:1.0" the square ones among
                       them, "chrono:400" the biases of gates (`bptt.nn.initial`), and other vectors are zero. Or a dict
                       with such a name or a number for single parameters, {"b_f": 1}. Starts in the text,
                       γ : vector = 1, go before all but the dict
    learn_h0           first states are parameters, zero at first, for rows that are given none, and after a reset
    recurrent_dropout  the probability with which entries of drop(...) are zeroed in training

    num_layers, batch_first, dropout, bidirectional, device, dtype are those of torch.nn.RNN, checkpoint is that of
    `bptt.nn.RNN`. Parameters are named as in the text, with the layer: W_xh_l0, b_h_l1_reverse, h0_l0. Matrices are
    (rows, columns), so x W_xh is x @ W_xh.

    Called as `bptt.nn.RNN` is, it returns what that returns. Where the cell has several states, hx and h_n are tuples
    with one for each, the output first. Beside that a call takes

    inputs   by their names what the text declares as input, (T, B, width) laid out as x is or without the last axis
             where it is 1 wide, and as rows, (B, width): a mask, a time between steps. All layers read them

    Raises InputError for cells, sizes and beginnings that do not fit; errors of a call are those of `bptt.nn.RNN`.

    >>> rnn = Recurrent("lstm", 10, 20, num_layers=2, init={"b_f": 1})
    >>> output, (h_n, c_n) = rnn(torch.zeros(5, 3, 10))
    >>> output.shape, c_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    known_as = "Recurrent"

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        *,
        sizes: Mapping[str, int] | None = None,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        init: str | Mapping[str, str | float] = "torch",
        learn_h0: bool = False,
        recurrent_dropout: float = 0.0,
        checkpoint: blocks.Checkpoint = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        cell = as_cell(cell)
        blocks.check(checkpoint)
        checked_share("dropout", dropout)
        checked_share("recurrent_dropout", recurrent_dropout)
        self.cell, self.input_size, self.sizes = cell, checked_size("input_size", input_size), _as_dict("sizes", sizes)
        if isinstance(hidden_size, Sequence) and not isinstance(hidden_size, str):
            self.hidden_size = checked_sizes(hidden_size, num_layers)
            num_layers = len(self.hidden_size)
        else:
            self.hidden_size = checked_size("hidden_size", hidden_size)
        self.num_layers, self.batch_first, self.bidirectional = (
            checked_size("num_layers", num_layers),
            batch_first,
            bidirectional,
        )
        self.dropout, self.recurrent_dropout, self.checkpoint = dropout, recurrent_dropout, checkpoint
        self.learn_h0 = learn_h0
        self.init = initial.checked(init)
        sheet = cell.sheet
        self._names = tuple(name for name, given in sheet.given.items() if given.learned)
        self._signature, self._layout = Signature.of(cell), Layout.of(cell)
        self._of_rows = [name for name in self._signature.masks if sheet.given[name].kind == "rows"]
        self._x_itself = next((place for line in sheet.steps for place in _places_of_x(line.value)), None)
        self.hands_on_output_alone = sheet.states == (sheet.output,)
        self.reads_further = bool(self._of_rows or self._signature.inputs)
        self._check_sizes()
        self._check_parameters()
        for k in range(self.count):
            lengths = self._lengths(k)
            for name in self._names:
                axes = sheet.shapes.get(name) or (sheet.widths[name],)
                shape = [lengths[axis] for axis in axes]
                self.register_parameter(
                    self._called(name, k), Parameter(torch.empty(shape, device=device, dtype=dtype))
                )
            for name in sheet.states if learn_h0 else ():
                width = lengths[sheet.widths[name]]
                first = Parameter(torch.empty(width, device=device, dtype=dtype))
                self.register_parameter(self._called(f"{name}0", k), first)
        self.reset_parameters()

    def _called(self, name: str, k: int) -> str:
        return f"{name}_l{k // self.directions}{'_reverse' if self._is_reverse(k) else ''}"

    def _hidden(self, layer: int) -> int:
        return self.hidden_size if isinstance(self.hidden_size, int) else self.hidden_size[layer]

    def _entering(self, k: int) -> int:
        """How wide the input of one layer and direction is."""
        layer = k // self.directions
        return self.directions * self._hidden(layer - 1) if layer else self.input_size

    def _lengths(self, k: int) -> dict[str, int]:
        """The sizes of the sheet in one layer and direction."""
        own = {self.cell.sheet.widths["x"]: self._entering(k)}
        return {"1": 1, **self.sizes, **own, "H": self._hidden(k // self.directions)}

    def _check_sizes(self) -> None:
        sheet = self.cell.sheet
        declared = {size for size, _ in sheet.sizes.values()} - {"I", "H"}
        if declared != self.sizes.keys():
            raise InputError(
                "sizes= gives a number to each size that the text of the cell declares beside I and H, here "
                f"{_listed(declared)}; got {_listed(self.sizes)}."
                + (f" Write sizes={{{', '.join(f'{size!r}: 16' for size in sorted(declared))}}}." if declared else "")
            )
        for name, size in self.sizes.items():
            checked_size(f"sizes[{name!r}]", size)
        of_layers = [self._lengths(k) for k in range(self.count)]
        for k, lengths in enumerate(of_layers):
            entering = self._entering(k)
            if sheet.equal and entering != lengths["H"]:
                raise sheet.refusal(
                    sheet.equal[0][2],
                    f"this line needs inputs as wide as the output; layer {k // self.directions} gets {entering} "
                    f"numbers and has hidden_size {lengths['H']}",
                    "Above the first, layers in both directions get the outputs of both: leave one layer, or give x a "
                    "matrix."
                    if self.bidirectional and k
                    else "Make the two equal, or give x a matrix, x_t W_xk.",
                )
        for name in sheet.states if isinstance(self.hidden_size, int) else ():
            widths = [lengths[sheet.widths[name]] for lengths in of_layers]
            if len({*widths}) > 1:
                raise InputError(
                    f"states of all layers lie in one array, and {name} of this cell is as wide as the input of its "
                    f"layer, here {_listed(map(str, {*widths}))}. Leave one layer, make the widths equal, or give "
                    "hidden_size as a list, one for each layer."
                )
        for name in (*self._of_rows, *self._signature.inputs):
            widths = {lengths[sheet.widths[name]] for lengths in of_layers}
            if len(widths) > 1:
                raise InputError(
                    f"all layers read the same {name}, which is {sheet.widths[name]} wide, and here their "
                    f"{sheet.widths[name]} differs: {_listed(map(str, widths))}. Make them equal, or each layer a "
                    "Recurrent."
                )

    def _check_parameters(self) -> None:
        sheet = self.cell.sheet
        if not self._names:
            raise InputError(
                f"a layer has parameters to learn, and this cell has none:\n{self.cell.text.strip()}\nGive it a matrix "
                "or a vector, for example x_t W_xh + b_h."
            )
        clash = [f"{name}0" for name in sheet.states if self.learn_h0 and f"{name}0" in self._names]
        if clash:
            raise InputError(
                f"learn_h0 makes a parameter {clash[0]}, and the text of the cell has one. Rename its own."
            )
        if self.recurrent_dropout and all(given.kind != DROP for given in sheet.given.values()):
            raise InputError(
                "recurrent_dropout is for what stands in drop(...), and the text of this cell has no drop; got "
                f"{self.recurrent_dropout}. Write drop(h_{{t-1}}) where the past comes in, or leave it 0."
            )
        initial.check_names(self.cell, self.init)

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as `init` and the text of the cell say."""
        for k in range(self.count):
            bound = self._lengths(k)["H"] ** -0.5
            parameters = {name: [getattr(self, self._called(name, k))] for name in self._names}
            initial.fill(
                self.cell, self.init, parameters, lambda tensor, a=bound: torch.nn.init.uniform_(tensor, -a, a)
            )
            for name in self.cell.sheet.states if self.learn_h0 else ():
                torch.nn.init.zeros_(getattr(self, self._called(f"{name}0", k)))

    def extra_repr(self) -> str:
        said = f"{self.cell.name!r}, {self.input_size}, {self.hidden_size}"
        usual = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False, "sizes": {}}
        usual |= {"init": "torch", "learn_h0": False, "recurrent_dropout": 0.0, "checkpoint": None}
        for name, value in usual.items():
            if getattr(self, name) != value:
                said += f", {name}={getattr(self, name)!r}"
        return said

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | Sequence[Any] | None = None,
        mask: Tensor | Sequence[Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        return_all_layers: bool = False,
    ) -> tuple[Any, ...]:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return tracers.node(
                self, input, hx, lengths=lengths, reset=reset, mask=mask, inputs=inputs,
                return_all_layers=return_all_layers,
            )  # fmt: skip
        if tracers.are_per_sample(getattr(self, self._called(name, 0)) for name in self._names):
            raise tracers.refused(self, tracers.PER_SAMPLE)
        if (input.data if isinstance(input, PackedSequence) else input).dtype in TOKENS:
            self.check_reads_tokens()
        weights = [self.tensors_of(k) for k in range(self.count)]
        return self.called(input, hx, lengths, reset, mask, return_all_layers, weights, inputs)

    def check_reads_tokens(self) -> None:
        if self._x_itself is not None:
            raise self.cell.sheet.refusal(
                self._x_itself,
                "integer x holds tokens, which stand for rows of the matrices that x_t is multiplied with, and here "
                "x_t stands by itself",
                "Give numbers: the output of a torch.nn.Embedding, or torch.nn.functional.one_hot(x, input_size).",
            )

    def __prepare_scriptable__(self) -> Any:
        """Called by torch.jit.script."""
        raise tracers.not_scripted(self, "torch has no class for a cell of its own.")

    def _slow_forward(self, *_: Any, **__: Any) -> Any:
        """Called by torch in the place of `forward` while torch.jit.trace looks on."""
        raise tracers.refused(self, tracers.JIT)

    def cell_now(self) -> tuple[Cell, Functions | None]:
        return self.cell, None

    def tensors_of(self, k: int) -> Sequence[Tensor]:
        return [getattr(self, self._called(name, k)) for name in self._names]

    def completed(self, parameters: list[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        found = []
        for k, of_layer in enumerate(parameters):
            given = dict(zip(self._names, of_layer, strict=True))
            if self.cell.sheet.fixed:
                given |= fixed_lines(self.cell, given, self._lengths(k))
            found.append([given[name] for name in self._layout.names])
        return found

    def learned(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._names, parameters, strict=True)) if self.cell.sheet.fixed else {}

    def learnt_first(self, k: int) -> OfLayer:
        return [getattr(self, self._called(f"{name}0", k))[None, None] for name in self.cell.sheet.states]

    def widths_of_states(self, k: int) -> Sequence[int]:
        lengths = self._lengths(k)
        return [lengths[self.cell.sheet.widths[name]] for name in self.cell.sheet.states]

    def _masks(
        self, cell: Cell, x: Tensor, states: list[OfLayer], further: Further, like: Tensor, sizes: Any
    ) -> list[list[Tensor]]:
        found: list[list[Tensor]] = [[] for _ in range(self.count)]
        p, B = self.recurrent_dropout, self._rows(x, states, sizes)
        for k, of_layer in enumerate(found):
            for name in self._signature.masks:
                if name in further.rows:
                    of_layer.append(further.rows[name])
                else:  # of drop
                    ones = like.new_ones(B, self._lengths(k)[cell.sheet.widths[name]])
                    of_layer.append(F.dropout(ones, p) if p and self.training else ones)
        return found

    def _further(
        self,
        inputs: Mapping[str, Any] | None,
        rows: Sequence[int],
        B: int,
        like: Tensor,
        unbatched: int | None,
        laid_out: LaidOut,
    ) -> Further:
        wanted = [*self._of_rows, *self._signature.inputs]
        given = {spelled(name): d for name, d in _as_dict("inputs", inputs).items()}
        if given.keys() != set(wanted) or len(given) != len(inputs or {}):
            strange = next((name for name in given if name not in wanted), None)
            raise InputError(
                f"inputs= are those that the text of the cell names beside x, here {', '.join(wanted) or 'none'}; got "
                f"{_listed(inputs or {})}.{did_you_mean(strange or '', wanted)}"
            )
        lengths, widths = self._lengths(0), self.cell.sheet.widths

        def checked(name: str, d: Tensor, axis: int | None, lead: Sequence[int]) -> Tensor:
            width = lengths[widths[name]]
            if d.device != like.device:
                raise RuntimeError(
                    f"inputs[{name!r}] must be on {like.device}, where the parameters are; got {d.device}. Move one of "
                    "them with .to()"
                )
            if axis is not None:
                d = d.unsqueeze(axis)
            if width == 1 and d.shape == torch.Size(lead):
                d = d.unsqueeze(-1)
            if d.shape != (*lead, width):
                expected, got = [*lead, width], [*d.shape]
                if axis is not None:
                    del expected[axis], got[axis]
                raise ValueError(
                    f"inputs[{name!r}] must have shape {tuple(expected)}, "
                    f"{'a row for each row of the batch' if name in self._of_rows else 'laid out as the input'}; got "
                    f"{tuple(got)}"
                )
            return d.to(like.dtype)

        of_rows, steps = {}, []
        for name in self._of_rows:
            d = given[name]
            if not isinstance(d, Tensor) or d.is_nested:
                raise InputError(f"inputs[{name!r}] must be a tensor, a row for each row; got {type(d).__name__}.")
            if d.requires_grad and torch.is_grad_enabled():
                raise InputError(
                    f"inputs[{name!r}] is declared as rows, a mask, which has no gradient; got one that requires a "
                    "gradient. Detach it, or declare it as input and give it for each step."
                )
            of_rows[name] = checked(name, d, None if unbatched is None else 0, (B,))
        for name in self._signature.inputs:
            d = laid_out(given[name])
            if d is None:
                raise InputError(
                    f"inputs[{name!r}] must be laid out as the input, a tensor beside a tensor; beside a packed or "
                    "jagged input another such one, with the same lengths in the same order; got "
                    f"{type(given[name]).__name__}."
                )
            steps.append(checked(name, d, unbatched, rows))
        return Further(of_rows, steps)


def as_cell(cell: Any) -> Cell:
    """A `bptt.Cell`, also from the name of one that is built in, or from the text of one; else InputError."""
    if isinstance(cell, str):
        return Cell(cell) if "=" in cell else named(cell)
    if not isinstance(cell, Cell):
        raise InputError(
            f"cell must be a bptt.Cell, the name of one that is built in, or the text of one; got "
            f"{type(cell).__name__}."
        )
    return cell


def _places_of_x(e: Expression) -> list[Place | None]:
    """Where x_t stands other than left of a matrix."""
    match e:
        case Product(Name("x", 0)):
            return []
        case Name("x", 0):
            return [e.place]
    return [place for part in children(e) for place in _places_of_x(part)]


def _as_dict(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping | None):
        raise InputError(f"{name}= is a dict, from names to what each is given; got {type(given).__name__}.")
    return dict(given or {})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
