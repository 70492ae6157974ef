"""Settings that belong to the whole process, changed by several threads without harm.

Saving a setting, changing it and putting it back is not enough where threads overlap: the second
saves what the first has set, and puts that back in the end.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


Setting = TypeVar("Setting")


class WhileNeeded(Generic[Setting]):
    """Changes a setting for as long as any thread needs it; the last one puts it back.

    Parameters
    ----------
    change
        Changes the setting, and returns what it was.
    restore
        Sets it to what it was.
    """

    def __init__(self, change: Callable[[], Setting], restore: Callable[[Setting], object]) -> None:
        self._change, self._restore = change, restore
        self._lock, self._n_users = lock(), 0
        self._before: Setting

    def __enter__(self) -> None:
        with self._lock:
            if self._n_users == 0:
                self._before = self._change()
            self._n_users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0:
                self._restore(self._before)


class _Lock:
    """A reentrant lock that a forked process finds open: whoever held it is not there."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def lock() -> _Lock:
    """Return a new lock for a module to keep; a thread may enter it again."""
    return _Lock()


@contextmanager
def numpy_numbers_kept() -> Iterator[None]:
    """Put numpy's global random numbers back to where they were."""
    state = np.random.get_state()  # noqa: NPY002 - what other packages draw from
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


# -- silence -----------------------------------------------------------------------------------


def _disable_logging() -> int:
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))
    return level


logging_disabled = WhileNeeded(_disable_logging, logging.disable)


class _ThisThread:
    """Stands for the pattern of a warning's message: matches any message of one thread."""

    def __init__(self) -> None:
        self._thread: int | None = threading.get_ident()

    def match(self, _message: str) -> bool:
        return threading.get_ident() == self._thread

    def end(self) -> None:
        """Match nothing any more, should a copy of the filter have been put back elsewhere."""
        self._thread = None


@contextmanager
def warnings_ignored(category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings of this thread; ``warnings.catch_warnings`` is for one thread at a time."""
    pattern = _ThisThread()
    entry: Any = ("ignore", pattern, category, None, 0)
    warnings.filters.insert(0, entry)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        pattern.end()
        if entry in warnings.filters:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]
