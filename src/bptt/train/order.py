"""The order in which an epoch reads the data."""

import torch


class Order:
    """A new order of the numbers below `count` for each epoch; the order of the present epoch is kept."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._order = -1, []

    def of(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self.count, self.seed, epoch)
        return self._order


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The numbers below `count` in random order. It depends on seed and epoch alone, not on what was drawn before."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()
