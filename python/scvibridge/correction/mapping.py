"""Map observed counts from the likelihood of a cell's batch to that of the target."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scvibridge.correction.changes import Changes
from scvibridge.correction.own_parameters import block_parameters
from scvibridge.correction.parameters import renormalised, target_theta
from scvibridge.io.blocks import stack
from scvibridge.models.encoder import order_of_parted

if TYPE_CHECKING:
    from scvibridge.correction.estimates import Mapped
    from scvibridge.correction.records import Request
    from scvibridge.likelihood.backends import Collect, Drawing
    from scvibridge.likelihood.parameters import BlockParameters
    from scvibridge.models.encoder import Cells


class Mapping:
    """Compute quantile counts of blocks of cells.

    Parameters
    ----------
    request
        The request.
    depth
        Depth ratio of each requested cell, shape ``(n,)``.
    mapped
        The effect to remove, and the differences between samples to keep.
    drawing
        Computes the counts from parameters.
    gene_hashes
        Hashes of the names of the requested genes.
    """

    def __init__(
        self,
        request: Request,
        depth: np.ndarray,
        mapped: Mapped,
        drawing: Drawing,
        gene_hashes: np.ndarray,
    ) -> None:
        self._request, self._depth, self._effect = request, depth, mapped.effect
        self._drawing, self._gene_hashes = drawing, gene_hashes
        self._theta = target_theta(request.adapter, mapped.untouched)
        self._changes = Changes((*mapped.effect.changes, *mapped.samples))
        self._kept: np.ndarray | None = None
        if request.genes_kept is not None:
            n_genes = len(request.adapter.genes)
            returned = np.arange(n_genes) if request.genes is None else request.genes
            self._kept = np.isin(returned, request.genes_kept)

    def counts(self, cells: Cells, selection: slice) -> Collect:
        """Map the counts of cells, given also by their positions among the requested ones."""
        positions = np.arange(selection.start, selection.stop)
        changed = self._changed(cells, positions)
        if changed.all():
            return self._map(cells, positions)
        kept = cells.require_counts(self._request.genes)
        if not changed.any():
            return lambda: kept
        collect = self._map(cells.take(changed), positions[changed])
        order = order_of_parted(changed)
        return lambda: stack([collect(), kept[~changed]])[order]

    def _changed(self, cells: Cells, positions: np.ndarray) -> np.ndarray:
        """Return which cells can change: all except those of the target at unchanged depth."""
        request = self._request
        if not request.keep_unchanged:
            return np.ones(cells.n_cells, dtype=bool)
        mapped = request.target.changes(cells.covariates.batch)
        return mapped | (self._depth[positions] != 1.0)

    def _map(self, cells: Cells, positions: np.ndarray) -> Collect:
        request = self._request
        source, target = self._parameters(cells, positions)
        counts = cells.require_counts(request.genes)
        collect = self._drawing.map(
            counts,
            source.of_genes(request.genes),
            target.of_genes(request.genes),
            cells.hashes,
            self._gene_hashes,
            request.settings.seed,
            request.keep_unchanged,
        )
        kept = self._kept
        if kept is None or not kept.any():
            return collect
        return lambda: with_columns_of(collect(), counts, kept)

    def _parameters(
        self, cells: Cells, positions: np.ndarray
    ) -> tuple[BlockParameters, BlockParameters]:
        """Return the parameters of all genes under the observed batch and under the target."""
        adapter, theta = self._request.adapter, self._theta
        shifts = self._changes.take(positions)
        decoded = adapter.decode(cells.latent.location, cells.covariates, None)
        own = block_parameters(adapter, cells, decoded, theta.source, cells.library())
        target = self._effect.target(adapter, cells, theta, own, positions)
        source = replace(own, shift=shifts.source)
        target = replace(target, shift=shifts.target)
        before = after = np.ones(cells.n_cells)
        if adapter.renormalises:
            before, after = self._drawing.sums(source), self._drawing.sums(target)
        return source, renormalised(target, before, after, self._depth[positions])


def with_columns_of(changed: sp.csr_matrix, own: sp.csr_matrix, kept: np.ndarray) -> sp.csr_matrix:
    """Take some columns of the own counts, and the others of the changed ones."""

    def columns(matrix: sp.csr_matrix, mask: np.ndarray) -> sp.csr_matrix:
        entries = mask[matrix.indices]
        ends = np.concatenate([[0], np.cumsum(entries)])
        indptr = ends[matrix.indptr].astype(matrix.indptr.dtype)
        data = matrix.data[entries].astype(np.int32, copy=False)
        return sp.csr_matrix((data, matrix.indices[entries], indptr), shape=matrix.shape)

    together = columns(changed, ~kept) + columns(own, kept)
    together.sort_indices()
    together.has_canonical_format = True
    return together
