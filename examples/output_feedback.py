"""Output feedback: told where to start, count on from the own output, ever less forced (figures 10.4, 10.10)."""

import torch

import bptt
from bptt.train import forcing, schedules

STEPS, T, CLASSES = 300, 12, 6
for hidden_recurrence in (False, True):
    torch.manual_seed(0)
    network = bptt.nn.Jordan(CLASSES, 32, CLASSES, hidden_recurrence=hidden_recurrence)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(STEPS):
        y = (torch.randint(CLASSES, (1, 32)) + torch.arange(T)[:, None]) % CLASSES
        x = torch.zeros(T, 32, CLASSES)
        x[0] = torch.nn.functional.one_hot(y[0], CLASSES)
        o, _ = forcing.scheduled(network, x, y, schedules.linear(step, steps=STEPS, least=0.7))
        loss = network.loss(o, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = forcing.discrepancy(network, x, y, warm_up=2, feed="greedy")
    name = "both recurrences" if hidden_recurrence else "output to hidden"
    print(f"{name}: one step ahead {found.forced_loss.mean():.4f}, free for ten steps {found.free_loss.mean():.4f}")
