"""Run experiments in separate processes, and store the figures of each in a file.

A separate module, because a spawned process does not import the package's ``__main__`` again.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

from benchmarks.validity.rows import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from benchmarks.validity.rows import Row

    Run = Callable[[], list[Row]]


def run_all(experiments: Iterable[tuple[str, Run]], work: Path, jobs: int) -> None:
    """Run the experiments that have no file in a folder yet, `jobs` at a time."""
    # Not forked: torch's and numba's threads would not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        runs = [
            pool.submit(_run, work / f"{name}.csv", run)
            for name, run in experiments
            if not (work / f"{name}.csv").is_file()
        ]
        try:
            for done in as_completed(runs):
                print(done.result(), flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(path: Path, run: Run) -> str:
    """Write the figures of one run; an interrupted run writes none."""
    started = time.monotonic()
    unfinished = path.with_suffix(".partial")
    table(run()).to_csv(unfinished, index=False)
    unfinished.rename(path)
    return f"{path.stem}: {time.monotonic() - started:.0f} s"
