"""Progress: a bar on a terminal or in a notebook, plain lines elsewhere, or whatever R shows.

Progress is counted in cells and reported with the rate and the time left. Work of less than about
two seconds shows nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


T = TypeVar("T")

# Seconds of work before a bar shows, between two plain lines, and between two calls of a reporter.
_BAR_DELAY = 2.0

_LINE_INTERVAL = 10.0

_CALL_INTERVAL = 0.2

_MINUTE, _HOUR = 60, 3600


class Reporter(Protocol):
    """A receiver of progress: of the start of a step, of updates, and of its end."""

    def start(self, description: str, total: int, unit: str) -> object:
        """Begin a step of `total` cells (or other `unit`)."""

    def update(self, done: int) -> object:
        """Report that `done` of the total are done."""

    def finish(self) -> object:
        """End the step, also after an error."""


_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting_to(reporter: Reporter | None) -> Iterator[None]:
    """Send progress to `reporter` instead of standard error, a few times a second at most.

    It is called by the main thread alone, as R needs it.
    """
    token = _reporter.set(None if reporter is None else _Seldom(reporter))
    try:
        yield
    finally:
        _reporter.reset(token)


def track(items: Sequence[T], description: str, enabled: bool) -> Iterator[T]:
    """Yield the items, telling how far the work has come.

    Parameters
    ----------
    items
        What is worked through, one after the other: slices of cells, which are counted in cells,
        or others, which are counted as blocks.
    description
        What is being done, e.g. ``"Drawing counts"``.
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
    """Report the progress of work that counts by itself: yields the function to call.

    Parameters
    ----------
    total
        Number of the units there are.
    description
        What is being done, e.g. ``"Training"``.
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
    try:
        yield reporter.update
    finally:
        reporter.finish()


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

    An imported ipykernel is no sign of one: matplotlib's inline backend imports it as well.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class _Bar:
    """A bar of tqdm."""

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
        with suppress(OSError, AttributeError, ValueError):  # nobody reads it any more
            sys.stderr.write(
                f"{self._description}: {done:,} of {self._total:,} {self._unit} "
                f"({done / self._total:.0%}), {_format_rate(rate)} {self._unit}/s, {left} left\n"
            )
            sys.stderr.flush()

    def finish(self) -> None:
        pass


def _format_rate(rate: float) -> str:
    # Of epochs there may be less than one.
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class _Seldom:
    """Another reporter, which receives updates a few times a second at most."""

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
