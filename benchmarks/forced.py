"""Teacher forcing in one call: `python -m benchmarks.forced` prints one line of JSON for each size.

A network with output-to-hidden recurrence alone (`bptt.nn.Jordan`), forward and backward under teacher forcing: all
steps in one call of the engine, and as the loop over steps that free running needs. Both in turns, medians in ms.
"""

import json
import statistics
import time
from collections.abc import Callable

import torch

from bptt.nn import Jordan, State

CASES = [(20, 1, 8, 32, 8), (100, 16, 32, 128, 32), (100, 32, 64, 256, 64), (784, 32, 1, 128, 10)]  # T, B, I, H, O
REPETITIONS = 15


def _milliseconds(step: Callable[[], torch.Tensor], network: Jordan) -> float:
    network.zero_grad()
    start = time.perf_counter()
    step().backward()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    for T, B, I, H, O in CASES:
        network = Jordan(I, H, O)
        x, y = torch.randn(T, B, I), torch.randint(O, (T, B))
        fed = network.as_fed(y)

        def at_once(network: Jordan = network, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            return network.loss(network(x, y)[0], y)

        def loop(
            network: Jordan = network, x: torch.Tensor = x, y: torch.Tensor = y, fed: torch.Tensor = fed
        ) -> torch.Tensor:
            state, outputs = network.initial(x), []
            for x_t, fed_t in zip(x, fed, strict=True):
                h, o = network.step(x_t, state)
                state = State(h, fed_t)
                outputs.append(o)
            return network.loss(torch.stack(outputs), y)

        torch.testing.assert_close(at_once(), loop())
        turns = [(_milliseconds(at_once, network), _milliseconds(loop, network)) for _ in range(REPETITIONS)]
        ours, theirs = (statistics.median(times) for times in zip(*turns, strict=True))
        line = {"case": f"{T},{B},{I},{H},{O}", "at_once_ms": round(ours, 3), "loop_ms": round(theirs, 3)}
        print(json.dumps(line | {"ratio": round(theirs / ours, 1)}), flush=True)


if __name__ == "__main__":
    main()
