"""Sequence to sequence: read five digits, write the three smallest in order (figure 10.12)."""

import torch

import bptt
from bptt.train import forcing

torch.manual_seed(0)
READ, WRITE, DIGITS = 5, 3, 5
encoder = bptt.nn.RNN(DIGITS, 64)  # reads tokens
decoder = bptt.nn.Jordan(1, 64, DIGITS, hidden_recurrence=True)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.005)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(DIGITS, (READ, 64))
    return tokens, tokens.sort(0).values[:WRITE]


def encoded(tokens: torch.Tensor) -> bptt.nn.State:
    _, h_n = encoder(tokens)
    return bptt.nn.State(h_n, torch.zeros(tokens.shape[1], DIGITS))


x = torch.zeros(WRITE, 64, 1)
for step in range(500):
    tokens, y = batch()
    o, _ = decoder(x, y, encoded(tokens))
    loss = decoder.loss(o, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step in (0, 499):
        print(f"step {step:3}  forced loss {loss:.3f}")
tokens, y = batch()
with torch.no_grad():
    o, _ = forcing.free_run(decoder, x, encoded(tokens), feed="greedy")
written = o.argmax(-1)
right = (written == y).float().mean()
print(f"{tokens[:, 0].tolist()} -> {written[:, 0].tolist()}; running free, {right:.0%} of digits right")
