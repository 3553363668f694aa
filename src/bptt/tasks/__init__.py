"""What a network can be trained for, a file for each: how data become batches, what is judged, what must be kept."""

from typing import Any, ClassVar, Protocol

from bptt.tasks.labelled import Labelled
from bptt.tasks.series import Series
from bptt.tasks.text import Text
from bptt.train import Task


class KnownTask(Task, Protocol):
    """A task of the command line, which a run directory holds all about.

    source, size, sha256   where the data came from (an absolute path, or a name), how many items, of the file's bytes
    """

    name: ClassVar[str]
    source: str
    size: int
    sha256: str

    def about(self) -> dict[str, Any]:
        """What must be known to build the network and read the data again, as JSON."""
        ...

    @staticmethod
    def network(about: Any, recipe: Any) -> Any:
        """The network, its weights drawn from torch's global random state."""
        ...

    def prepare(self, model: Any) -> None:
        """Sets what in a new network comes from the data."""
        ...

    @classmethod
    def again(cls, about: Any, recipe: Any, source: str) -> "KnownTask":
        """The task of a saved run with its data read again from `source`."""
        ...

    def share(self, rank: int, workers: int) -> "KnownTask":
        """What worker `rank` of `workers` learns from: some rows of every batch, in the order of ranks where a state
        is carried. The losses of all shares add up to the loss of the batch; one without rows counts 0 items.

        Raises InputError where the batch cannot be divided among so many.
        """
        ...


TASKS: dict[str, Any] = {task.name: task for task in (Text, Series, Labelled)}

__all__ = ["TASKS", "KnownTask", "Labelled", "Series", "Text"]
