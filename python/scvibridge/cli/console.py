"""Shared code of the command line and the demo: plain messages, and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from scvibridge._utils.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED
from scvibridge._utils.interrupts import Terminated, endings_interrupt, no_lost_interrupts
from scvibridge._utils.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_SIGNALLED = 128

_PACKAGE = Path(__file__).resolve().parents[1]


def run(
    program: str, main: Callable[[], None], *, debug: bool = False, code: Path = _PACKAGE
) -> int:
    """Run a program; report errors as one line on standard error and an exit code.

    Parameters
    ----------
    program
        Name at the beginning of messages.
    main
        Function to run.
    debug
        Whether to show the traceback of errors.
    code
        Folder, in addition to scvibridge, whose code raises errors for invalid input.

    Returns
    -------
    0 if done; 2 for usage errors or invalid input, that is, for errors that scvibridge itself
    raises; 130 if interrupted (Ctrl-C), 143 by SIGTERM, 129 by SIGHUP; 1 for anything else, such as
    a full disk.
    """
    try:
        with endings_interrupt(), no_lost_interrupts():
            main()
    except KeyboardInterrupt as interruption:
        say(f"{program}: interrupted, nothing written{_notes_of(interruption)}")
        if isinstance(interruption, Terminated):
            return _SIGNALLED + interruption.number
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  (reported in one line; the traceback on request)
        if debug:
            say(traceback.format_exc().rstrip("\n"))
        from scvibridge._utils.failures import WriteError
        from scvibridge.io.paths import out_of_space

        if is_complaint(error) or is_complaint(error, code):
            say(f"{program}: {one_line(error)}{_notes_of(error)}")
            ours = not isinstance(error, WriteError) and not out_of_space(error)
            return BAD_INPUT if ours else FAILED
        hint = "" if debug else " (--debug shows where)"
        say(f"{program}: unexpected failure: {type(error).__name__}: {one_line(error)}{hint}")
        return FAILED
    return DONE


def end_process(code: int) -> NoReturn:
    """Exit this process immediately with an exit code.

    After a failed write (a full disk) HDF5 crashes at exit, which would replace the exit code and
    the message. Python also exits by the signal SIGINT, regardless of the code, if an interrupt
    passed through code run by a compiled module (PyRun_String), for example during the import of
    torch. Skipping all clean-up avoids both.
    """
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    if code == FAILED or code > _SIGNALLED:
        os._exit(code)
    sys.exit(code)


def open_standard_streams() -> None:
    """Connect closed standard streams to the null device.

    Otherwise the next file that is opened would get the number of a closed stream, and printed text
    would be written to that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.dup(number), "w", encoding="utf-8"))


def show(text: object) -> None:
    """Print the output of a command to standard output: a table, or the path of a file.

    On a terminal, control characters are escaped. Elsewhere a path is unchanged. A pipe that its
    reader has closed is ignored.

    Raises
    ------
    OSError
        If it cannot be written for another reason, such as a full disk.
    """
    shown = printable(text, keep="\n") if sys.stdout.isatty() else text
    try:
        sys.stdout.write(f"{shown}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)


def _flush(stream: TextIO | None) -> None:
    """Flush a stream, ignoring a closed pipe."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Discard buffered output, which Python would otherwise fail to write at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_complaint(error: BaseException, code: Path = _PACKAGE) -> bool:
    """Return whether an error reports invalid input: raised on purpose, by our own code."""
    kinds = (ValueError, TypeError, OSError, ImportError)
    if not isinstance(error, kinds) or error.__traceback__ is None:
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return Path(frames[-1][0].f_code.co_filename).resolve().is_relative_to(code)


def _notes_of(error: BaseException) -> str:
    """Return the notes added to an error."""
    return "".join(f"; {' '.join(note.split())}" for note in getattr(error, "__notes__", []))


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def plain_warnings(show: Callable[[str], None] | None = None) -> Iterator[None]:
    """Show each of scvibridge's warnings once, on one line; silence those of other packages.

    Parameters
    ----------
    show
        Called with each message; by default, prints ``warning: message`` to standard error.
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


def say(message: str) -> None:
    """Write a message to standard error, without terminal control characters."""
    # A message that cannot be written must not end a run of hours.
    with suppress(OSError, AttributeError, ValueError):
        sys.stderr.write(printable(message, keep="\n") + "\n")
        sys.stderr.flush()
