"""Write HDF5 files in a way that HDF5 never sees a full disk.

HDF5 2.0 does not survive a failed write: closing the file then fails, and the process ends with a
segmentation fault, at once or later. Data that cannot be written are therefore held in memory until
the file is closed, and the error is raised after that. Code that writes a lot calls `check` from
time to time, to stop before much is held.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import h5py

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class NewFile(h5py.File):
    """An HDF5 file being written."""

    def __init__(self, output: _Output) -> None:
        super().__init__(output, "w")
        self._output = output

    def check(self) -> None:
        """Raise the error that HDF5 did not see, if there was one.

        Raises
        ------
        OSError
            If something could not be written, for lack of space or another reason.
        """
        self._output.check()


@contextmanager
def new_hdf5(path: Path) -> Iterator[NewFile]:
    """Open a new HDF5 file for writing; close it at the end.

    Raises
    ------
    OSError
        If the file could not be written, for lack of space or another reason.
    """
    with _Output(path) as output:
        file = NewFile(output)
        try:
            yield file
        finally:
            file.close()
            # Instead of any error caused by it.
            output.check()


class _Output(io.RawIOBase):
    """The bytes of a file; those that could not be written are in memory."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._position = 0
        self._length = 0
        self._error: OSError | None = None
        self._held: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the error of the first write that failed."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}
        self._position = origin[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def write(self, data: Any) -> int:
        """Write, or hold what cannot be written."""
        view = memoryview(data).cast("B")
        if self._error is None:
            try:
                self._write_all(view)
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._held.append((self._position, bytes(view)))
        self._position += len(view)
        self._length = max(self._length, self._position)
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += os.pwrite(self._handle, view[done:], self._position + done)

    def readinto(self, buffer: Any) -> int:
        """Read data that were written or held."""
        view = memoryview(buffer).cast("B")
        start, stop = self._position, self._position + len(view)
        found = os.preadv(self._handle, [view], start)
        view[found:] = bytes(len(view) - found)
        for position, data in self._held:
            first, last = max(start, position), min(stop, position + len(data))
            if first < last:
                view[first - start : last - start] = data[first - position : last - position]
        self._position = stop
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        self._length = self._position if size is None else size
        if self._error is None:
            try:
                os.ftruncate(self._handle, self._length)
            except OSError as error:
                self._error = error
        return self._length

    def close(self) -> None:
        """Close the underlying file."""
        if not self.closed:
            os.close(self._handle)
        super().close()
