"""A matrix of a file that is open only while the matrix is read."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import zarr
from anndata.io import sparse_dataset

from scvibridge._utils.sparse_structure import native_type
from scvibridge.io.opened_zarr import OpenedFolder, open_zarr
from scvibridge.io.paths import explaining

if TYPE_CHECKING:
    from collections.abc import Iterator


class ClosedMatrix:
    """A matrix whose file may be closed.

    Parameters
    ----------
    matrix
        A matrix of an AnnData from :func:`scvibridge.io.backed.open_anndata`. One in memory is
        kept.

    Attributes
    ----------
    shape
        Its shape.
    dtype
        Type of its values.
    """

    def __init__(self, matrix: Any) -> None:
        self.shape = tuple(matrix.shape)
        self.dtype = native_type(matrix.dtype)
        element = getattr(matrix, "group", matrix)
        self._file: Path | None = None
        self._matrix = None
        if isinstance(element, h5py.Group | h5py.Dataset):
            self._file = Path(element.file.filename)
        elif isinstance(element, zarr.Group | zarr.Array) and isinstance(
            element.store, OpenedFolder
        ):
            self._file = element.store.folder
        else:
            self._matrix = matrix
            return
        self._name = str(element.name)

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Open the matrix, until the context ends.

        Raises
        ------
        ValueError
            If the file cannot be read any more, or was replaced.
        """
        if self._file is None:
            yield self._matrix
            return
        with ExitStack() as opened:
            with explaining(self._file):
                matrix = self._open(self._file, opened)
            if tuple(matrix.shape) != self.shape:
                raise ValueError(f"{self._file} was replaced while it was read: start again")
            yield matrix

    def _open(self, path: Path, opened: ExitStack) -> Any:
        if path.is_dir():
            root = open_zarr(path)
            opened.callback(root.store.release)
        else:
            root = opened.enter_context(h5py.File(path, "r"))
        element = root[self._name]
        is_group = isinstance(element, h5py.Group | zarr.Group)
        return sparse_dataset(element) if is_group else element
