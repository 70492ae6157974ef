"""The target that cells are decoded as: batches and values of other covariates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils.spelling import spelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvibridge.models.adapters.strata import Strata


@dataclass(frozen=True)
class Target:
    """Batches that cells are decoded as, or the strata that replace them.

    Attributes
    ----------
    codes
        Codes of the target batches, over which parameters are averaged; empty if each cell keeps
        its batch.
    strata
        Combinations of values that replace batches; None if only the batch is changed.
    asked
        The request, for the provenance; empty if only the batch is changed.
    """

    codes: list[int] = field(default_factory=list)
    strata: Strata | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def moves_all(self) -> bool:
        """Whether cells of the target also change, because a continuous covariate is set."""
        return self.strata is not None and bool(self.strata.continuous)

    @property
    def unchanged_batch(self) -> int | None:
        """The batch whose cells keep their own parameters; None if there is no such batch."""
        return self.codes[0] if len(self.codes) == 1 and not self.moves_all else None

    def holds(self, batch: np.ndarray) -> np.ndarray:
        """Return which cells belong to the target, given the codes of their batches."""
        return np.isin(batch, self.codes)

    def changes(self, batch: np.ndarray) -> np.ndarray:
        """Return which cells are mapped: all except those of a single target batch."""
        unchanged = self.unchanged_batch
        return np.ones(len(batch), dtype=bool) if unchanged is None else batch != unchanged

    def names(self, batches: Sequence[Any]) -> list[str] | None:
        """Return the names of the target batches; None if each cell keeps its batch."""
        names = spelled(batches)
        return [names[code] for code in self.codes] or None
