"""Compute blocks of a result on the workers of a Dask cluster; the only module that imports dask.

Each worker process receives the job once, with the model and, unless they are on disk, the counts;
so does a worker that joins later, such as the replacement of a lost one. Workers write blocks to
the folder of the shards, which all of them must be able to access, and the client merges them as in
a local run.
"""

from __future__ import annotations

import pickle
import threading
import uuid
from typing import TYPE_CHECKING, Any

import numba
import torch

from scvibridge._utils.failures import WriteError
from scvibridge._utils.progress import track
from scvibridge.io.blocks import join
from scvibridge.io.shards import write_shard

if TYPE_CHECKING:
    from pathlib import Path

    from scvibridge.io.plan import Field, Job
    from scvibridge.io.shard_store import Shards


# How often a block is retried after an error other than a lost worker.
_RETRIES = 2

_jobs: dict[str, Any] = {}

# One block at a time per process, on all threads of its worker: kernels share their threads.
_one_block = threading.Lock()


def check_client(client: Any, out: Any) -> None:
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
    if out is None:
        raise ValueError(
            "client= needs out=: the workers write their blocks to a folder next to that file"
        )
    if not client.scheduler_info()["workers"]:
        raise ValueError("client has no workers: start some, or wait for them")


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            'client= needs dask.distributed: pip install "scvibridge[dask]"'
        ) from error
    return distributed


def compute_missing(
    client: Any, shards: Shards, job: Job, *, progress: bool, description: str
) -> None:
    """Compute the missing blocks on the workers, and write each to its shard.

    Raises
    ------
    WriteError
        If the workers have no access to the folder of the shards.
    """
    missing = shards.missing()
    if not missing:
        return
    name = f"scvibridge-{uuid.uuid4().hex}"
    client.register_plugin(_plugin(name, job))
    try:
        futures = [
            client.submit(
                _make_block,
                name,
                shards.folder,
                shards.plan.fields,
                index,
                shards.plan.blocks[index],
                shards.plan.seal(index),
                pure=False,
                retries=_RETRIES,
            )
            for index in missing
        ]
        _wait(futures, [shards.plan.blocks[index] for index in missing], progress, description)
    finally:
        client.unregister_worker_plugin(name)
    if shards.missing():
        raise WriteError(
            f"the workers have finished, but their blocks are missing from {shards.folder}: all "
            "workers must have access to the folder of the result under the same path"
        )


def _wait(futures: list[Any], blocks: list[slice], progress: bool, description: str) -> None:
    finished = _distributed().as_completed(futures)
    try:
        for _ in track(blocks, description, progress):
            next(finished).result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _plugin(name: str, job: Job) -> Any:
    """Build the plugin that sends the job to each worker, now or when it joins."""
    try:
        pickled = pickle.dumps(job)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise TypeError(
            f"the data cannot be sent to workers ({error}): pass adata as the path of a file"
        ) from error
    members = {
        "name": name,
        "setup": lambda _, worker: receive(name, pickled),  # noqa: ARG005
        "teardown": lambda _, worker: forget(name),  # noqa: ARG005
    }
    # The class is defined here so that dask is imported only when needed.
    return type("SendJob", (_distributed().WorkerPlugin,), members)()


# -- in the workers ------------------------------------------------------------------------------


def receive(name: str, pickled: bytes) -> None:
    """Receive a job in this process; it is unpickled when its first block is requested."""
    _jobs[name] = pickled


def forget(name: str) -> None:
    """Drop a job."""
    _jobs.pop(name, None)


def _make_block(
    name: str,
    folder: Path,
    fields: tuple[Field, ...],
    index: int,
    selection: slice,
    seal: str,
) -> None:
    """Compute a block and write its shard."""
    with _one_block:
        if isinstance(_jobs[name], bytes):
            _jobs[name] = pickle.loads(_jobs[name])  # noqa: S301 - from the client
        threads = _distributed().get_worker().state.nthreads
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        block = join(_jobs[name].pieces(selection), selection.stop - selection.start)
        write_shard(folder, index, fields, block, seal)
