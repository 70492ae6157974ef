"""Settings of the whole process that several threads can change safely.

Saving a setting, changing it and restoring it is not enough if threads overlap: the second thread
saves what the first one set, and restores that at the end.
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
    """Changes a setting for as long as any thread needs it; the last thread restores it.

    Parameters
    ----------
    change
        Changes the setting, and returns its previous value.
    restore
        Restores the previous value.
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
    """A reentrant lock that is free in a forked process, where its holder does not exist."""

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
    """Return a new reentrant lock for use in a module."""
    return _Lock()


@contextmanager
def numpy_numbers_kept() -> Iterator[None]:
    """Restore the state of numpy's global random numbers."""
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
    """Replaces the pattern of a warning's message: matches any message of one thread."""

    def __init__(self) -> None:
        self._thread: int | None = threading.get_ident()

    def match(self, _message: str) -> bool:
        return threading.get_ident() == self._thread

    def end(self) -> None:
        """Stop matching, in case a copy of the filter has been restored elsewhere."""
        self._thread = None


@contextmanager
def warnings_ignored(category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings in this thread; ``warnings.catch_warnings`` is not thread-safe."""
    pattern = _ThisThread()
    entry: Any = ("ignore", pattern, category, None, 0)
    warnings.filters.insert(0, entry)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        pattern.end()
        if entry in warnings.filters:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]
