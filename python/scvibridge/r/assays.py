"""Split assays of R objects into vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.r import columns, to_r
from scvibridge.r.exchange import TakenApart

if TYPE_CHECKING:
    from anndata import AnnData


# Nonzeros of a block of a matrix that is too large for a dgCMatrix.
_NONZEROS_OF_BLOCK = 2**28


class Assay:
    """A matrix to be passed to R vector by vector.

    reticulate copies each vector into R; passing one at a time frees the copy that a conversion to
    doubles creates in Python before the next.
    """

    def __init__(self, name: str, matrix: to_r.Matrix) -> None:
        self.name = name
        self._matrix = matrix
        self._part: columns.Parts = {}

    def load(self) -> bool:
        """Read the matrix if it is on disk; return whether it is sparse."""
        self._part = to_r.genes_by_cells(self._matrix)
        return "indptr" in self._part

    def take(self, name: str) -> np.ndarray:
        """Return a vector or the dense values; all but index vectors are doubles."""
        values: np.ndarray = self._part.pop(name)
        if name in ("indptr", "indices"):
            return values
        return values.astype(np.float64, order="K", copy=False)

    def bounds(self) -> list[int]:
        """Return where blocks of cells start, and the last ends, if R's dgCMatrix is too small.

        Each block has fewer nonzeros than one dgCMatrix can hold. The list is empty if the whole
        matrix fits.
        """
        pointers = self._part["indptr"]
        if pointers[-1] <= columns.R_MAX_INTEGER:
            return []
        found = [0]
        while found[-1] < len(pointers) - 1:
            most = int(pointers[found[-1]]) + _NONZEROS_OF_BLOCK
            stop = int(np.searchsorted(pointers, most, side="right")) - 1
            found.append(max(stop, found[-1] + 1))
        return found

    def block(self, start: int, stop: int) -> dict[str, Any]:
        """Return the vectors of some cells, and whether their values are whole numbers."""
        pointers = self._part["indptr"][start : stop + 1]
        rows = slice(int(pointers[0]), int(pointers[-1]))
        values = self._part["data"][rows]
        return {
            "indptr": (pointers - pointers[0]).astype(np.int32),
            "indices": self._part["indices"][rows],
            "data": values.astype(np.float64),
            "whole": values.dtype.kind in "iu",
        }


class TakenAssay(Assay):
    """A matrix received from another process."""

    def __init__(self, name: str, part: columns.Parts) -> None:
        self.name, self._part = name, part

    def load(self) -> bool:
        """Return whether the matrix is sparse."""
        return "indptr" in self._part


def take_apart(adata: AnnData | TakenApart) -> dict[str, Any]:
    """Return what R builds an object in memory from: ``frame`` and ``assays`` (each an `Assay`)."""
    if isinstance(adata, TakenApart):
        assays = [TakenAssay(name, dict(part)) for name, part in adata.assays.items()]
        return {"frame": adata.frame, "assays": assays}
    matrices = to_r.assays(adata)
    return {
        "frame": to_r.frame(adata),
        "assays": [Assay(name, matrix) for name, matrix in matrices.items()],
    }
