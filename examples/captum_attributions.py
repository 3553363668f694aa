"""Which steps made a classifier decide? Integrated Gradients of Captum on a model with bptt.nn.LSTM.

Sequences of noise hold a bump of some height, up or down, which is their class, and a ripple, which says nothing.
Integrated Gradients gives every number of the input its share of the output. The shares sum to the difference between
the outputs for this input and for a blank one. Needs Captum: pip install captum

Source: Sundararajan and others, Axiomatic attribution for deep networks, 2017.
"""

import copy

import torch
from torch import Tensor

import bptt

try:
    from captum.attr import IntegratedGradients
except ImportError:
    raise SystemExit("This example needs Captum, which is not installed. Install it: pip install captum") from None

STEPS, LONG = 20, 5


class Classifier(torch.nn.Module):
    """Logit of "the bump goes up" (B, 1) for x (B, T, 1), by the average over all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = bptt.nn.LSTM(1, 16, bidirectional=True, batch_first=True)
        self.up = torch.nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.lstm(x)[0].mean(1))


def sequences(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, 1), the class (B, 1), and at which steps the bump and the ripple are (2, B, T)."""
    places = torch.rand(count, STEPS // LONG).argsort(1)[:, :2].T * LONG
    t, height = torch.arange(STEPS), 3 * torch.rand(count, 1) - 1.5
    bump, ripple = where = (t >= places[..., None]) & (t < places[..., None] + LONG)
    x = 0.2 * torch.randn(count, STEPS) + height * bump + (-1.0) ** t * ripple
    return x[..., None], (height > 0).float(), where


torch.manual_seed(0)
model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
for _ in range(80):
    x, up, _ = sequences(64)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), up)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

model.double()
x, up, where = sequences(32)
x, blank = x.double(), torch.zeros_like(x).double()
right = ((model(x) > 0) == (up > 0.5)).float().mean()
shares, delta = IntegratedGradients(model).attribute(x, blank, n_steps=100, return_convergence_delta=True)
theirs = bptt.convert(copy.deepcopy(model), back=True, quiet=True)
assert type(theirs.lstm) is torch.nn.LSTM
expected = IntegratedGradients(theirs).attribute(x, blank, n_steps=100)

change = (model(x) - model(blank))[:, 0]
bump, ripple = ((shares[..., 0] * steps).sum(1) @ change.sign() / change.abs().sum() for steps in where)
print(f"{right:.0%} of new sequences are classified rightly")
print(f"Of the change of the output the bump has {bump:.0%}, the ripple {ripple:.0%}")
print(f"The shares sum to that change, {change.abs().mean():.1f} on average, to within {delta.abs().max():.0e}")
print(f"torch.nn.LSTM with the same weights gives the same shares to within {(shares - expected).abs().max():.0e}")
