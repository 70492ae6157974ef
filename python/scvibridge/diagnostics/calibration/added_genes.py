"""Check whether held-out counts of added genes follow the head of an extended model.

This works as for the model's genes, except that means are shares of the cell's total over all
genes. Reference data therefore contain counts of both, sampled at the same latent variables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.diagnostics.calibration.goodness_of_fit import GoodnessOfFit
from scvibridge.models.added_genes import AddedCells, AddedEncoder, at_totals
from scvibridge.models.encoder import draw_latent

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scvibridge.models.adapters import Adapter
    from scvibridge.models.encoder import Cells


@dataclass(frozen=True)
class PairedCells(AddedCells):
    """Cells with counts of added genes, and the same cells with counts of the model's genes."""

    own: Cells = field(kw_only=True)


class PairedEncoder(AddedEncoder):
    """Read the counts of added genes together with those of the model's genes."""

    def cells(self, rows: np.ndarray) -> PairedCells:
        """Read a block of cells by their positions in the data."""
        own = self._own.cells(rows)
        return PairedCells(**vars(self.beside(own, rows)), own=own)


class GoodnessOfAdded(GoodnessOfFit):
    """Assess batches of held-out cells by their added genes.

    Parameters
    ----------
    adapter
        The added genes.
    own
        The assessment of the model's genes. Reference data contain the counts that it samples.
    """

    def __init__(self, adapter: Adapter, own: GoodnessOfFit) -> None:
        super().__init__(adapter, own.n_references, own.seed)
        self._own = own

    def drawn(self, cells: Cells, seed: int) -> PairedCells:
        """Sample counts of own and added genes at the same latent variables; encode the former.

        Means are shares of the cell's observed total when counts are sampled, and of the total of
        all sampled counts when they are assessed.
        """
        assert isinstance(cells, PairedCells)  # noqa: S101 - read by PairedEncoder
        own = self._own.drawn(cells.own, seed)
        z, _ = draw_latent(cells.own, seed)
        counts = self._counts_at(cells, z, cells.latent.log_library, seed)
        total = _totals(own.require_counts(None)) + _totals(counts)
        latent = at_totals(own.latent, total)
        return PairedCells(cells.names, counts, cells.covariates, latent, total, own=own)


def _totals(counts: sp.csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1), dtype=float).ravel()
