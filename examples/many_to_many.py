"""Many to many: an output at every step; here the parity of the bits so far (figure 10.3)."""

import torch

import bptt

torch.manual_seed(1)
model = bptt.nn.Elman(1, 16, 1, loss="binary_cross_entropy")
optimizer = torch.optim.Adam(model.parameters(), 0.02)
for step in range(400):
    bits = torch.randint(2, (8, 64, 1))
    y = bits.cumsum(0) % 2
    o, _ = model(bits.float())
    loss = model.loss(o, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0 or step == 399:
        print(f"step {step:3}  loss {loss:.3f}  right {((o > 0) == y).float().mean():.0%}")
