"""Work in a forked process: on one thread.

torch's threads (OpenMP) do not survive a fork: the child would wait for them forever.
"""

from __future__ import annotations

import multiprocessing
import os


class _Fork:
    """Whether this process was created by a fork."""

    # After a fork before scvibridge was imported, only multiprocessing knows it.
    happened = type(multiprocessing.current_process()).__name__ == "ForkProcess"


def _after_fork() -> None:
    _Fork.happened = True


# Registered here because the package is imported before the fork, but most modules (and torch) may
# be imported after it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def adapt_to_fork() -> None:
    """Limit torch to one thread in a forked process."""
    if _Fork.happened:
        import torch

        torch.set_num_threads(1)
