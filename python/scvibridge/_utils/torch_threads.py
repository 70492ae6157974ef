"""Torch threads: one for each of several tasks, rather than several for one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, TypeVar

import numba
import torch

from scvibridge._utils.process_state import lock
from scvibridge._utils.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


Item = TypeVar("Item")

Result = TypeVar("Result")

_lock = lock()


class _Users:
    """Threads that limit torch to one thread, and the number of threads before the first."""

    count, before = 0, 1
    depth = threading.local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread.

    Small tasks gain nothing from more threads; on a busy machine, the threads wait for each other.
    """
    outer = getattr(_Users.depth, "value", 0)
    _Users.depth.value = outer + 1
    if outer == 0:
        _enter()
    try:
        yield
    finally:
        _Users.depth.value = outer
        if outer == 0:
            _leave()


def _enter() -> None:
    with _lock:
        if _Users.count == 0:
            _Users.before = torch.get_num_threads()
        _Users.count += 1
        torch.set_num_threads(1)


def _leave() -> None:
    """Restore the number of threads of this thread, and of threads started later."""
    with _lock:
        _Users.count -= 1
        torch.set_num_threads(_Users.before)


def keep_to_torchs_threads() -> None:
    """Keep torch's number of threads.

    When numba starts its threads, it may set the number of OpenMP threads, which torch then adopts:
    trigger this now rather than in the middle of the work.
    """
    threads = torch.get_num_threads()
    numba.get_num_threads()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def side_by_side(
    function: Callable[[Item, Event], Result],
    items: Sequence[Item],
    device: torch.device,
    description: str,
    progress: bool,
) -> list[Result]:
    """Call a function for each item on as many threads as torch has; return results in order.

    Parameters
    ----------
    function
        Receives an item and an event. Once the event is set, the result is no longer needed.
    items
        Items to call it for.
    device
        Torch device: on a GPU, items are processed one after the other.
    description, progress
        Description of the work, and whether to show progress.
    """
    n_threads = 1 if device.type == "cuda" else min(torch.get_num_threads(), len(items))
    stop = Event()
    with one_thread():
        if n_threads == 1:
            return [function(item, stop) for item in track(items, description, progress)]
        with ThreadPoolExecutor(n_threads) as pool:
            running = [pool.submit(function, item, stop) for item in items]
            try:
                return [each.result() for each in track(running, description, progress)]
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
