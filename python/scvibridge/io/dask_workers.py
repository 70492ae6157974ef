"""Compute tasks and blocks of a result on the workers of a Dask cluster.

This is the only module that imports dask. A task or job is sent to each worker once, without the
model and the counts that it refers to: those are sent separately, also once (of counts on disk,
only how to read them). A worker that joins later, such as the replacement of a lost one, receives
all of this as well. Workers write blocks to the folder of the shards, which all of them must be
able to access.
"""

from __future__ import annotations

import io
import pickle
import threading
import uuid
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from scvibridge._utils.failures import WriteError
from scvibridge._utils.pools import HERE, SPAN, SentOnce, Threads, spans
from scvibridge._utils.process_state import warnings_ignored
from scvibridge._utils.progress import track
from scvibridge._utils.torch_threads import in_order
from scvibridge.io.blocks import join
from scvibridge.io.shards import noted_of, write_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from scvibridge._utils.pools import Pool, Task
    from scvibridge.io.plan import Field, Job
    from scvibridge.io.shard_store import Shards


Total = TypeVar("Total")

# How often a task is retried after an error other than a lost worker.
_RETRIES = 2

# Tasks for each worker that are computed or wait: enough to keep it busy.
_TASKS_AHEAD = 3

# Parts for each worker of work whose result does not depend on the division.
_PARTS = 4

# What this worker received, by name: bytes until it is needed.
_jobs: dict[str, Any] = {}

# One task at a time per process, on all threads of its worker: kernels share their threads.
_one_task = threading.Lock()


def check_client(client: Any, out: Any, *, needs_out: bool = True) -> None:
    """Check the requirements of a run on a cluster.

    Raises
    ------
    ImportError
        If dask.distributed is not installed.
    TypeError
        If `client` is not a ``dask.distributed.Client``.
    ValueError
        If there is no output file, or the cluster has no workers.
    """
    if client is None:
        return
    distributed = _distributed()
    if not isinstance(client, distributed.Client):
        raise TypeError(
            f"client must be a dask.distributed.Client, got {type(client).__name__}; start "
            "workers on this machine with Client(n_workers=2)"
        )
    if out is None and needs_out:
        raise ValueError(
            "client= needs out=: the workers write their blocks to a folder next to that file"
        )
    if not client.nthreads():
        raise ValueError("client has no workers: start some, or wait for them")


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            'client= needs dask.distributed: pip install "scvibridge[dask]"'
        ) from error
    return distributed


@contextmanager
def pool_of(client: Any) -> Iterator[Pool]:
    """Yield the workers of a client, or the threads of this process if it is None.

    Workers forget what they received when the context ends.
    """
    if client is None:
        yield HERE
        return
    workers = Workers(client)
    try:
        yield workers
    finally:
        workers.close()


