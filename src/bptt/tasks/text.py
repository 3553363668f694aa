"""Text: a network learns to predict each next symbol, and so to write.

Every stream of the text is read from its beginning to its end, window after window. The state is carried over; the
gradient stops where a window begins. With k1 smaller than the window there is an update every k1 steps, and its
gradient goes back through the whole window (`bptt.truncated`). With the window "full" nothing is truncated: every
stream is read from end to end in one step, in blocks of time and bounded memory (`Network.loss_of`). The held-out part
is the end of the text.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from bptt import train
from bptt.errors import InputError
from bptt.nn import Network
from bptt.nn.stream import each
from bptt.tasks import data, network
from bptt.tasks.data import Unit, Vocabulary
from bptt.train import Measure, truncated

EVALUATION_STREAMS = 32
EVALUATION_STEPS = 256
EVALUATION_OUTPUTS = 1 << 23  # elements of o computed at a time, 32 MB; at least those of one prediction


@dataclass(frozen=True)
class Recipe(network.Recipe):
    """Everything that decides a training besides the text. The defaults are those of the demo.

    unit, words      a symbol is a "character", a "byte" or a "word"; the largest number of different words
    bptt             window length k2, the steps that the gradient goes back; "full": a whole stream
    k1               steps from one update to the next; None: bptt
    streams          parts of the text that are read side by side, the batch
    held_out         share of the text, at its end, kept for evaluation
    """

    unit: Unit = "character"
    words: int = 10_000
    hidden: int = 256
    bptt: int | Literal["full"] = 64
    k1: int | None = None
    streams: int = 32
    held_out: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        train.require_one_of("unit", self.unit, get_args(Unit))
        train.require_whole("words", self.words, least=2)
        for name in ("hidden", "streams"):
            train.require_whole(name, getattr(self, name))
        train.require_whole("k1", self.k1, optional=True)
        if self.bptt != "full":
            train.require_whole("bptt", self.bptt)
        if self.k1 is not None and (self.bptt == "full" or self.k1 > self.bptt):
            raise InputError(
                f"An update every k1 steps goes back through bptt steps, so k1 must be at most bptt; got k1={self.k1}, "
                f"bptt={self.bptt}. With fewer steps back than forward some would have a loss and no gradient."
            )
        train.require_share("held_out", self.held_out)
        if self.patience is not None and self.held_out == 0:
            raise InputError("patience waits for the held-out text to improve, and held_out is 0; give only one.")

    def window(self, length: int) -> int:
        """Steps of a window in streams of this length."""
        return length if self.bptt == "full" else self.bptt


class Text:
    """The task: a text, its vocabulary, and the recipe. See `bptt.train.Task`."""

    name: ClassVar[str] = "text"
    Recipe = Recipe
    evaluates_at_start = False

    def __init__(self, text: data.Corpus, recipe: Recipe, vocabulary: Vocabulary | None = None) -> None:
        """Raises InputError where the text is too short for the recipe, or has symbols outside the vocabulary."""
        self.vocabulary = vocabulary or Vocabulary.of(text, recipe.unit, recipe.words, recipe.held_out)
        tokens = self.vocabulary.encode(text)
        self.recipe, self.source, self.sha256, self.size = recipe, text.source, text.sha256, len(tokens)
        training, self.held_out = data.split(tokens, recipe.held_out)
        self.streams = data.windows(training, recipe.streams, recipe.window(1)).tokens
        length = len(self.streams) - 1
        self.windows = list(truncated.windows(length, recipe.k1 or recipe.window(length), recipe.window(length)))
        self.widths = recipe.widths_of_states(len(self.vocabulary))
        self.state = (recipe.layers, recipe.streams, sum(self.widths))
        self.workers = 1
        short = "char" if recipe.unit == "character" else recipe.unit
        self.items = f"{short}s"
        self.measure = Measure(f"bits per {recipe.unit}", f"bits/{short}", "bits", 1 / math.log(2))

    @classmethod
    def again(cls, about: Mapping[str, Any], recipe: Recipe, source: str) -> "Text":
        return cls(data.reread(source), recipe, Vocabulary.from_json(about["vocabulary"]))

    def about(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary.as_json()}

    @staticmethod
    def network(about: Mapping[str, Any], recipe: Recipe) -> Network:
        symbols = len(Vocabulary.from_json(about["vocabulary"]))
        layers = recipe.recurrent_layers(symbols)
        layers.check_reads_tokens()
        return Network(layers, symbols)

    def prepare(self, model: Network) -> None:
        pass

    def __len__(self) -> int:
        return len(self.windows)

    def loss(self, model: Network, step: int, h: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
        if self.recipe.bptt == "full":
            tokens = self.streams.to(torch.int64)
            loss, _ = model.loss_of(tokens[:-1], tokens[1:])
            return loss if self.workers == 1 else loss / self.workers, None, tokens[1:].numel()
        place = step % len(self.windows)
        window = self.windows[place]
        last = place + 1 == len(self.windows)
        tokens = self.streams[window.start : window.end + 1].to(torch.int64)
        next_start = window.end if last else self.windows[place + 1].start
        o, state, _ = truncated.through(model, tokens[:-1], self._apart(h), next_start - window.start)
        y = tokens[window.fresh - window.start + 1 :]
        loss = model.loss(o[window.fresh - window.start :], y)
        h = None if last or state is None else _as_one(state)
        return loss if self.workers == 1 else loss / self.workers, h, y.numel()

    def _apart(self, h: Tensor | None) -> Any:
        """The states of the cell as the network takes them, from the one array that is carried."""
        if h is None or len(self.widths) == 1:
            return h
        return tuple(part.contiguous() for part in h.split(self.widths, -1))

    def shard(self, rank: int, workers: int) -> "Text":
        if self.recipe.streams % workers:
            raise InputError(
                f"Each worker reads as many streams as any other, so their number must divide the streams; got "
                f"{self.recipe.streams} streams and {workers} workers. Start as many workers as divide "
                f"{self.recipe.streams}, or train anew with --streams {-(-self.recipe.streams // workers) * workers}."
            )
        part = copy.copy(self)
        part.workers, streams = workers, self.recipe.streams // workers
        part.streams = self.streams[:, rank * streams : (rank + 1) * streams].contiguous()
        part.state = (self.recipe.layers, streams, sum(self.widths))
        return part

    def evaluate(self, model: Network) -> float | None:
        return nats_per_token(model, self.held_out) if len(self.held_out) else None


@torch.no_grad()
def nats_per_token(model: Network, tokens: Tensor) -> float:
    """Mean of −ln ŷ over all tokens of a text but the first, each predicted once.

    The text (N,) is read as up to 32 streams, each from the zero state, so the figure is slightly above that of one
    continuous reading.
    """
    was_training = model.training
    model.eval()
    streams = min(EVALUATION_STREAMS, len(tokens) - 1)
    nats, h = 0.0, None
    windows = data.windows(tokens, streams, min(EVALUATION_STEPS, (len(tokens) - 1) // streams))
    for x, y in windows:
        more, h = _nats(model, x, y, h)
        nats += more
    rest = tokens[(len(windows.tokens) - 1) * streams :].to(torch.int64)[:, None]
    if len(rest) > 1:
        assert h is not None
        nats += _nats(model, rest[:-1], rest[1:], _rows_of(h, slice(-1, None)))[0]
    model.train(was_training)
    return nats / (len(tokens) - 1)


def _nats(model: Network, x: Tensor, y: Tensor, h: Any) -> tuple[float, Any]:
    """Sum of −ln ŷ over all steps and rows of a window (T, B), computed in parts, and h_n."""
    O = model.readout.out_features
    rows = min(max(1, EVALUATION_OUTPUTS // O), x.shape[1])
    steps = max(1, EVALUATION_OUTPUTS // (O * rows))
    nats, ends = 0.0, []
    for row in range(0, x.shape[1], rows):
        columns = slice(row, row + rows)
        h_t = None if h is None else _rows_of(h, columns)
        for x_now, y_now in zip(x[:, columns].split(steps), y[:, columns].split(steps), strict=True):
            o, h_t = model(x_now, h_t)
            nats += float(model.loss(o, y_now)) * y_now.numel()
        ends.append(h_t)
    return nats, _beside(ends)


def _as_one(state: Any) -> Tensor:
    return state if isinstance(state, Tensor) else torch.cat(state, -1)


def _rows_of(state: Any, rows: slice) -> Any:
    return each(lambda h: h[:, rows].contiguous(), state)


def _beside(states: list[Any]) -> Any:
    if isinstance(states[0], Tensor):
        return torch.cat(states, 1)
    return tuple(torch.cat(of_one, 1) for of_one in zip(*states, strict=True))
