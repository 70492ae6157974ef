"""Create temporary folders next to an output, and locks that let one process use a folder.

A folder left by a killed process is recognised by its lock, which no process holds, and is removed
by the next process that writes the same output.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from scvibridge._utils.failures import WriteError

LOCK = "lock"


def behind_links(path: str | os.PathLike[str]) -> Path:
    """Resolve ``~`` and links in the path of an output, so that a link keeps its target."""
    return Path(os.path.realpath(Path(path).expanduser()))


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists; for a link, remove the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# -- folders -----------------------------------------------------------------------------------


class Scratch:
    """A folder next to an output, for files that are needed until it is written.

    Only this user can read it. It is removed with this object or when the interpreter exits;
    folders left by killed processes are removed when the next one is created for the same output.

    Parameters
    ----------
    out
        Path of the output.

    Attributes
    ----------
    folder
        The folder.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        target = behind_links(out)
        clear_abandoned(target)
        self.folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        handle = take_lock(self.folder, target)
        self._finalizer = weakref.finalize(self, _remove_scratch, self.folder, handle)

    def remove(self) -> None:
        """Remove the folder if it exists."""
        self._finalizer()


def clear_abandoned(out: str | os.PathLike[str]) -> None:
    """Remove the temporary folders of an output that were left by killed processes."""
    target = behind_links(out)
    if not target.parent.is_dir():
        return
    for older in target.parent.iterdir():
        if older.name.startswith(_prefix(target)) and older.is_dir() and is_abandoned(older):
            remove(older)


def _prefix(target: Path) -> str:
    return f".{target.name}.scratch-"


def is_abandoned(folder: Path) -> bool:
    """Return whether no process holds the lock of a folder."""
    try:
        check_free(folder, folder)
    except WriteError:
        return False
    return True


def _remove_scratch(folder: Path, handle: int) -> None:
    remove(folder)
    os.close(handle)


# -- locks -------------------------------------------------------------------------------------


def check_free(folder: Path, out: str | os.PathLike[str]) -> None:
    """Check that no process holds the lock of a folder.

    Raises
    ------
    WriteError
        If one does; the message identifies it.
    """
    with suppress(FileNotFoundError), (folder / LOCK).open("rb") as lock:
        _flock(lock.fileno(), fcntl.LOCK_SH, out)


def take_lock(folder: Path, out: Path, mode: int = 0o777) -> int:
    """Lock a folder, creating it if needed; the lock ends with the process.

    Raises
    ------
    WriteError
        If another process holds the lock.
    """
    while True:
        folder.mkdir(mode=mode, exist_ok=True)
        path = folder / LOCK
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # the folder was removed in the meantime
            continue
        try:
            _flock(handle, fcntl.LOCK_EX, out)
        except WriteError:
            os.close(handle)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return handle
        os.close(handle)  # the lock of a folder that no longer exists


def _flock(handle: int, kind: int, out: str | os.PathLike[str]) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        raise WriteError(
            f"{out} is being written by {holder}: wait until it has finished, or choose another "
            "name"
        ) from None
    except OSError:
        pass  # A file system without locks: continue without.
