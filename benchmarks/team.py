"""Who takes part: the worker processes of every peer at every thread count, and what they are called."""

from collections.abc import Iterator

from benchmarks.worker import Worker, WorkerError

OURS = "bptt"
MODULES = {
    OURS: "benchmarks.peers.bptt_rnn",
    "torch": "benchmarks.peers.torch_rnn",
    "jax": "benchmarks.peers.jax_scan",
    "onednn": "benchmarks.peers.onednn_rnn",
    "onnxruntime": "benchmarks.peers.onnxruntime_rnn",
}


class Team:
    """Started once for a whole run. `absent` says why a peer takes no part; `versions` what the others are."""

    def __init__(self, peers: list[str], threads: list[int]) -> None:
        self.workers: dict[tuple[str, int], Worker] = {}
        self.absent: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        for peer in peers:
            try:
                for count in threads:
                    self.workers[peer, count] = Worker(MODULES[peer], count)
                    self.versions[peer] = self.workers[peer, count].version
            except WorkerError as error:
                self.absent[peer] = str(error)

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def __iter__(self) -> Iterator[tuple[str, int, Worker]]:
        for (peer, threads), worker in self.workers.items():
            if peer not in self.absent:
                yield peer, threads, worker
