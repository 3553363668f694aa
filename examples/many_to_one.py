"""Many to one: is there more light than dark? One output at the end of sequences of different lengths (figure 10.5)."""

import torch
from torch.nn.utils.rnn import pack_padded_sequence

import bptt

torch.manual_seed(0)
rnn, readout = bptt.nn.RNN(1, 16), torch.nn.Linear(16, 2)
optimizer = torch.optim.Adam([*rnn.parameters(), *readout.parameters()], 0.01)
for step in range(200):
    x, lengths = torch.randn(20, 32, 1), torch.randint(5, 21, (32,))
    there = torch.arange(20)[:, None] < lengths
    y = ((x[..., 0].sign() * there).sum(0) > 0).long()
    _, h_n = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))  # the last real step of every row
    o = readout(h_n[0])
    loss = bptt.losses.loss("cross_entropy", o, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0 or step == 199:
        print(f"step {step:3}  loss {loss:.3f}  right {(o.argmax(-1) == y).float().mean():.0%}")
