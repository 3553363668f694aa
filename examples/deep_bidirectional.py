"""Deep and bidirectional: is this the largest number so far, and will it be? (figures 10.11 and 10.13)"""

import torch

import bptt

for bidirectional in (False, True):
    torch.manual_seed(0)
    rnn = bptt.nn.RNN(1, 32, num_layers=2, bidirectional=bidirectional)
    readout = torch.nn.Linear(64 if bidirectional else 32, 2)
    optimizer = torch.optim.Adam([*rnn.parameters(), *readout.parameters()], 0.01)
    for _ in range(200):
        x = torch.rand(12, 64, 1)
        before = x[..., 0] >= x[..., 0].cummax(0).values
        after = x[..., 0] >= x[..., 0].flip(0).cummax(0).values.flip(0)
        y = torch.stack([before, after], -1)
        h, _ = rnn(x)
        o = readout(h)
        loss = bptt.losses.loss("binary_cross_entropy", o, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = ((o > 0) == y).float().mean((0, 1))
    name = "both directions" if bidirectional else "one direction"
    print(f"{name}: loss {loss:.3f}  largest so far {right[0]:.0%} right  largest from here on {right[1]:.0%} right")
