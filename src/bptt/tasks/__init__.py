"""The tasks a network can be trained for, a file each: its batches, its loss, and what a saved run must know of it."""

from typing import Any, ClassVar, Protocol

from bptt.tasks.labelled import Labelled
from bptt.tasks.series import Series
from bptt.tasks.text import Text
from bptt.train import Task


class ResumableTask(Task, Protocol):
    """A task that can be saved with a run, resumed, and divided among workers.

    source   where the data came from: an absolute path, or a name
    size     the number of its items
    sha256   of the bytes of the file
    """

    name: ClassVar[str]
    source: str
    size: int
    sha256: str

    def about(self) -> dict[str, Any]:
        """All that is needed to build the network and read the data again, as JSON."""
        ...

    @staticmethod
    def network(about: Any, recipe: Any) -> Any:
        """The network, its weights drawn from torch's global random state."""
        ...

    def prepare(self, model: Any) -> None:
        """Sets what in a new network comes from the data."""
        ...

    @classmethod
    def again(cls, about: Any, recipe: Any, source: str) -> "ResumableTask":
        """The task of a saved run with its data read again from `source`."""
        ...

    def shard(self, rank: int, workers: int) -> "ResumableTask":
        """The part of the task for worker `rank` of `workers`: some rows of every batch, in the order of ranks where a
        state is carried. The losses of all shards add up to the loss of the batch; one without rows counts 0 items.

        Raises InputError where the batch cannot be divided among so many.
        """
        ...


TASKS: dict[str, Any] = {task.name: task for task in (Text, Series, Labelled)}

KnownTask = ResumableTask  # its earlier name, until 1.0

__all__ = ["TASKS", "KnownTask", "Labelled", "ResumableTask", "Series", "Text"]
