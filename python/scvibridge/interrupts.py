"""Interrupts (Ctrl-C) of work that R's process has Python do."""

from __future__ import annotations

import ctypes
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def staying_interrupts() -> Iterator[None]:
    """Let an interrupt be one, and the session be interrupted again later.

    Lightning puts Python's handlers back after each training, and R, which is told by a handler in
    C below Python's, would hear of no interrupt any more. Where one reaches a training, Lightning
    lets the process ignore all further ones, and asks Python to exit, which is not R's wish.

    Raises
    ------
    KeyboardInterrupt
        In place of an exit that an interrupt is the reason of.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, native = signal.getsignal(signal.SIGINT), _native_handler()
    try:
        yield
    except SystemExit as ending:
        if isinstance(ending.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from ending
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
