"""Work in a forked process: on one thread, or refused where it would hang.

The threads of a parallel run (OpenMP) do not survive a fork: torch waits for them for ever, and
numba ends the process. A process that has not run numba's threads before the fork can go on, on
one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

_MESSAGE = (
    "this process was forked from one in which scvibridge (or other code of numba) had already run "
    "in parallel: its threads do not survive a fork, and work would hang here. Start workers as "
    "new processes, with multiprocessing.get_context('spawn') or 'forkserver' (in R: makePSOCK"
    "cluster() or future::multisession, not mclapply()), or call scvibridge in the workers alone"
)


class _Fork:
    """What this process knows of the fork that it came from."""

    # Of a fork before scvibridge was imported, multiprocessing alone knows.
    happened = type(multiprocessing.current_process()).__name__ == "ForkProcess"
    threads_were_running = False


def _after_fork() -> None:
    _Fork.happened = True
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    running = parallel is not None and parallel._is_initialized  # noqa: SLF001
    # Of numba's three layers, this one alone cannot go on: it ends the process.
    _Fork.threads_were_running = running and parallel._threading_layer == "omp"  # type: ignore[union-attr]  # noqa: SLF001


# Here, since the package is imported before the fork, and most of it (with torch) may be after it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_fork() -> None:
    """Refuse work that would hang in a forked process, and keep other work to one thread there.

    Raises
    ------
    RuntimeError
        If threads were running when the process was forked.
    """
    if not _Fork.happened:
        return
    if _Fork.threads_were_running:
        raise RuntimeError(_MESSAGE)
    import numba
    import torch
    from numba.np.ufunc import parallel

    if not parallel._is_initialized:  # noqa: SLF001
        # OpenMP would wait for threads that a training may have started before the fork: numba has
        # its own layer, "workqueue", and torch with one thread starts no others.
        numba.config.THREADING_LAYER = "workqueue"
        parallel.NUM_THREADS = 1
        torch.set_num_threads(1)
