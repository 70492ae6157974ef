"""Read zarr folders, and notice if they were replaced or removed since they were opened."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import zarr

# zarr 2 calls it DirectoryStore.
_Folder: Any = getattr(zarr.storage, "LocalStore", None) or zarr.storage.DirectoryStore


def open_zarr(path: Path) -> zarr.Group:
    """Open a zarr folder for reading.

    To zarr, a file that does not exist is a chunk of zeros, and a new folder of the same name is
    the same folder. An AnnData whose matrices are in a folder that was replaced (by
    ``overwrite=True``, or by writing the AnnData to its own folder) would therefore be empty, or a
    mixture of both. The folder that is returned raises an error instead.
    """
    store = OpenedFolder(path)
    return zarr.open(store, mode="r")


class ReplacedFolderError(OSError):
    """A zarr folder is not the one that was opened."""


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


class OpenedFolder(_Folder):
    """A folder that is read until it is replaced or removed.

    Attributes
    ----------
    folder
        Its path, with links resolved.

    Raises
    ------
    ReplacedFolderError
        If the folder was replaced or removed, when something is read from it.
    """

    def __init__(self, root: Any, **settings: Any) -> None:
        if hasattr(_Folder, "supports_writes"):  # zarr 3
            settings.setdefault("read_only", True)
        super().__init__(str(root), **settings)
        self.folder = Path(os.path.realpath(root))
        self._identity = self.folder.stat()
        # The number of an open folder is not given to another one. Windows cannot open folders.
        handle = None if os.name == "nt" else os.open(self.folder, os.O_RDONLY)
        self._finalizer = weakref.finalize(self, _close, handle)

    def __reduce__(self) -> Any:
        """Open the folder again in another process."""
        return type(self), (self.folder,)

    def release(self) -> None:
        """Close the folder: nothing can be read from it any more."""
        self._finalizer()

    def check(self) -> None:
        """Raise an error if the folder was replaced or removed, or is closed."""
        if not self._finalizer.alive:
            raise OSError(f"{self.folder} is closed")
        try:
            same = os.path.samestat(self._identity, self.folder.stat())
        except FileNotFoundError:
            same = False
        if not same:
            raise ReplacedFolderError(
                f"{self.folder} was replaced or removed since it was opened: what was in it "
                "cannot be read any more. Open it again"
            )

    def __getitem__(self, key: str) -> Any:
        """Read a file, in zarr 2."""
        self.check()
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        """Return whether a file exists, in zarr 2."""
        self.check()
        return bool(super().__contains__(key))

    async def get(self, *arguments: Any, **settings: Any) -> Any:
        """Read a file, in zarr 3."""
        self.check()
        return await super().get(*arguments, **settings)

    def get_sync(self, *arguments: Any, **settings: Any) -> Any:
        """Read a file, in zarr 3.2 and later."""
        self.check()
        return super().get_sync(*arguments, **settings)
