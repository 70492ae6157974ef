"""Limit the threads of torch and numba to the cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

# CPU limit of a container: "quota period" in version 2, one file each in version 1.
_CGROUPS = Path("/sys/fs/cgroup")

_VARIABLES = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")


def available() -> int:
    """Return the maximum number of threads for this process.

    The minimum of: the cores that it is bound to, the quota of its container (rounded up), and the
    variables OMP_NUM_THREADS and OMP_THREAD_LIMIT.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [bound, _quota(_CGROUPS), *(_number(os.environ.get(name)) for name in _VARIABLES)]
    return max(1, min(limit for limit in limits if limit))


def limit(threads: int | None = None) -> int:
    """Limit torch and numba to a number of threads.

    Each has a separate pool, as have R's packages, and torch counts the cores of the machine even
    if a container may use fewer: with more threads than cores, threads wait for each other.

    Parameters
    ----------
    threads
        Number of threads; by default, at most the `available` ones and those that each uses
        already.

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
    """Return the number of cores that the quota of a container allows; None without a quota."""
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
    """Return the first number of an OpenMP variable, which has one per nesting level."""
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isdigit() else None
