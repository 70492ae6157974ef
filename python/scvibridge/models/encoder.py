"""Process cells in blocks: encode once, decode under one or several batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scvibridge._utils.pools import results_in_order
from scvibridge._utils.progress import track
from scvibridge.io.blocks import blocks, minibatch_entries
from scvibridge.likelihood.cpu.philox import (
    LATENT_STREAM,
    LIBRARY_STREAM,
    hash_names,
    standard_normals,
)
from scvibridge.models.adapters import Latent

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scvibridge.models.adapters import Adapter, Covariates
    from scvibridge.models.cell_data import CellData


# The C library returns freed blocks of this size to the system at once and requests new pages for
# the next matrix, until one such block has been freed.
np.empty(30_000_000, dtype=np.uint8)


@dataclass(frozen=True)
class Cells:
    """Encoded cells: their data, covariates and latent posterior, with matching rows.

    ``total`` is each cell's total over all genes of an extended model, relative to which a
    requested depth is applied; None for other models.
    """

    names: np.ndarray
    counts: sp.csr_matrix | None
    covariates: Covariates
    latent: Latent
    total: np.ndarray | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.names)

    @cached_property
    def hashes(self) -> np.ndarray:
        """Hashed names, to which random numbers are keyed, shape ``(n_cells,)``."""
        return hash_names(self.names)

    def take(self, rows: np.ndarray | slice) -> Cells:
        """Return some of the cells."""
        return replace(
            self,
            names=self.names[rows],
            counts=None if self.counts is None else self.counts[rows],
            covariates=self.covariates.take(rows),
            latent=self.latent.take(rows),
            total=None if self.total is None else self.total[rows],
        )

    def selected_counts(self, genes: np.ndarray | None) -> sp.csr_matrix | None:
        """Return counts of some genes (all if None) with sorted indices; None without counts."""
        if self.counts is None or genes is None:
            return self.counts
        counts = self.counts[:, genes]
        counts.sort_indices()
        return counts

    def require_counts(self, genes: np.ndarray | None) -> sp.csr_matrix:
        """Return counts of some genes, as `selected_counts`.

        Raises
        ------
        ValueError
            If the cells have none.
        """
        counts = self.selected_counts(genes)
        if counts is None:
            raise ValueError("the cells have no counts")
        return counts

    def library(self) -> np.ndarray:
        """Library l_n: the factor applied to the decoder's frequencies, shape ``(n_cells,)``.

        It is zero for a cell without counts, so that the cell stays empty.
        """
        return self.without_empty(np.exp(self.latent.log_library))

    def without_empty(self, library: np.ndarray) -> np.ndarray:
        """Set the library of cells without counts to zero."""
        if self.counts is None:
            return library
        return np.where(np.diff(self.counts.indptr) == 0, 0.0, library)

    def factor_at(self, depth: np.ndarray) -> np.ndarray:
        """Compute the factor on the decoder's frequencies that scales each cell to a depth.

        The depth itself; for an extended model, whose frequencies are fractions of the model's
        genes only, the library times the ratio of depth to total.
        """
        if self.total is None:
            return depth
        ratio = np.divide(depth, self.total, out=np.zeros(len(depth)), where=self.total > 0)
        return self.library() * ratio


class Encoder:
    """Reads cells and encodes each of them once.

    Parameters
    ----------
    adapter, data
        The model and the cells.
    batch_size
        Number of cells in a minibatch, or None.
    progress
        Whether to show progress.
    """

    def __init__(
        self, adapter: Adapter, data: CellData, batch_size: int | None, progress: bool
    ) -> None:
        self.adapter, self.data = adapter, data
        self._batch_size, self._progress = batch_size, progress
        self._known_rows = np.empty(0, dtype=np.int64)
        self._known = Latent.empty(adapter.n_latent)
        if data.counts is None:
            self._known_rows = np.arange(data.n_cells)
            self._known = adapter.minified_latent(self._known_rows)

    def prepare(self, rows: np.ndarray) -> Latent:
        """Encode cells (sorted positions in the data) and keep their latents for later."""
        known = np.isin(rows, self._known_rows)
        if not known.all():
            self._keep(rows[~known], self._encode(rows[~known]))
        if len(rows) == len(self._known_rows):
            return self._known
        return self._known.take(np.searchsorted(self._known_rows, rows))

    def _keep(self, rows: np.ndarray, latent: Latent) -> None:
        """Add latents of cells to the known ones, replacing latents of the same cells."""
        if len(self._known_rows):
            others = ~np.isin(self._known_rows, rows)
            together = np.concatenate([rows, self._known_rows[others]])
            order = np.argsort(together)
            latent = Latent.concatenate([latent, self._known.take(others)]).take(order)
            rows = together[order]
        self._known_rows, self._known = rows, latent

    def _encode(self, rows: np.ndarray) -> Latent:
        entries = minibatch_entries(self.adapter.device)
        cut = blocks(len(rows), len(self.adapter.genes), self._batch_size, entries)
        task = _Encoding(self.adapter, self.data, rows)
        encoded = results_in_order(self.data.pool, task, cut, self.adapter.device)
        steps = track(cut, "Encoding cells", self._progress)
        parts = [latent for _, latent in zip(steps, encoded, strict=True)]
        return Latent.concatenate(parts or [Latent.empty(self.adapter.n_latent)])

    def cells(self, rows: np.ndarray) -> Cells:
        """Read a block of cells by their positions in the data."""
        selection = as_selection(rows)
        counts = None if self.data.counts is None else self.data.counts.rows(selection)
        covariates = self.data.covariates.take(selection)
        latent = self._latent(rows, counts, covariates)
        totals = self.data.depth_totals
        total = None if totals is None else totals[selection]
        return Cells(self.data.names[selection], counts, covariates, latent, total)

    def _latent(
        self, rows: np.ndarray, counts: sp.csr_matrix | None, covariates: Covariates
    ) -> Latent:
        if counts is None:  # then all latents are known
            return self._known.take(as_selection(rows))
        if not len(self._known_rows):
            return self.adapter.encode(counts, covariates)
        place = np.searchsorted(self._known_rows, rows)
        place = np.minimum(place, len(self._known_rows) - 1)
        known = self._known_rows[place] == rows
        if known.all():
            return self._known.take(as_selection(place))
        if not known.any():
            return self.adapter.encode(counts, covariates)
        new = np.flatnonzero(~known)
        encoded = self.adapter.encode(counts[new], covariates.take(new))
        together = Latent.concatenate([self._known.take(place[known]), encoded])
        return together.take(order_of_parted(known))

    def known(self) -> dict[str, np.ndarray]:
        """Return the latents kept so far, as arrays that can be stored."""
        return {"rows": self._known_rows, **self._known.arrays()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore latents returned by `known`."""
        if arrays:
            self._keep(arrays["rows"], Latent.of_arrays(arrays))


