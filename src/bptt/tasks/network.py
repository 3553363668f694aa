"""What the recipes of all tasks say of the network: which cell, how many units, how many layers."""

from dataclasses import dataclass

from bptt import train
from bptt.engine.functions import NONLINEARITIES
from bptt.errors import InputError, SettingError
from bptt.nn.layers import Layers
from bptt.nn.network import layers_of
from bptt.sheet import Cell, named


@dataclass(frozen=True)
class Recipe(train.Recipe):
    """The recipe of a training whose network has recurrent layers.

    cell            the name of the cell: one that is built in, or any where `equations` are given
    equations       the text of a cell of one's own
    hidden, layers  hidden units of each of the stacked layers
    nonlinearity    φ of A3 in the plain cell, which alone has a choice: None is tanh
    """

    cell: str = "elman"
    equations: str | None = None
    hidden: int | None = None
    layers: int = 1
    nonlinearity: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        train.require_layers(self.layers)
        if not isinstance(self.cell, str) or not self.cell.isprintable() or not 0 < len(self.cell) <= 255:
            raise SettingError("cell", f"must be the name of a cell; got {self.cell!r}.")
        if not isinstance(self.equations, str | None):
            raise SettingError("equations", f"must be the text of a cell; got {type(self.equations).__name__}.")
        cell = self.as_cell()
        further = [name for name, given in cell.sheet.given.items() if given.kind in ("rows", "input")]
        if further:
            raise InputError(
                f"A training gives a cell x and nothing else; the cell {self.cell!r} also reads {', '.join(further)}. "
                "Take that out of its text, or train it with bptt.nn.Recurrent and bptt.fit."
            )
        if cell is not named("elman"):
            if self.nonlinearity is not None:
                raise SettingError(
                    "nonlinearity",
                    f"is the φ of the plain cell; got {self.nonlinearity!r} with the cell {self.cell!r}, whose text "
                    "names its own functions. Leave it out, or take the cell elman.",
                )
        elif self.nonlinearity is None:
            object.__setattr__(self, "nonlinearity", "tanh")
        else:
            train.require_one_of("nonlinearity", self.nonlinearity, NONLINEARITIES)

    def as_cell(self) -> Cell:
        return named(self.cell) if self.equations is None else Cell(self.equations, self.cell)

    def units(self) -> str:
        """The layers in words: "2 x 256 lstm units"."""
        stack = f"{self.layers} x " if self.layers > 1 else ""
        φ = f" ({self.nonlinearity})" if self.nonlinearity else ""
        return f"{stack}{self.hidden} {self.cell} units{φ}"

    def widths_of_states(self, input_size: int) -> list[int]:
        """Of the first layer; sizes that the text of the cell declares are as many as the hidden units."""
        assert self.hidden is not None
        sheet, length = self.as_cell().sheet, {"1": 1, "I": input_size}
        return [length.get(sheet.widths[name], self.hidden) for name in sheet.states]

    def recurrent_layers(self, input_size: int, *, bidirectional: bool = False) -> Layers:
        """Raises InputError for a cell that does not fit this input."""
        assert self.hidden is not None
        return layers_of(
            self.as_cell(),
            input_size,
            self.hidden,
            self.layers,
            nonlinearity=self.nonlinearity,
            bidirectional=bidirectional,
        )
