"""Somebody else's model with torch.nn.GRU inside, trained as it is and after `bptt.convert`: same losses, less time."""

import copy
import time

import torch

import bptt


class Tagger(torch.nn.Module):
    """A name for every word: embedding, two layers in both directions, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(2000, 64)
        self.gru = torch.nn.GRU(64, 96, num_layers=2, bidirectional=True, batch_first=True)
        self.tags = torch.nn.Linear(192, 12)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.tags(self.gru(self.embedding(words))[0])


torch.manual_seed(0)
words = torch.randint(2000, (8, 16, 60))
model = Tagger()
models = {"torch.nn.GRU": copy.deepcopy(model), "bptt.convert": bptt.convert(model)}
optimizers = {name: torch.optim.Adam(model.parameters(), 0.003) for name, model in models.items()}
seconds, losses = dict.fromkeys(models, 0.0), dict.fromkeys(models, 0.0)
for epoch in range(6):
    for batch in words:
        for name, model in models.items():
            start = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten() % 12)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            seconds[name] += time.perf_counter() - start if epoch else 0.0
            losses[name] = loss.item()
for name in models:
    print(f"{name:12}  loss {losses[name]:.4f}  {1e3 * seconds[name] / 40:.1f} ms a step")
print(f"{seconds['torch.nn.GRU'] / seconds['bptt.convert']:.1f} times faster")
