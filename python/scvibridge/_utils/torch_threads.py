"""Threads of torch: one for each of several pieces of work, rather than several for one."""

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
    """Threads that keep torch to one thread, and the number that it had before the first."""

    count, before = 0, 1
    depth = threading.local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread.

    A piece of work this small gains nothing from more; where the machine has other work to do,
    they wait for each other.
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
    """Put back the number of this thread, and of threads that start from now on."""
    with _lock:
        _Users.count -= 1
        torch.set_num_threads(_Users.before)


def keep_to_torchs_threads() -> None:
    """Keep torch's number of threads as it was set.

    When numba starts its own, it may set the number of those of OpenMP, which torch takes for its
    own: better now than in the middle of the work.
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
    """Call a function for each item, on as many threads as torch has; results in their order.

    Parameters
    ----------
    function
        Takes an item and an event. Where that is set, nobody wants the result any more.
    items
        What to call it for.
    device
        Where torch works: on a GPU one item after the other.
    description, progress
        What is being done, and whether to show progress.
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
