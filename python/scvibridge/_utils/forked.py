"""Work in a forked process: use one thread, or raise an error if it would hang.

Threads of a parallel run (OpenMP) do not survive a fork: torch waits for them forever, and numba
aborts the process. A process that did not run numba's threads before the fork can continue on one
thread.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

_MESSAGE = (
    "this process was forked from one in which scvibridge (or other numba code) had already run "
    "in parallel: its threads do not survive a fork, and work would hang here. Start workers as "
    "new processes, with multiprocessing.get_context('spawn') or 'forkserver' (in R: "
    "makePSOCKcluster() or future::multisession, not mclapply()), or call scvibridge only in the "
    "workers"
)


class _Fork:
    """What this process knows about the fork that created it."""

    # After a fork before scvibridge was imported, only multiprocessing knows it.
    happened = type(multiprocessing.current_process()).__name__ == "ForkProcess"
    threads_were_running = False


def _after_fork() -> None:
    _Fork.happened = True
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    running = parallel is not None and parallel._is_initialized  # noqa: SLF001
    # The only one of numba's three threading layers that cannot continue: it aborts the process.
    _Fork.threads_were_running = running and parallel._threading_layer == "omp"  # type: ignore[union-attr]  # noqa: SLF001


# Registered here because the package is imported before the fork, but most modules (and torch) may
# be imported after it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_fork() -> None:
    """Raise an error for work that would hang in a forked process; limit other work to one thread.

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
        # OpenMP would wait for threads that training may have started before the fork: use numba's
        # own layer, "workqueue", and one torch thread, which starts no others.
        numba.config.THREADING_LAYER = "workqueue"
        parallel.NUM_THREADS = 1
        torch.set_num_threads(1)
