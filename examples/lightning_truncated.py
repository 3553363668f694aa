"""Truncated BPTT in PyTorch Lightning: an update after every window of a long sequence, and the state goes on.

The network sees a signal that is 1 or −1 once in a while, else 0, and says at every step which of the two came last.
That may have been some windows ago, so it has to remember across updates. `bptt.nn.Stream` hands the state of the LSTM
on from window to window, detached. Lightning leaves such loops to manual optimisation. Needs Lightning: pip install
pytorch-lightning
"""

import logging
import warnings

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import bptt

try:
    import pytorch_lightning as lightning
    from pytorch_lightning.utilities.model_summary import ModelSummary
except ImportError:
    raise SystemExit(
        "This example needs Lightning, which is not installed. Install it: pip install pytorch-lightning"
    ) from None

STEPS, ROWS, WINDOW = 2000, 16, 20


class Remembers(lightning.LightningModule):
    def __init__(self, carried: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.carried = carried
        self.lstm = bptt.nn.LSTM(1, 32)
        self.last = torch.nn.Linear(32, 1)
        self.stream = bptt.nn.Stream(self.lstm)
        self.example_input_array = torch.zeros(WINDOW, ROWS, 1)  # by which the summary counts FLOPs

    def forward(self, x: Tensor) -> Tensor:
        """Logits (T, B) of "the last one was 1" after a window (T, B, 1), from where the last window ended."""
        if not self.carried:
            self.stream.reset()
        output, _ = self.stream(x)
        return self.last(output)[..., 0]

    def training_step(self, sequence: list[Tensor]) -> None:
        """One sequence of STEPS steps in each of ROWS rows: STEPS / WINDOW updates."""
        x, y = sequence
        self.stream.reset()
        for window, target in zip(x.split(WINDOW), y.split(WINDOW), strict=True):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(self(window), target)
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(self.optimizers(), 1.0, "norm")
            self.optimizers().step()

    @torch.no_grad()
    def test_step(self, sequence: list[Tensor]) -> None:
        x, y = sequence
        self.stream.reset()
        right = [
            (self(window) > 0) == (target > 0.5)
            for window, target in zip(x.split(WINDOW), y.split(WINDOW), strict=True)
        ]
        self.log("right", torch.cat(right).float().mean(), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def signal() -> tuple[Tensor, Tensor]:
    """x (T, B, 1), at one step of thirty 1 or −1, and whether the last one was 1 (T, B)."""
    sign = torch.randn(STEPS, ROWS).sign()
    comes = torch.rand(STEPS, ROWS) < 1 / 30
    comes[0] = True
    when = torch.where(comes, torch.arange(STEPS)[:, None], 0).cummax(0).values
    return (sign * comes)[..., None], (sign.gather(0, when) > 0).float()


logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on worker processes and the like
torch.manual_seed(0)
data = DataLoader([signal() for _ in range(3)], batch_size=None)  # each is a batch of rows already
unseen = DataLoader([signal()], batch_size=None)

summary = ModelSummary(Remembers(carried=True))
print(f"Lightning counts {summary.total_parameters:,} parameters and {summary.total_flops:,} FLOPs a window")
for carried in (True, False):
    torch.manual_seed(0)
    model = Remembers(carried)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    (result,) = trainer.test(model, unseen, verbose=False)
    how = "handed on from window to window" if carried else "zero at the start of every window"
    print(f"state {how}: {result['right']:.1%} of the steps of a new signal are right")
