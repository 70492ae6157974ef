"""Changes of the means of cells: by the effect of their group, or by the factor of their sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from scvibridge.likelihood.parameters import GroupShift

if TYPE_CHECKING:
    from scvibridge.correction.batch_effects import GroupEffects
    from scvibridge.correction.sample_factors import SampleFactors


# Largest table of shifts, groups by genes, that is computed once for all cells: 128 MB.
MOST_ENTRIES = 16_000_000


class Change(Protocol):
    """A change of the means and logits of the requested cells.

    Attributes
    ----------
    rows
        Row of each requested cell, shape ``(n,)``: cells with the same row change alike. If every
        cell changes differently, the rows are the positions of the cells.
    on_both_sides
        Whether the cells' own means change as well, or only those of the target.
    """

    @property
    def rows(self) -> np.ndarray:
        """Row of each requested cell."""
        ...

    @property
    def on_both_sides(self) -> bool:
        """Whether the cells' own means change as well."""
        ...

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        ...

    def ratio(self, rows: np.ndarray) -> np.ndarray:
        """Return the factors on the means of some rows, shape ``(n_rows, n_genes)``."""
        ...

    def zi_shift(self, rows: np.ndarray) -> np.ndarray | None:
        """Return what is added to the logits of dropout; None for nothing."""
        ...


@dataclass(frozen=True)
class GroupChange:
    """The batch effects of groups of cells, and the row that each cell uses."""

    effects: GroupEffects
    rows: np.ndarray

    on_both_sides = False

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.effects.shift.log_ratio.shape[1])

    def ratio(self, rows: np.ndarray) -> np.ndarray:
        """Return the ratios of frequencies, target over source."""
        return np.asarray(np.exp(self.effects.shift.log_ratio[rows]))

    def zi_shift(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the differences of the logits of dropout."""
        shift = self.effects.shift.zi_shift
        return None if shift is None else shift[rows]


@dataclass(frozen=True)
class SampleChange:
    """The factors of samples, and the row that each cell uses."""

    factors: SampleFactors
    rows: np.ndarray

    on_both_sides = True

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.factors.ratio.shape[1])

    def ratio(self, rows: np.ndarray) -> np.ndarray:
        """Return the ratios of observed to expected counts."""
        return self.factors.ratio[rows]

    def zi_shift(self, rows: np.ndarray) -> None:
        """Return None: dropout does not change."""


@dataclass(frozen=True)
class Shifts:
    """Change of the means and logits of cells on both sides of a mapping; None for no change."""

    source: GroupShift[np.ndarray] | None
    target: GroupShift[np.ndarray] | None


@dataclass(frozen=True)
class Changes:
    """Several changes of the same cells, which are multiplied.

    The tables are computed once for all cells if they are small, otherwise for the cells of each
    block.
    """

    changes: tuple[Change, ...]

    def take(self, positions: np.ndarray) -> Shifts:
        """Return the shifts of some cells."""
        if not self.changes:
            return Shifts(None, None)
        whole = self._whole
        if whole is None:
            return self._made(positions)

        def taken(shift: GroupShift[np.ndarray] | None) -> GroupShift[np.ndarray] | None:
            return None if shift is None else replace(shift, shift_row=shift.shift_row[positions])

        return Shifts(taken(whole.source), taken(whole.target))

    @cached_property
    def _whole(self) -> Shifts | None:
        """Shifts of all cells; None if the tables would be large."""
        combinations, _ = self._combinations(slice(None))
        if combinations.shape[1] * self.changes[0].n_genes > MOST_ENTRIES:
            return None
        return self._made(slice(None))

    def _combinations(self, positions: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the combinations of rows, ``(n_changes, n_combinations)``, and each cell's."""
        rows = np.stack([change.rows[positions] for change in self.changes])
        combinations, place = np.unique(rows, axis=1, return_inverse=True)
        return combinations, place.ravel()

    def _made(self, positions: np.ndarray | slice) -> Shifts:
        combinations, place = self._combinations(positions)
        source = target = None
        for change, rows in zip(self.changes, combinations, strict=True):
            shift = GroupShift(change.ratio(rows), change.zi_shift(rows), place)
            target = _combined(target, shift)
            if change.on_both_sides:
                source = _combined(source, shift)
        return Shifts(source, target)


def _combined(
    first: GroupShift[np.ndarray] | None, second: GroupShift[np.ndarray]
) -> GroupShift[np.ndarray]:
    """Combine two shifts of the same cells with the same rows."""
    if first is None:
        return second
    zi_shift = second.zi_shift
    if first.zi_shift is not None:
        zi_shift = first.zi_shift if zi_shift is None else first.zi_shift + zi_shift
    return GroupShift(first.ratio * second.ratio, zi_shift, first.shift_row)
