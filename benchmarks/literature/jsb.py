"""Bach's chorales: `python -m benchmarks.literature.jsb PATH/JSB_Chorales.mat --seeds 0 1 2`.

Every step of a piece is a chord, 88 keys that sound or do not; the network says the next one. The file is that of the
comparison by Bai, Kolter and Koltun (2018), with its parts of 229, 76 and 77 pieces. Figure: the negative
log-likelihood per step, the binary cross entropy in nats summed over keys and averaged over all predicted steps of all
pieces of a part. The first chord of a piece is not predicted.

The network is an Elman network, `HIDDEN` tanh units, exact backpropagation through whole pieces: packed batches of 16,
the loss averaged over the batch's real steps, no augmentation. Beyond the plainest recipe, for what it brought on the
validation part (docs/results.md): W_hh starts as `GAIN` times the identity, half of its elements, drawn anew, are left
out of each update (DropConnect, as in Merity et al., 2017), and an exponential average of the weights is what is read.
Adam, rate falling along a cosine, norm of the gradient clipped at 1. The average is read on the validation part every
`BETWEEN_READINGS` epochs; the best reads the test part once, at the end.
"""

# pyright: reportMissingImports=false
# SciPy is installed for benchmarks only, so it is imported where a file is read.

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.literature.outcome import Lines, mean_and_spread, parser
from benchmarks.report import Table
from bptt.nn import Elman
from bptt.sheet import losses

KEYS = 88
HIDDEN, GAIN, DROPPED = 100, 0.7, 0.5
EPOCHS, BATCH, LEARNING_RATE, CLIP, AVERAGED, BETWEEN_READINGS = 250, 16, 4e-3, 1.0, 0.98, 5

# Test figures of plain recurrent networks, and for orientation of others.
PUBLISHED = {
    "tanh network, 100 units, Chung et al. (2014)": 9.10,
    "recurrent network, Bai et al. (2018)": 8.91,
    "LSTM, the same": 8.45,
    "GRU, the same": 8.43,
    "temporal convolutional network, the same": 8.10,
}

Pieces = Sequence[Tensor]


def load(path: Path) -> dict[str, Pieces]:
    """The three parts, each a list of pieces (steps, 88) of zeros and ones."""
    from scipy.io import loadmat

    names = {"training": "traindata", "validation": "validdata", "test": "testdata"}
    try:
        arrays = loadmat(path, variable_names=list(names.values()))
        return {part: [torch.from_numpy(p).float() for p in arrays[name][0]] for part, name in names.items()}
    except FileNotFoundError:
        sys.exit(f"There is no file {path}; it must be JSB_Chorales.mat of the comparison by Bai et al. (2018).")
    except (KeyError, ValueError) as error:
        sys.exit(f"{path} must hold traindata, validdata and testdata as JSB_Chorales.mat does: {error}.")


def inputs_and_targets(pieces: Pieces) -> tuple[PackedSequence, Tensor]:
    """Every chord but the last of each piece, packed, and the chord after each, (N, 88) in the same order."""
    x = pack_sequence([piece[:-1] for piece in pieces], enforce_sorted=False)
    return x, pack_sequence([piece[1:] for piece in pieces], enforce_sorted=False).data


def outputs(model: Elman, x: PackedSequence, dropped: float = 0.0) -> Tensor:
    """o of every step (N, 88); with `dropped`, a share of the elements of W_hh is zero and the others are scaled up."""
    weight = F.dropout(model.rnn.get_parameter("weight_hh_l0"), dropped)
    h, _ = torch.func.functional_call(model.rnn, {"weight_hh_l0": weight}, (x,))
    return model.readout(h.data)


def negative_log_likelihood(o: Tensor, y: Tensor) -> float:
    """Nats per step from the outputs before the sigmoid: summed over keys, averaged over steps."""
    return float(losses.loss("binary_cross_entropy", o, y))


