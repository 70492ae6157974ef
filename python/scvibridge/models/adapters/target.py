"""What cells are decoded as: other batches, and values of other covariates."""

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
    """Batches that cells are decoded as, or strata, which take their place.

    Attributes
    ----------
    codes
        Codes of the batches, over which parameters are averaged; empty where each cell keeps its
        own.
    strata
        Combinations of values that stand for batches; None where the batch alone is changed.
    asked
        What was requested, for the provenance; empty where the batch alone is changed.
    """

    codes: list[int] = field(default_factory=list)
    strata: Strata | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def moves_all(self) -> bool:
        """Whether even cells of the target are changed: a continuous covariate is set."""
        return self.strata is not None and bool(self.strata.continuous)

    @property
    def home(self) -> int | None:
        """The batch whose own cells keep their parameters; None where no batch's do."""
        return self.codes[0] if len(self.codes) == 1 and not self.moves_all else None

    def holds(self, batch: np.ndarray) -> np.ndarray:
        """Return which cells are the target's, by the codes of their batches."""
        return np.isin(batch, self.codes)

    def changes(self, batch: np.ndarray) -> np.ndarray:
        """Return which cells are mapped: all but those of a single target batch."""
        return np.ones(len(batch), dtype=bool) if self.home is None else batch != self.home

    def names(self, batches: Sequence[Any]) -> list[str] | None:
        """Spell the target batches; None where each cell keeps its own."""
        names = spelled(batches)
        return [names[code] for code in self.codes] or None
