"""Interrupts: Ctrl-C, and the signals that ask a process to terminate (SIGTERM, SIGHUP)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


# SIGHUP: the terminal was closed. Not available on Windows.
_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

# Seconds after which a lost interrupt is raised again, outside the code that lost it.
_AGAIN_AFTER = 0.05


class Terminated(KeyboardInterrupt):
    """An interrupt by a signal other than SIGINT.

    Attributes
    ----------
    number
        Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def endings_interrupt() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP like Ctrl-C, so that temporary files are removed.

    A signal that has a handler, or is ignored (as by nohup), is left unchanged; so are all signals
    in threads other than the main one, where Python accepts no handlers.

    Raises
    ------
    Terminated
        When one of them arrives.
    """

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated(number)

    in_main = threading.current_thread() is threading.main_thread()
    default = [n for n in _ENDINGS if in_main and signal.getsignal(n) is signal.SIG_DFL]
    for number in default:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in default:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def no_lost_interrupts() -> Iterator[None]:
    """Raise an interrupt that Python ignored again, at the latest when the work ends.

    Python raises KeyboardInterrupt wherever the main thread is. In a finalizer or a callback of the
    garbage collector it prints the exception and continues as if there had been no interrupt.

    Raises
    ------
    KeyboardInterrupt
        When an interrupt was ignored.
    """
    lost: list[int] = []
    timers: list[threading.Timer] = []
    previous = sys.unraisablehook

    def raise_again(ignored: sys.UnraisableHookArgs) -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            previous(ignored)
            return
        number = getattr(ignored.exc_value, "number", signal.SIGINT)
        timer = threading.Timer(_AGAIN_AFTER, _send_again, (number,))
        timer.daemon = True
        lost.append(number)
        timers.append(timer)
        timer.start()

    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = previous
        for timer in timers:
            timer.cancel()
    if lost:
        raise KeyboardInterrupt if lost[-1] == signal.SIGINT else Terminated(lost[-1])


def _send_again(number: int) -> None:
    """Send the signal itself: R's handler below Python's must see it too.

    Python's handler in R raises nothing unless R's handler was called, so that
    ``_thread.interrupt_main``, which calls Python's handler alone, has no effect there.
    """
    if not callable(signal.getsignal(number)):
        return  # the default would end the process
    if hasattr(signal, "pthread_kill") and (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, number)
    else:  # Windows
        signal.raise_signal(number)


@contextmanager
def ending_tidily() -> Iterator[None]:
    """Remove temporary files on SIGTERM and SIGHUP, report what is kept, and exit by the signal.

    Handlers set by the program take precedence.
    """
    try:
        with endings_interrupt(), no_lost_interrupts():
            yield
    except Terminated as ending:
        if signal.getsignal(ending.number) is not signal.SIG_DFL:
            raise  # an outer handler raised it, and knows what to do
        notes = "".join(f"; {' '.join(note.split())}" for note in getattr(ending, "__notes__", []))
        with suppress(OSError, AttributeError, ValueError):
            name = signal.Signals(ending.number).name
            sys.stderr.write(f"scvibridge: interrupted by {name}{notes}\n")
            sys.stderr.flush()
        os.kill(os.getpid(), ending.number)
        raise


@contextmanager
def staying_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on an interrupt, and keep the session interruptible afterwards.

    Lightning restores Python's handlers after each training, so that R, which is notified by a C
    handler below Python's, would no longer receive any interrupt. If an interrupt arrives during
    training, Lightning makes the process ignore all further ones, and asks Python to exit, which
    must not happen inside R.

    Raises
    ------
    KeyboardInterrupt
        In place of an exit caused by an interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, native = signal.getsignal(signal.SIGINT), _native_handler()
    try:
        with no_lost_interrupts():
            yield
    except SystemExit as ending:
        if isinstance(ending.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from ending
        if type(ending).__name__ == "SIGTERMException":  # Lightning's
            raise Terminated(signal.SIGTERM) from ending
        raise
    finally:
        if handler is not None and _native_handler() != native:
            signal.signal(signal.SIGINT, handler)
            _set_native_handler(native)


def _native_handler() -> int | None:
    get = ctypes.pythonapi.PyOS_getsig
    get.argtypes, get.restype = [ctypes.c_int], ctypes.c_void_p
    handler: int | None = get(signal.SIGINT)
    return handler


def _set_native_handler(handler: int | None) -> None:
    put = ctypes.pythonapi.PyOS_setsig
    put.argtypes, put.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    put(signal.SIGINT, handler)
