"""Encode cells for the genes that were added to a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scvibridge._utils.wording import list_names
from scvibridge.models.cell_data import CountSummary, columns_of
from scvibridge.models.encoder import Cells, Encoder, as_selection

if TYPE_CHECKING:
    from scvibridge.io.plan import Arrays
    from scvibridge.models.adapters import Adapter, Latent
    from scvibridge.models.cell_data import CellData


def part_data(adapter: Adapter, data: CellData) -> tuple[CellData, CellData]:
    """Split the cells' data into the model's genes and the added genes."""
    counts, n_own = data.require_counts(), adapter.n_own
    totals = data.totals()
    own = replace(data, counts=columns_of(counts, 0, n_own), depth_totals=totals)
    added = replace(
        data,
        counts=columns_of(counts, n_own, counts.shape[1]),
        depth_totals=totals,
        counted=CountSummary(totals, data.summary.detected[:, n_own:]),
    )
    return own, added


def check_fitted(
    adapter: Adapter, data: CellData, rows: np.ndarray, genes: np.ndarray | None
) -> None:
    """Refuse added genes in batches of which they were fitted on no cells.

    Parameters
    ----------
    adapter
        The model, with its target.
    data, rows
        The cells, and the positions of the requested ones.
    genes
        Positions of the requested genes; None for all.

    Raises
    ------
    ValueError
        If a requested cell is of such a batch, or the target is one.
    """
    added, strata = adapter.added, adapter.target.strata
    if added is None or added.adapter.head is None:
        return
    if genes is not None and (genes < adapter.n_own).all():
        return
    used = set(data.covariates.own().batch[rows].tolist())
    if strata is None:
        used.update(adapter.target.codes)
    elif strata.by_batch:
        used.update(strata.batch_of[adapter.target.codes].tolist())
    unknown = sorted(used.intersection(added.adapter.head.unfitted_batches))
    if unknown:
        raise ValueError(
            "the genes added to the model were fitted on no cells of "
            f"{list_names((adapter.model_batches[code] for code in unknown), 6)}, so their batch "
            "effect there is unknown: call extend_genes() with data that include such cells, leave "
            "the cells out (indices=), or request only the model's own genes (gene_list=)"
        )


@dataclass(frozen=True)
class AddedCells(Cells):
    """Cells with counts of added genes only, which may all be zero."""

    def without_empty(self, library: np.ndarray) -> np.ndarray:
        """Return the library unchanged: it is the total over all genes, zero in an empty cell."""
        return library


class AddedEncoder(Encoder):
    """Reads counts of added genes; cells are encoded from the model's genes.

    Parameters
    ----------
    adapter, data
        The added genes, and the cells' counts of them.
    own
        Reads and encodes the cells.
    """

    def __init__(self, adapter: Adapter, data: CellData, own: Encoder) -> None:
        self.adapter, self.data = adapter, data
        self._own = own

    def prepare(self, rows: np.ndarray) -> Latent:
        """Encode cells (sorted positions in the data) and keep their latents for later."""
        return at_totals(self._own.prepare(rows), self._totals[rows])

    def cells(self, rows: np.ndarray) -> Cells:
        """Read a block of cells by their positions in the data."""
        return self.beside(self._own.cells(rows), rows)

    def beside(self, own: Cells, rows: np.ndarray) -> AddedCells:
        """Read the added genes of cells whose model genes have already been read."""
        total = self._totals[rows]
        counts = self.data.require_counts().rows(as_selection(rows))
        latent = at_totals(own.latent, total)
        return AddedCells(own.names, counts, own.covariates, latent, total)

    def known(self) -> Arrays:
        """Return the latents kept so far, as arrays that can be stored."""
        return self._own.known()

    def restore(self, arrays: Arrays) -> None:
        """Restore latents returned by `known`."""
        self._own.restore(arrays)

    @property
    def _totals(self) -> np.ndarray:
        totals = self.data.depth_totals
        return self.data.totals() if totals is None else totals


def at_totals(latent: Latent, total: np.ndarray) -> Latent:
    """Use the cells' totals over all genes as their library."""
    with np.errstate(divide="ignore"):
        return replace(latent, log_library=np.log(total), log_library_scale=None)
