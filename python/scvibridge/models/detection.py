"""The number of cells of each batch in which each gene was detected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from scvibridge.models.adapters import Target

# With fewer cells in a batch, the gene's batch effect cannot be estimated.
MIN_DETECTED_CELLS = 5


@dataclass(frozen=True)
class Detection:
    """Number of cells with each gene detected; ``counts`` has shape (n_batches, n_genes)."""

    counts: np.ndarray
    target: Target

    def low(self) -> np.ndarray:
        """Genes rarely detected in source or target, shape ``(n_batches, n_genes)``."""
        in_target = self.counts[self.target.codes].sum(axis=0)
        return (self.counts < MIN_DETECTED_CELLS) | (in_target < MIN_DETECTED_CELLS)
