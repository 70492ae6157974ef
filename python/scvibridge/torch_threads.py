"""Threads of torch: one for each of several pieces of work, rather than several for one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, TypeVar

import numba
import torch

from scvibridge.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread.

    A piece of work this small gains nothing from more; where the machine has other work to do,
    they wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_to_torchs_threads() -> None:
    """See that torch goes on with as many threads as it was told to.

    When numba starts its own, it may set the number of those of OpenMP, which torch takes for its
    own: better now than in the middle of the work.
    """
    threads = torch.get_num_threads()
    numba.get_num_threads()
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
        What is being done, and whether to tell how far it has come.
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