@dataclass(frozen=True)
class _Encoding:
    """Task: encode blocks of some cells, given by their positions."""

    adapter: Adapter
    data: CellData | None
    rows: np.ndarray

    @property
    def reads_here(self) -> bool:
        return self.data is None or self.data.reads_here

    def without_source(self) -> _Encoding:
        return replace(self, data=None, rows=self.rows[:0])

    def read(self, block: slice, /) -> tuple[sp.csr_matrix, Covariates]:
        if self.data is None:
            raise ValueError("the cells were read where the task was created")
        selection = as_selection(self.rows[block])
        return self.data.require_counts().rows(selection), self.data.covariates.take(selection)

    def compute(self, loaded: tuple[sp.csr_matrix, Covariates], /) -> Latent:
        return self.adapter.encode(*loaded)


def order_of_parted(mask: np.ndarray) -> np.ndarray:
    """Return the order that undoes a split of rows into those where `mask` is true and the rest."""
    return np.argsort(np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)]))


def as_selection(rows: np.ndarray) -> np.ndarray | slice:
    """Convert consecutive positions to a slice, which selects without copying."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def draw_latent(cells: Cells, seed: int, sample: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sample the latent variables of a block from their posterior.

    Random numbers are keyed by the cell's name, so a sample does not depend on the block, on the
    order of the cells, or on which cells are requested.

    Parameters
    ----------
    cells
        The cells of the block.
    seed
        Seed, 0 to 2**32 - 1.
    sample
        Number of the sample, if there are several.

    Returns
    -------
    z : numpy.ndarray
        Untransformed latent variables, shape ``(n_cells, n_latent)``.
    log_library : numpy.ndarray
        Log of the library, sampled if it is latent, shape ``(n_cells,)``.
    """
    hashes, latent = cells.hashes, cells.latent
    n_latent = latent.location.shape[1]
    noise = standard_normals(hashes, n_latent, seed, LATENT_STREAM, sample)
    z = latent.location + latent.scale * noise
    if latent.log_library_scale is None:
        return z, latent.log_library
    noise = standard_normals(hashes, 1, seed, LIBRARY_STREAM, sample)[:, 0]
    return z, latent.log_library + latent.log_library_scale * noise
