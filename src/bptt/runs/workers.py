"""One training divided among several processes, on one machine or many, as torchrun starts them.

Every worker computes the gradient of its shard of every batch, DistributedDataParallel sums the gradients, and so all
make the same update. Worker 0 is the leader: it alone uses the run directory, prints, evaluates and reads the clock,
and sends the others what it has read. All decisions of a training (to stop, to evaluate, to save, the learning rate)
follow from numbers that all workers have in common, so that none waits for another that has decided otherwise.

Gradients on the CPU travel by gloo, those on a GPU by NCCL; messages between workers always by gloo.
"""

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from bptt.errors import InputError, SilentError, WorkerLostError
from bptt.tasks import ResumableTask
from bptt.train import Event, GivenUpError, Stop, Task, Training

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SECONDS_TO_LEAVE = 10.0


class Team:
    """The workers of one training. `rank` is that of this one, from 0 to `size` - 1; rank 0 is the leader."""

    def __init__(self) -> None:
        self._store, self.rank, self.size = next(iter(rendezvous("env://")))
        self._now = _met(self._store, self.rank, self.size)
        gpu = torch.cuda.is_available() and distributed.is_nccl_available()
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo", store=self._now, rank=self.rank, world_size=self.size
        )

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def once(self, name: str, value: str) -> str:
        """The first value that any worker has given for this name since torchrun was started."""
        return self._store.compare_set(f"bptt/once/{name}", "", value).decode()

    def from_leader(self, value: Tensor) -> Tensor:
        """Writes the leader's value into that of every worker."""
        distributed.broadcast(value, 0)
        return value

    def bytes_from_leader(self, value: bytes) -> bytes:
        size = int(self.from_leader(torch.tensor(len(value))))
        content = torch.frombuffer(bytearray(value), dtype=torch.uint8) if self.leads else torch.empty(size).byte()
        return bytes(self.from_leader(content).numpy())

    def json_from_leader(self, value: Any = None) -> Any:
        return json.loads(self.bytes_from_leader(json.dumps(value).encode()))

    def gathered(self, part: Tensor) -> Tensor | None:
        """For the leader the parts of all workers, joined along axis 1; None for the others."""
        parts = [torch.empty_like(part) for _ in range(self.size)] if self.leads else None
        distributed.gather(part.contiguous(), parts)
        return None if parts is None else torch.cat(parts, 1)

    def report(self, code: int) -> None:
        """Returns for the first worker that calls this after a failure; raises SilentError with its code for others."""
        first = self._now.add("went wrong", 1) == 1
        if first:
            self._now.set("code", str(code))
        if not first:
            raise SilentError(int(self._now.get("code")))

    def leave(self) -> None:
        """Waits until all others are leaving too: torchrun ends all workers as soon as one has failed."""
        self._now.add("leaving", 1)
        until = time.monotonic() + SECONDS_TO_LEAVE
        while self._now.add("leaving", 0) < self.size and time.monotonic() < until:
            time.sleep(0.02)


