"""One to many: a number becomes a curve, as an extra input at every step or as the first state (figure 10.9)."""

import torch

import bptt

torch.manual_seed(0)
T = 25
time = torch.linspace(0, 1, T)[:, None, None]
ways = {
    "input at every step": (bptt.nn.RNN(2, 24), torch.nn.Linear(24, 1), None),
    "first state": (bptt.nn.RNN(1, 24), torch.nn.Linear(24, 1), torch.nn.Linear(1, 24)),
}
for name, (rnn, readout, start) in ways.items():
    modules = torch.nn.ModuleList([rnn, readout] if start is None else [rnn, readout, start])
    optimizer = torch.optim.Adam(modules.parameters(), 0.01)
    for step in range(200):
        frequency = 1 + 2 * torch.rand(1, 32, 1)
        y = torch.sin(2 * torch.pi * frequency * time)
        clock = time.expand(T, 32, 1)
        if start is None:
            h, _ = rnn(torch.cat([clock, frequency.expand(T, 32, 1)], -1))
        else:
            h, _ = rnn(clock, start(frequency))
        loss = bptt.losses.loss("squared_error", readout(h), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, 199):
            print(f"{name}: step {step:3}  squared error {loss:.3f}")
