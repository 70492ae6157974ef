"""In how many cells of each batch a gene was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from scvibridge.models.adapters import Target

# A gene seen in fewer cells of a batch has no batch effect that could be estimated.
MIN_DETECTED_CELLS = 5


@dataclass(frozen=True)
class Detection:
    """In how many cells of each batch a gene was seen, ``counts`` of shape (n_batches, n_genes)."""

    counts: np.ndarray
    target: Target

    def low(self) -> np.ndarray:
        """Genes hardly seen in source or target, shape ``(n_batches, n_genes)``."""
        in_target = self.counts[self.target.codes].sum(axis=0)
        return (self.counts < MIN_DETECTED_CELLS) | (in_target < MIN_DETECTED_CELLS)
