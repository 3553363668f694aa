"""Somebody else's model with a recurrent module of torch, as it is and after `bptt.convert`: same losses, less time.

Both run on one thread, and the fastest step of each counts, so that other programs disturb little.
"""

import copy
import time

import torch

import bptt


class Tagger(torch.nn.Module):
    """A name for every word: embedding, two layers in both directions, a linear layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(2000, 64)
        self.rnn = getattr(torch.nn, kind)(64, 96, num_layers=2, bidirectional=True, batch_first=True)
        self.tags = torch.nn.Linear(192, 12)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.tags(self.rnn(self.embedding(words))[0])


torch.set_num_threads(1)
torch.manual_seed(0)
words = torch.randint(2000, (8, 16, 60))
for kind in ("RNN", "GRU", "LSTM"):
    model = Tagger(kind)
    models = {f"torch.nn.{kind}": copy.deepcopy(model), "bptt.convert": bptt.convert(model, quiet=True)}
    optimizers = {name: torch.optim.Adam(model.parameters(), 0.003) for name, model in models.items()}
    fastest, losses = dict.fromkeys(models, float("inf")), dict.fromkeys(models, 0.0)
    for batch in words.repeat(3, 1, 1):
        for name, model in models.items():
            start = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten() % 12)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
            losses[name] = loss.item()
    for name in models:
        print(f"{name:13} loss {losses[name]:.4f}  {1e3 * fastest[name]:.1f} ms a step")
    print(f"{fastest[f'torch.nn.{kind}'] / fastest['bptt.convert']:.1f} times as fast")
