"""Threads: one for each of several tasks, rather than several for one.

torch and scikit-learn each have a pool of OpenMP threads. After a parallel loop the threads of one
pool wait actively for milliseconds, on the cores that the next loop of another pool needs.
Tasks that alternate between these packages are therefore run on one thread each, side by side.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, TypeVar

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
        _enter(1)
    try:
        yield
    finally:
        _Users.depth.value = outer
        if outer == 0:
            _leave()


def _enter(number: int) -> None:
    with _lock:
        if _Users.count == 0:
            _Users.before = torch.get_num_threads()
        _Users.count += 1
        torch.set_num_threads(number)


def _leave() -> None:
    """Restore the number of threads of this thread, and of threads started later."""
    with _lock:
        _Users.count -= 1
        torch.set_num_threads(_Users.before)


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


def share_rows(work: Callable[[slice], object], n_rows: int, fewest: int) -> None:
    """Call a function for parts of some rows, on as many threads as torch has.

    Parameters
    ----------
    work
        Receives the rows of a part, and releases the GIL.
    n_rows
        Number of rows.
    fewest
        Number of rows for which another thread is worth while.
    """
    n_threads = min(torch.get_num_threads(), n_rows // fewest)
    if n_threads < 2:
        work(slice(0, n_rows))
        return
    # Some parts take longer than others.
    step = -(-n_rows // min(4 * n_threads, n_rows // fewest))
    parts = [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(work, parts):
            pass


# -- in order --------------------------------------------------------------------------------------

# More tasks at a time would need more memory.
_MOST_AT_ONCE = 4


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Iterator[Result]:
    """Call a function for each item, on several threads, and yield the results in order.

    At most four items are in work at a time, each with its share of torch's threads.
    At most as many results wait to be taken.

    Parameters
    ----------
    function
        Called for each item. It must be safe to call from several threads.
    items
        Items to call it for.
    device
        Torch device: on a GPU, items are processed one after the other.
    """
    n_threads = torch.get_num_threads()
    n_workers = min(n_threads, len(items), _MOST_AT_ONCE)
    if device.type != "cpu" or n_workers < 2:
        yield from map(function, items)
        return
    share = n_threads // n_workers
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(n_workers, initializer=_limit, initargs=(share,))
    _enter(share)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > n_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        _leave()


def _limit(share: int) -> None:
    """Limit the threads that this thread uses."""
    torch.set_num_threads(share)