@dataclass(frozen=True)
class Run:
    """What one seed came to; `o` are the outputs for the test part."""

    seed: int
    epoch: int
    seconds: float
    training: float
    validation: float
    test: float
    o: Tensor


def initial(pieces: Pieces) -> Elman:
    """W_hh a multiple of the identity, b_h zero; b_o says of each key that it sounds as often as it does."""
    model = Elman(KEYS, HIDDEN, KEYS, loss="binary_cross_entropy")
    _, weight_hh, *biases = model.rnn.all_weights[0]
    torch.nn.init.eye_(weight_hh)
    for bias in biases:
        torch.nn.init.zeros_(bias)
    frequency = torch.cat([piece[1:] for piece in pieces]).mean(0).clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        weight_hh.mul_(GAIN)
        model.readout.bias.copy_(frequency.logit())
    return model


def train(parts: dict[str, Pieces], seed: int, epochs: int = EPOCHS) -> Run:
    """Trains for `epochs` passes; `seconds` is all of it but the final reading of training and test part."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    pieces = parts["training"]
    model = initial(pieces)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))
    averaged = average.module
    assert isinstance(averaged, Elman)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    updates = epochs * math.ceil(len(pieces) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    x_validation, y_validation = inputs_and_targets(parts["validation"])
    least, best, best_epoch = math.inf, model.state_dict(), 0
    for epoch in range(1, epochs + 1):
        for chosen in torch.randperm(len(pieces)).split(BATCH):
            x, y = inputs_and_targets([pieces[i] for i in chosen.tolist()])
            optimizer.zero_grad()
            losses.loss("binary_cross_entropy", outputs(model, x, DROPPED), y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
        if epoch % BETWEEN_READINGS == 0 or epoch == epochs:
            with torch.no_grad():
                validation = negative_log_likelihood(outputs(averaged, x_validation), y_validation)
            if validation < least:
                least, best_epoch = validation, epoch
                best = {name: weight.clone() for name, weight in averaged.state_dict().items()}
    seconds = time.perf_counter() - start
    model.load_state_dict(best)
    with torch.no_grad():
        x, y = inputs_and_targets(pieces)
        training = negative_log_likelihood(outputs(model, x), y)
        x, y = inputs_and_targets(parts["test"])
        o = outputs(model, x)
    return Run(seed, best_epoch, seconds, training, least, negative_log_likelihood(o, y), o)


def main() -> None:
    options = parser("jsb", __doc__)
    options.add_argument("file", type=Path, help="JSB_Chorales.mat")
    arguments: argparse.Namespace = options.parse_args()
    parts = load(arguments.file)
    lines, runs = Lines("jsb", arguments.output), []
    for seed in arguments.seeds:
        runs.append(run := train(parts, seed))
        figures = {name: value for name, value in vars(run).items() if name != "o"}
        lines.append({"hidden": HIDDEN, "epochs": EPOCHS, **figures})
    fields = ("training", "validation", "test")
    rows = [[name, "", "", f"{test:.2f}", ""] for name, test in PUBLISHED.items()]
    rows += [
        [f"ours, seed {run.seed}", *(f"{getattr(run, field):.3f}" for field in fields), f"{run.seconds:.0f}"]
        for run in runs
    ]
    means = [mean_and_spread([getattr(run, field) for run in runs]) for field in fields]
    rows.append([f"ours, mean of {len(runs)}", *means, mean_and_spread([run.seconds for run in runs], 0)])
    _, y = inputs_and_targets(parts["test"])
    probabilities = torch.stack([run.o.double().sigmoid() for run in runs]).mean(0)
    together = negative_log_likelihood(probabilities.logit(), y.double())
    lines.append({"networks_averaged": len(runs), "test": together})
    rows.append([f"ours, the {len(runs)} networks' ŷ averaged", "", "", f"{together:.3f}", ""])
    lines.show(Table("Bach chorales, negative log-likelihood per step", ["", *fields, "s"], rows))


if __name__ == "__main__":
    main()
