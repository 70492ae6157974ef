"""Processes that start at once: children of one server that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "anndata.tests.helpers",
        "zarr",
        "scvi.model",
        "scvibridge.io.streaming",
        "scvibridge.correction.corrected_counts",
    ]
)


def run_code(
    code: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
    largest_file: int | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run code as ``python -c code arguments`` does, in a process that has imported scvi-tools.

    Parameters
    ----------
    code, arguments
        The code, and what it finds in ``sys.argv``.
    environment
        Further variables of the environment.
    largest_file
        Bytes that a file of the process may have, as on a full disk.
    timeout
        Seconds after which the process is killed.
    """
    words = ["-c", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        process = context.Process(
            target=_run, args=(code, words, environment or {}, largest_file, *map(str, streams))
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"the code takes more than {timeout:g} seconds")
        texts = [path.read_text(encoding="utf-8") for path in streams]
    return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _run(
    code: str,
    words: list[str],
    environment: dict[str, str],
    largest_file: int | None,
    *streams: str,
) -> None:
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = words
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


@contextmanager
def preloaded_workers() -> Iterator[None]:
    """Let clusters that are started meanwhile have workers of this kind."""
    if find_spec("distributed") is None:
        yield
        return
    import dask

    forkserver.ensure_running()  # else Dask would set its own list of modules
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@contextmanager
def small_cluster(folder: Path, n_workers: int = 1) -> Iterator[Any]:
    """Start a cluster of workers with one thread each, and give its client."""
    distributed = pytest.importorskip("distributed")
    with (
        preloaded_workers(),
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(folder),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
