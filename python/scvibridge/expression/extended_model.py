"""Split cells and results of an extended model into the model's genes and added genes.

The model's genes are processed exactly as by the model alone, in the same blocks. Matrix products
with other numbers of columns may differ in the last bit, and then counts could differ as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvibridge.io.blocks import join, parts_of
from scvibridge.io.h5ad import PROVENANCE_KEY, storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvibridge.io.plan import Arrays, Block, Job
    from scvibridge.models.adapters import Adapter, AddedGenes

# Minibatches of the model's genes in a piece.
_MINIBATCHES = 4


@dataclass(frozen=True)
class Columns:
    """Which genes of each set a result has, and in which order.

    Attributes
    ----------
    own, added
        Positions within each set, None for all. At least one of the model's genes is computed.
    n_own
        Number of the model's genes in the result.
    order
        Positions of the result's genes among own and added genes; None for the stored order.
    """

    own: np.ndarray | None
    added: np.ndarray | None
    n_own: int
    order: np.ndarray | None

    @staticmethod
    def of(adapter: Adapter, genes: np.ndarray | None) -> Columns:
        """Split the requested genes, given as positions among all genes or None."""
        if genes is None:
            return Columns(None, None, adapter.n_own, None)
        is_own = genes < adapter.n_own
        place = np.empty(len(genes), dtype=np.int64)
        place[is_own] = np.arange(is_own.sum())
        place[~is_own] = is_own.sum() + np.arange((~is_own).sum())
        own = genes[is_own] if is_own.any() else np.zeros(1, dtype=genes.dtype)
        return Columns(own, genes[~is_own] - adapter.n_own, int(is_own.sum()), place)

    @property
    def has_added(self) -> bool:
        """Whether any added gene was requested."""
        return self.added is None or len(self.added) > 0

    def together(self, own: Any, added: Any) -> Any:
        """Join the columns of two matrices, or the rows of two tables."""
        if isinstance(own, pd.DataFrame):
            both = pd.concat([own.iloc[: self.n_own], *([] if added is None else [added])])
            return both if self.order is None else both.iloc[self.order]
        parts = [own[:, : self.n_own], *([] if added is None else [added])]
        if not sp.issparse(own):
            dense = np.concatenate(parts, axis=1)
            return dense if self.order is None else dense[:, self.order]
        sparse = sp.hstack(parts, format="csr", dtype=own.dtype)
        if self.order is not None:
            sparse = sparse[:, self.order]
            sparse.sort_indices()
        return sparse


class Both:
    """Compute the result of an extended model from the results for its two sets of genes.

    Parameters
    ----------
    genes
        The genes that were added to the model.
    columns
        The genes of the result.
    own, added
        The jobs that compute the two sets.
    """

    def __init__(self, genes: AddedGenes[Adapter], columns: Columns, own: Job, added: Job) -> None:
        self._columns, self._own = columns, own
        self._added = added if columns.has_added else None
        self._quality, self._extension = genes.quality, genes.settings

    @property
    def step(self) -> int:
        """Number of cells of a piece."""
        return _MINIBATCHES * self._own.step

    def pieces(self, selection: slice) -> Iterator[Block]:
        """Compute the matrices of some consecutive cells, each set of genes in separate blocks."""
        return map(self._piece, parts_of(selection, self.step))

    def _piece(self, selection: slice) -> Block:
        n_cells = selection.stop - selection.start
        block = join(self._own.pieces(selection), n_cells)
        further = {} if self._added is None else join(self._added.pieces(selection), n_cells)
        return {
            name: self._columns.together(matrix, further.get(name))
            if name == "X" or name.startswith("layers/")
            else matrix
            for name, matrix in block.items()
        }

    def tables(self, columns: Arrays, /) -> AnnData:
        """Build the result without its matrices."""
        own = self._own.tables(columns)
        added = None if self._added is None else self._added.tables({})
        var = self._columns.together(own.var, None if added is None else added.var)
        result = AnnData(obs=own.obs, var=self._with_quality(var), uns=dict(own.uns))
        for name, values in own.varm.items():
            further = None if added is None else np.asarray(added.varm[name]).T
            result.varm[name] = self._columns.together(np.asarray(values).T, further).T
        described = {name: v for name, v in self._extension.items() if name != "ridge_losses"}
        result.uns[PROVENANCE_KEY] = {
            **own.uns[PROVENANCE_KEY],
            "extension": storable({**described, **self._summary()}),
        }
        return result

    def _summary(self) -> dict[str, Any]:
        """Return the fit of all added genes together on held-out cells."""
        flag = self._quality["flag"]
        return {
            "n_genes": len(flag),
            "median_explained": float(self._quality["explained"].median()),
            "n_few_cells": int((flag == "few cells").sum()),
            "n_no_gain": int((flag == "no gain").sum()),
        }

    def _with_quality(self, var: pd.DataFrame) -> pd.DataFrame:
        """Add columns that mark added genes and hold their fit on held-out cells."""
        quality = self._quality.reindex(var.index)
        var = var.copy()
        var["scvibridge_added"] = var.index.isin(self._quality.index)
        for name in quality:
            values = quality[name]
            is_text = not pd.api.types.is_numeric_dtype(values)
            var[f"scvibridge_{name}"] = values.fillna("") if is_text else values
        return var