class Workers:
    """The workers of a Dask cluster; see :class:`scvibridge._utils.pools.Pool`.

    Parameters
    ----------
    client
        The ``dask.distributed.Client``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        # Objects that workers hold, by identity; kept, so that no other object gets their identity.
        self._held: dict[int, tuple[Any, str]] = {}
        self._names: list[str] = []

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Pickle as the threads of the process that unpickles, such as a worker."""
        return Threads, ()

    @property
    def n_parts(self) -> int:
        """Number of parts to divide work into if the result does not depend on the division."""
        return _PARTS * self._n_workers

    @property
    def _n_workers(self) -> int:
        return max(1, len(self._client.nthreads()))

    def folded(
        self,
        task: Task,
        items: Sequence[Any],
        device: torch.device,
        fold: Callable[[Iterator[Any]], Total],
        span: int = SPAN,
    ) -> Iterator[Total]:
        """Yield folded results; see :class:`scvibridge._utils.pools.Pool`."""
        reads_here = task.reads_here
        name = self._send(task.without_source() if reads_here else task)
        calls = (
            (name, [task.read(item) for item in some] if reads_here else some, reads_here)
            for some in spans(items, span)
        )
        try:
            yield from self.results(_compute_span, ((*call, device, fold) for call in calls))
        finally:
            self._forget(name)

    def results(
        self, function: Callable[..., Any], calls: Iterator[tuple[Any, ...]]
    ) -> Iterator[Any]:
        """Call a function of a module on the workers, and yield its results in order.

        A few calls for each worker are made or wait at a time, so that arguments and results do not
        fill the memory.
        """
        waiting: deque[Any] = deque()
        most = _TASKS_AHEAD * self._n_workers
        try:
            for call in calls:
                # Calls with cells that are in the memory of this process are large.
                with warnings_ignored(UserWarning):
                    waiting.append(
                        self._client.submit(function, *call, pure=False, retries=_RETRIES)
                    )
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def compute_missing(
        self,
        shards: Shards,
        job: Job,
        finished: Callable[[int], None],
        *,
        progress: bool,
        description: str,
    ) -> None:
        """Compute the missing blocks, write each to its shard, and call `finished` with its number.

        Raises
        ------
        WriteError
            If the workers have no access to the folder of the shards.
        """
        missing = shards.missing()
        if not missing:
            return
        plan, name = shards.plan, self._send(job)
        place = shards.folder, plan.fields
        calls = ((name, *place, n, plan.blocks[n], plan.seal(n)) for n in missing)
        try:
            made = self.results(_make_block, calls)
            steps = track([plan.blocks[n] for n in missing], description, progress)
            for index, _, noted in zip(missing, steps, made, strict=True):
                shards.note(index, noted)
                finished(index)
        finally:
            self._forget(name)
        if shards.missing():
            raise WriteError(
                f"the workers have finished, but their blocks are missing from {shards.folder}: "
                "all workers must have access to the folder of the result under the same path"
            )

    def close(self) -> None:
        """Have the workers forget what they received."""
        while self._names:
            self._forget(self._names[-1])
        self._held.clear()

    def _send(self, value: Any) -> str:
        """Send an object to all workers, now or when they join; return its name."""
        name = f"scvibridge-{uuid.uuid4().hex}"
        try:
            pickled = _pickled(value, self._name_of)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise TypeError(
                f"the data cannot be sent to workers ({error}): pass adata as the path of a file"
            ) from error
        self._client.register_plugin(_plugin(name, pickled))
        self._names.append(name)
        return name

    def _name_of(self, value: SentOnce) -> str:
        """Return the name of an object that workers hold; send it first if they do not."""
        if id(value) not in self._held:
            self._held[id(value)] = value, self._send(value)
        return self._held[id(value)][1]

    def _forget(self, name: str) -> None:
        if name in self._names:
            self._names.remove(name)
            self._client.unregister_worker_plugin(name)


def _pickled(value: Any, name_of: Callable[[SentOnce], str]) -> bytes:
    """Pickle an object, with names in place of the objects that workers receive once."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, part: Any) -> Any:
            if part is value or not isinstance(part, SentOnce):
                return NotImplemented
            return received, (name_of(part),)

    file = io.BytesIO()
    Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def _plugin(name: str, pickled: bytes) -> Any:
    """Build the plugin that sends an object to each worker, now or when it joins."""
    members = {
        "name": name,
        "setup": lambda _, worker: receive(name, pickled),  # noqa: ARG005
        "teardown": lambda _, worker: forget(name),  # noqa: ARG005
    }
    # The class is defined here so that dask is imported only when needed.
    return type("SendJob", (_distributed().WorkerPlugin,), members)()


# -- in the workers ------------------------------------------------------------------------------


def receive(name: str, pickled: bytes) -> None:
    """Receive an object in this process; it is unpickled when it is first needed."""
    _jobs[name] = pickled


def received(name: str) -> Any:
    """Return an object that this process has received."""
    if isinstance(_jobs[name], bytes):
        _jobs[name] = pickle.loads(_jobs[name])  # noqa: S301 - from the client
    return _jobs[name]


def forget(name: str) -> None:
    """Drop an object."""
    _jobs.pop(name, None)


@contextmanager
def _alone() -> Iterator[None]:
    """Have all threads of the worker for one task."""
    with _one_task:
        torch.set_num_threads(_distributed().get_worker().state.nthreads)
        yield


def _compute_span(
    name: str,
    items: Sequence[Any],
    is_read: bool,
    device: torch.device,
    fold: Callable[[Iterator[Any]], Total],
) -> Total:
    """Compute some items of a task, and fold their results."""
    with _alone():
        task = received(name)

        def result(item: Any) -> Any:
            return task.compute(item if is_read else task.read(item))

        return fold(in_order(result, items, device))


def _make_block(
    name: str,
    folder: Path,
    fields: tuple[Field, ...],
    index: int,
    selection: slice,
    seal: str,
) -> dict[str, np.ndarray]:
    """Compute a block and write its shard; return its small parts."""
    with _alone():
        block = join(received(name).pieces(selection), selection.stop - selection.start)
        write_shard(folder, index, fields, block, seal)
    return noted_of(fields, block)
