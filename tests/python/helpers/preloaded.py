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

NO_READER = "|"


def run_code(
    code: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
    largest_file: int | None = None,
    streams: dict[int, str | None] | None = None,
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
    streams
        What the standard streams are in place of files whose text is returned: a path, None for a
        closed one, or `NO_READER` for a pipe whose reader has gone.
    timeout
        Seconds after which the process is killed.

    Raises
    ------
    TimeoutError
        If the code takes longer.
    """
    words = ["-c", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        opened = {0: os.devnull, **dict(enumerate(map(str, files), start=1)), **(streams or {})}
        process = context.Process(
            target=_run, args=(code, words, environment or {}, largest_file, opened)
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"the code takes more than {timeout:g} seconds")
        texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in files]
    return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _run(
    code: str,
    words: list[str],
    environment: dict[str, str],
    largest_file: int | None,
    streams: dict[int, str | None],
) -> None:
    os.environ.update(environment)
    # Those that are closed come last: what is opened would get their numbers.
    for number in sorted(streams, key=lambda number: streams[number] is None):
        _set_stream(number, streams[number])
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = words
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _set_stream(number: int, stream: str | None) -> None:
    """Make a standard stream what it is for an interpreter that starts with it."""
    name = ("stdin", "stdout", "stderr")[number]
    if stream is None:
        os.close(number)
        setattr(sys, name, None)
        return
    if stream == NO_READER:
        read, opened = os.pipe()
        os.close(read)
    else:
        opened = os.open(stream, os.O_RDWR | os.O_CREAT | os.O_NOCTTY)
    os.dup2(opened, number)
    os.close(opened)
    mode, buffering, errors = {
        "stdin": ("r", -1, None),
        "stdout": ("w", -1, None),
        "stderr": ("w", 1, "backslashreplace"),
    }[name]
    made = open(number, mode, buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
    setattr(sys, name, made)


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
