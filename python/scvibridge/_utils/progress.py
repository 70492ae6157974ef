"""Progress: a bar in a terminal or a notebook, plain lines elsewhere, or R's own display.

Progress is counted in cells and reported with the rate and the remaining time. Work that takes less
than about two seconds shows nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

from tqdm.auto import tqdm

from scvibridge._utils.process_state import lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


T = TypeVar("T")

# Seconds before a bar appears, between two plain lines, and between two calls of a reporter.
_BAR_DELAY = 2.0

_LINE_INTERVAL = 10.0

_CALL_INTERVAL = 0.2

_MINUTE, _HOUR = 60, 3600


class Reporter(Protocol):
    """Receives the start of a step, progress updates, and its end."""

    def start(self, description: str, total: int, unit: str) -> object:
        """Start a step of `total` cells (or another `unit`)."""

    def update(self, done: int) -> object:
        """Report that `done` of the total are done."""

    def finish(self) -> object:
        """Finish the step, also after an error."""


_lock = lock()


class _Shown:
    """Number of steps whose progress is shown on standard error."""

    number = 0


_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting_to(reporter: Reporter | None) -> Iterator[None]:
    """Send progress to `reporter` instead of standard error, at most a few times a second.

    It is called only by the main thread, as R requires.
    """
    token = _reporter.set(None if reporter is None else _Seldom(reporter))
    try:
        yield
    finally:
        _reporter.reset(token)


def track(items: Sequence[T], description: str, enabled: bool) -> Iterator[T]:
    """Yield the items, reporting progress.

    Parameters
    ----------
    items
        Items to process in order: slices of cells, counted in cells, or other items, counted as
        blocks.
    description
        Description of the work, e.g. ``"Sampling counts"``.
    enabled
        Whether to report anything.
    """
    if not enabled:
        yield from items
        return
    sizes = [_n_cells(item) for item in items]
    counted = [size for size in sizes if size is not None]
    in_cells = len(counted) == len(sizes)
    total = sum(counted) if in_cells else len(sizes)
    with counting(total, description, _unit(in_cells), enabled) as update:
        done = 0
        for item, size in zip(items, sizes, strict=True):
            yield item
            done += size if in_cells and size is not None else 1
            update(done)


@contextmanager
def counting(
    total: int, description: str, unit: str, enabled: bool
) -> Iterator[Callable[[int], object]]:
    """Report the progress of work that counts by itself; yields the function to call.

    Parameters
    ----------
    total
        Total number of units.
    description
        Description of the work, e.g. ``"Training"``.
    unit
        What is counted, e.g. ``"epochs"``.
    enabled
        Whether to report anything.
    """
    if not enabled:
        yield lambda _done: None
        return
    reporter = choose_reporter()
    reporter.start(description, total, unit)
    _change_shown(reporter, 1)
    try:
        yield reporter.update
    finally:
        _change_shown(reporter, -1)
        reporter.finish()


def _change_shown(reporter: Reporter, change: int) -> None:
    if isinstance(reporter, (_Bar, _Lines)):
        with _lock:
            _Shown.number += change


def note(message: str) -> None:
    """Write a line to standard error, from any thread, if progress is being shown there."""
    if _Shown.number > 0:
        with suppress(OSError, AttributeError, ValueError):  # standard error is closed
            tqdm.write(message, file=sys.stderr)


def _n_cells(item: object) -> int | None:
    return item.stop - item.start if isinstance(item, slice) else None


def _unit(in_cells: bool) -> str:
    return "cells" if in_cells else "blocks"


def choose_reporter() -> Reporter:
    """Return the reporter of :func:`reporting_to`, or one suitable for standard error."""
    reporter = _reporter.get()
    if reporter is not None and threading.current_thread() is threading.main_thread():
        return reporter
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    return _Bar() if is_terminal or _in_notebook() else _Lines()


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook.

    That ipykernel is imported does not imply it: matplotlib's inline backend imports it as well.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class _Bar:
    """A tqdm bar."""

    def start(self, description: str, total: int, unit: str) -> None:
        self._bar = tqdm(
            total=total,
            desc=description,
            unit=f" {unit}",
            delay=_BAR_DELAY,
            leave=False,
            dynamic_ncols=True,
        )

    def update(self, done: int) -> None:
        self._bar.update(done - self._bar.n)

    def finish(self) -> None:
        self._bar.close()


class _Lines:
    """Lines on standard error."""

    def start(self, description: str, total: int, unit: str) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._began = self._told = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told < _LINE_INTERVAL or done >= self._total:
            return
        self._told = now
        rate = done / (now - self._began)
        left = format_seconds((self._total - done) / rate) if rate > 0 else "unknown time"
        with suppress(OSError, AttributeError, ValueError):  # standard error is closed
            sys.stderr.write(
                f"{self._description}: {done:,} of {self._total:,} {self._unit} "
                f"({done / self._total:.0%}), {_format_rate(rate)} {self._unit}/s, {left} left\n"
            )
            sys.stderr.flush()

    def finish(self) -> None:
        pass


def _format_rate(rate: float) -> str:
    # There may be less than one epoch per second.
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class _Seldom:
    """Passes updates on to another reporter at most a few times a second."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def start(self, description: str, total: int, unit: str) -> None:
        self._told = time.monotonic()
        self._reporter.start(description, total, unit)

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told >= _CALL_INTERVAL:
            self._told = now
            self._reporter.update(done)

    def finish(self) -> None:
        self._reporter.finish()


def format_seconds(seconds: float) -> str:
    """Return a duration as text: ``"45 s"``, ``"3 min 20 s"``, ``"1 h 05 min"``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
