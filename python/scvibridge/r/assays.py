"""Assays of R objects, taken apart into vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.r import columns, to_r
from scvibridge.r.messages import TakenApart

if TYPE_CHECKING:
    from anndata import AnnData


class Assay:
    """A matrix on its way to R, which takes it vector by vector.

    reticulate copies each into a vector of R's own; one at a time, the copy in Python that a
    conversion to doubles makes is gone before the next.
    """

    def __init__(self, name: str, matrix: to_r.Matrix) -> None:
        self.name = name
        self._matrix = matrix
        self._part: columns.Parts = {}

    def load(self) -> bool:
        """Read the matrix where it lies on disk; say whether it is sparse."""
        self._part = to_r.genes_by_cells(self._matrix)
        return "indptr" in self._part

    def take(self, name: str) -> np.ndarray:
        """Return a vector or the dense values; all but index vectors are doubles."""
        values: np.ndarray = self._part.pop(name)
        if name in ("indptr", "indices"):
            return values
        return values.astype(np.float64, order="K", copy=False)


class TakenAssay(Assay):
    """A matrix that has come from another process."""

    def __init__(self, name: str, part: columns.Parts) -> None:
        self.name, self._part = name, part

    def load(self) -> bool:
        """Say whether the matrix is sparse."""
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
