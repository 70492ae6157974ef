"""Where the tasks that blocks of cells are divided into are computed: here, or on workers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from scvibridge._utils.torch_threads import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch


Total = TypeVar("Total")

# Minibatches whose results are folded before they are passed on, wherever they are computed: the
# order in which numbers are added must not depend on who adds them.
SPAN = 4


class SentOnce:
    """Base class of objects that each worker receives once, however many tasks refer to them."""


class Task(Protocol):
    """Work on blocks of cells that can also be done in another process."""

    @property
    def reads_here(self) -> bool:
        """Whether `read` is called where the task was created, because it needs what is there.

        Only what it returned is then sent to a worker; otherwise the task itself is, with its
        source.
        """
        ...

    def without_source(self) -> Task:
        """Return the task without what only `read` needs."""
        ...

    def read(self, item: Any, /) -> Any:
        """Read the input of an item."""
        ...

    def compute(self, loaded: Any, /) -> Any:
        """Return the result for what was read. It must be safe to call from several threads."""
        ...


class Pool(Protocol):
    """Where tasks are computed."""

    @property
    def n_parts(self) -> int:
        """Number of parts to divide work into if the result does not depend on the division."""
        ...

    def folded(
        self,
        task: Task,
        items: Sequence[Any],
        device: torch.device,
        fold: Callable[[Iterator[Any]], Total],
        span: int = SPAN,
    ) -> Iterator[Total]:
        """Yield the folded results of every `span` consecutive items, in order.

        Parameters
        ----------
        task
            The task.
        items
            Its items.
        device
            Torch device that it computes on.
        fold
            Takes the results of a span in order, all of them; a function of a module.
        span
            Number of items.
        """
        ...


@dataclass(frozen=True)
class Threads:
    """The threads of this process."""

    n_parts = 1

    def folded(
        self,
        task: Task,
        items: Sequence[Any],
        device: torch.device,
        fold: Callable[[Iterator[Any]], Total],
        span: int = SPAN,
    ) -> Iterator[Total]:
        """Yield folded results; see :class:`Pool`."""
        results = in_order(lambda item: task.compute(task.read(item)), items, device)
        for some in spans(items, span):
            yield fold(islice(results, len(some)))


HERE = Threads()


def spans(items: Sequence[Any], span: int = SPAN) -> list[Sequence[Any]]:
    """Divide items into spans."""
    return [items[start : start + span] for start in range(0, len(items), span)]


def results_in_order(
    pool: Pool, task: Task, items: Sequence[Any], device: torch.device, span: int = SPAN
) -> Iterator[Any]:
    """Yield the result of each item, in order; see :class:`Pool`."""
    return chain.from_iterable(pool.folded(task, items, device, list, span))
