"""What the command line and the demo have in common: plain messages, and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from scvibridge.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

DONE = 0
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

_PACKAGE = Path(__file__).resolve().parent


def run(program: str, main: Callable[[], None], *, debug: bool = False) -> int:
    """Run a program; its errors become one line on standard error and an exit code.

    Parameters
    ----------
    program
        Name to begin messages with.
    main
        What to run.
    debug
        Whether errors show their traceback.

    Returns
    -------
    0 when done; 2 for usage or bad input, that is for errors that scvibridge itself raises; 130
    when interrupted (Ctrl-C or SIGTERM); 1 for anything else, such as a full disk.
    """
    try:
        with _interrupted_by_sigterm():
            main()
    except KeyboardInterrupt as interruption:
        say(f"{program}: interrupted, nothing written{_notes_of(interruption)}")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  (told in one line; the traceback on request)
        if debug:
            say(traceback.format_exc().rstrip("\n"))
        from scvibridge.failures import WriteError
        from scvibridge.files import out_of_space

        if is_complaint(error):
            say(f"{program}: {one_line(error)}{_notes_of(error)}")
            ours = not isinstance(error, WriteError) and not out_of_space(error)
            return BAD_INPUT if ours else FAILED
        hint = "" if debug else " (--debug shows where)"
        say(f"{program}: unexpected failure: {type(error).__name__}: {one_line(error)}{hint}")
        return FAILED
    return DONE


def end_process(code: int) -> NoReturn:
    """End this process with an exit code.

    After a write that failed (a full disk) HDF5 crashes while it is being torn down, which would
    replace the exit code and the message. And Python ends by the signal SIGINT, whatever the code,
    where an interruption once passed through code that a compiled module ran (PyRun_String), as
    it can during the import of torch. So nothing is torn down after either.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (FAILED, INTERRUPTED):
        os._exit(code)
    sys.exit(code)


def is_complaint(error: BaseException) -> bool:
    """Whether an error says what is wrong with the input: raised on purpose, by our own code."""
    kinds = (ValueError, TypeError, OSError, ImportError)
    if not isinstance(error, kinds) or error.__traceback__ is None:
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return Path(frames[-1][0].f_code.co_filename).resolve().is_relative_to(_PACKAGE)


def _notes_of(error: BaseException) -> str:
    """What the code that an error passed through has added to it."""
    return "".join(f"; {' '.join(note.split())}" for note in getattr(error, "__notes__", []))


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def show(text: object) -> None:
    """Print what a command found to standard output: a table, or the path of a file.

    On a terminal, characters that it would obey are escaped. Elsewhere a path stays what it is,
    for whoever reads it from there.
    """
    told = printable(text, keep="\n") if sys.stdout.isatty() else text
    sys.stdout.write(f"{told}\n")


@contextmanager
def plain_warnings(show: Callable[[str], None] | None = None) -> Iterator[None]:
    """Show scvibridge's warnings as lines, each once; silence those of other packages.

    Parameters
    ----------
    show
        What to do with a message; by default ``warning: message`` on standard error.
    """
    show = show or (lambda message: say(f"warning: {message}"))
    shown: set[str] = set()

    def showwarning(
        message: Warning | str, category: type[Warning], filename: str, *_: object
    ) -> None:
        ours = Path(filename).resolve().is_relative_to(_PACKAGE)
        if ours and issubclass(category, UserWarning) and str(message) not in shown:
            shown.add(str(message))
            show(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = showwarning  # type: ignore[assignment]
        yield


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that temporary files are removed on the way out."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(message: str) -> None:
    """Write a message to standard error, without characters that a terminal obeys."""
    sys.stderr.write(printable(message, keep="\n") + "\n")
    sys.stderr.flush()
