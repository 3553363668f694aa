"""One file per competitor, each with the same two names:

VERSION: str
prepare(case, mode) -> Prepared, or None where the peer does not do this

A peer runs in processes of its own (`benchmarks.worker`), so its thread pool fights with nobody's. It imports nothing
but its library, numpy and modules of this package that do the same.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cases import Array

THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))


@dataclass(frozen=True)
class Prepared:
    """`run` does the work once, start to finish. `results` gives what its last run computed, in torch's layouts."""

    run: Callable[[], object]
    results: Callable[[], dict[str, Array]]
