"""Threads: torch and numba take no more than the cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

# What limits the cores of a container: "quota period" in version 2, a file each in version 1.
_CGROUPS = Path("/sys/fs/cgroup")

_VARIABLES = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")


def available() -> int:
    """Number of threads that this process should run at most.

    The fewest of: the cores that it is bound to, what its container's quota amounts to (rounded
    up), and the variables OMP_NUM_THREADS and OMP_THREAD_LIMIT.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [bound, _quota(_CGROUPS), *(_number(os.environ.get(name)) for name in _VARIABLES)]
    return max(1, min(limit for limit in limits if limit))


def limit(threads: int | None = None) -> int:
    """Keep torch and numba to a number of threads.

    Each has a separate pool, as have R's packages, and torch counts the cores of the machine where
    a container may use fewer: more threads than cores wait for each other.

    Parameters
    ----------
    threads
        Their number; by default no more than are `available` nor than either runs already.

    Returns
    -------
    The number of torch's threads.
    """
    import numba
    import torch

    if threads is None:
        n_torch, n_numba = (
            min(available(), now) for now in (torch.get_num_threads(), numba.get_num_threads())
        )
    else:
        n_torch, n_numba = threads, min(threads, numba.config.NUMBA_NUM_THREADS)
    if n_torch != torch.get_num_threads():
        torch.set_num_threads(n_torch)
    if n_numba != numba.get_num_threads():
        numba.set_num_threads(n_numba)
    return n_torch


def _quota(groups: Path) -> int | None:
    """Cores that the quota of a container amounts to; None without one."""
    try:
        if (groups / "cpu.max").is_file():
            quota, period = (groups / "cpu.max").read_text().split()
        else:
            quota, period = (
                (groups / "cpu" / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period")
            )
        cores = int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return max(1, -int(-cores // 1)) if cores > 0 else None


def _number(text: str | None) -> int | None:
    """First of the numbers of a variable of OpenMP, which has one for each level."""
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isdigit() else None