def _met(store: Store, rank: int, size: int) -> Store:
    """A part of the store that no earlier start of the workers has used.

    torchrun keeps its store when it starts the workers again, with the addresses of those that are gone, and its agents
    on several hosts may count the starts differently. So every worker asks under a new random name, and the leader
    answers with its own name until all have received it.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"bptt/asks/{rank}", name)
        name = store.get(f"bptt/answer/{name}").decode()
        store.set(f"bptt/heard/{name}/{rank}", "")
    else:
        for other in range(1, size):
            while not store.check([f"bptt/heard/{name}/{other}"]):
                store.set(f"bptt/answer/{store.get(f'bptt/asks/{other}').decode()}", name)
                time.sleep(0.01)
    return PrefixStore(f"bptt/{name}", store)


@contextmanager
def team() -> Iterator[Team | None]:
    """The workers that torchrun has started, including this process; None where there is no torchrun.

    After a failure one worker raises the error with the message, InputError or WorkerLostError, and the others raise
    SilentError.
    """
    if not all(name in os.environ for name in ENVIRONMENT):
        yield None
        return
    joined = None
    try:
        joined = Team()
        yield joined
    except InputError:
        assert joined is not None
        try:
            joined.report(2)
        finally:
            joined.leave()
        raise
    except RuntimeError as error:
        if not _is_of_the_connection(error):
            raise
        if joined is not None:
            with suppress(distributed.DistError):  # the store may have gone as well
                joined.report(1)
        raise WorkerLostError(
            f"All workers must stay until the training ends; one has gone ({_in_short(error)}). Nothing is lost but "
            "the steps since the last checkpoint: go on from there with --resume. torchrun --max-restarts N does so "
            "by itself, up to N times."
        ) from None
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _is_of_the_connection(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _in_short(error: RuntimeError) -> str:
    """The message of gloo, without the source line before it and the advice after it."""
    line = str(error).strip().splitlines()[-1]
    return line.partition("] ")[2].partition(". ")[0] or line


class DistributedTraining(Training):
    """The training of one worker, on its shard of every batch; all workers make and run theirs at the same time.

    `_exchange` gives all of them the leader's clock, and whether any of them wants to stop.
    """

    def __init__(self, whole: Training, task: ResumableTask, team: Team) -> None:
        """whole: a training for the task. All workers go on from the position of the leader's.

        Raises InputError where the task cannot be divided among so many.
        """
        super().__init__(whole.model, task.shard(team.rank, team.size))
        self.team = team
        facts = team.json_from_leader(whole.facts())
        tensors = safetensors.torch.load(team.bytes_from_leader(safetensors.torch.save(whole.tensors())))
        if "h" in tensors:
            tensors["h"] = tensors["h"].chunk(team.size, 1)[team.rank].contiguous()
        self.restore(tensors, facts)
        if not team.leads:
            self.rng = _another(self.rng, team.rank)
        self._loss = DistributedDataParallel(_StepLoss(self.model, self.task))
        self._whole_h: Tensor | None = None
        self._time, self._stopping = 0.0, False
        self._should_stop: Callable[[], bool] = lambda: False

    def run(
        self,
        *,
        watch: Callable[[Event], None] = lambda event: None,
        save: Callable[[Training], None] = lambda training: None,
        should_stop: Callable[[], bool] = lambda: False,
        threads: int | None = None,
    ) -> Stop:
        """As in one process, with a fixed number of threads. The leader calls `watch` and `save`; `should_stop` of any
        worker stops all."""

        def collect(training: Training) -> None:
            self._whole_h = None if self.h is None else self.team.gathered(self.h)
            if self.team.leads:
                save(training)

        self._should_stop = should_stop
        self._exchange()()
        heard = watch if self.team.leads else lambda event: None
        return super().run(
            watch=heard,
            save=collect,
            should_stop=lambda: self._stopping,
            threads=torch.get_num_threads() if threads is None else threads,
        )

    def tensors(self) -> dict[str, Tensor]:
        tensors = super().tensors()
        return tensors if self._whole_h is None else {**tensors, "h": self._whole_h}

    def _clock(self) -> float:
        return self._time

    def _gradient(self) -> tuple[float, Tensor | None, int]:
        loss, h, items = self._loss(self.step, self.h)
        agreed = self._exchange(float(loss.detach()), items)
        (loss * self.team.size).backward()  # the losses of the shares add up; DistributedDataParallel takes the mean
        total, items = agreed()
        return total, h, items

    def _held_out_loss(self, should_stop: Callable[[], bool]) -> float | None:
        found, given_up = None, False
        if self.team.leads:
            try:
                found = super()._held_out_loss(self._should_stop)
            except GivenUpError:
                given_up = True
        there, loss, given_up = self.team.from_leader(
            torch.tensor([found is not None, math.nan if found is None else found, given_up], dtype=torch.float64)
        ).tolist()
        self._exchange()()
        if given_up:
            raise GivenUpError
        return loss if there else None

    def _exchange(self, loss: float = 0.0, items: int = 0) -> Callable[[], tuple[float, int]]:
        """Begins an exchange among all workers; the returned function waits for the sums of their losses and items."""
        clock = time.monotonic() if self.team.leads else 0.0
        mine = torch.tensor([loss, items, self._should_stop(), clock], dtype=torch.float64)
        work = distributed.all_reduce(mine, async_op=True)

        def agreed() -> tuple[float, int]:
            assert work is not None
            work.wait()
            total, all_items, stops, self._time = mine.tolist()
            self._stopping = stops > 0
            return total, round(all_items)

        return agreed


class _StepLoss(torch.nn.Module):
    """The loss of a step as a forward pass, as DistributedDataParallel needs it."""

    def __init__(self, model: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, step: int, h: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
        loss, h, items = self.task.loss(self.model, step, h)
        if not items:  # a shard without rows takes part with a gradient of zero
            loss = sum((0 * parameter.sum() for parameter in self.model.parameters()), loss)
        return loss, h, items


def _another(rng: Tensor, rank: int) -> Tensor:
    """The random state of another worker, derived from the leader's."""
    generator = torch.Generator()
    generator.set_state(rng)
    seeds = torch.randint(2**62, (rank,), generator=generator)
    return torch.Generator().manual_seed(int(seeds[-1])).get_state()
