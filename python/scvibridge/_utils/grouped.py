"""Sums over groups of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scvibridge._utils.pools import spans
from scvibridge._utils.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from scvibridge._utils.pools import Pool, Task


def members_of(group: np.ndarray, n_groups: int) -> sp.csr_matrix:
    """Return the matrix whose product with values of cells sums them by group.

    Parameters
    ----------
    group
        Group of each cell, shape ``(n_cells,)``.
    n_groups
        Number of groups.

    Returns
    -------
    Ones where a cell belongs to a group, shape ``(n_groups, n_cells)``.
    """
    cells = np.arange(len(group))
    return sp.csr_matrix((np.ones(len(group)), (group, cells)), (n_groups, len(group)))


@dataclass(frozen=True)
class GroupSums:
    """Sums over the cells of groups, for the groups that have any.

    Attributes
    ----------
    groups
        Codes of the groups, sorted, shape ``(n,)``.
    tables
        Sums by group, shape ``(n, ...)`` each; None for a table that there is not.
    """

    groups: np.ndarray
    tables: tuple[np.ndarray | None, ...]

    @staticmethod
    def of(group: np.ndarray, *values: Any) -> GroupSums:
        """Sum values of cells, ``(n_cells, n_columns)``, by their group, in double precision."""
        groups, place = np.unique(group, return_inverse=True)
        members = members_of(place.ravel(), len(groups))
        summed = (members @ each for each in values)
        return GroupSums(
            groups, tuple(s.toarray() if sp.issparse(s) else np.asarray(s) for s in summed)
        )

    def add_to(self, totals: Sequence[np.ndarray | None]) -> None:
        """Add the sums to tables of all groups."""
        for total, table in zip(totals, self.tables, strict=True):
            if total is not None and table is not None:
                total[self.groups] += table


def fold_sums(parts: Iterator[GroupSums]) -> GroupSums:
    """Add up sums in the given order, in double precision."""
    groups: np.ndarray = np.empty(0, dtype=np.int64)
    totals: list[np.ndarray | None] = []
    for part in parts:
        if not totals:
            totals = [_spread(table, np.empty(0, dtype=np.int64), 0) for table in part.tables]
        together = np.union1d(groups, part.groups)
        if len(together) > len(groups):
            place = np.searchsorted(together, groups)
            totals = [_spread(total, place, len(together)) for total in totals]
            groups = together
        GroupSums(np.searchsorted(groups, part.groups), part.tables).add_to(totals)
    return GroupSums(groups, tuple(totals))


def _spread(table: np.ndarray | None, place: np.ndarray, n_groups: int) -> np.ndarray | None:
    """Move the first rows to their places in a larger table of zeros."""
    if table is None:
        return None
    larger = np.zeros((n_groups, *table.shape[1:]))
    larger[place] = table[: len(place)]
    return larger


def add_sums(
    pool: Pool,
    task: Task,
    cut: Sequence[slice],
    device: torch.device,
    totals: Sequence[np.ndarray | None],
    description: str,
    progress: bool,
) -> None:
    """Add the sums of all blocks of cells to tables of all groups.

    Parameters
    ----------
    pool
        Where they are computed. The order of additions does not depend on it.
    task
        Returns the :class:`GroupSums` of a block.
    cut
        Consecutive blocks of cells.
    device
        Torch device that the task computes on.
    totals
        Tables of all groups, changed in place; None for tables that there are not.
    description, progress
        Description of the work, and whether to show progress.
    """
    found = pool.folded(task, cut, device, fold_sums)
    together = [slice(span[0].start, span[-1].stop) for span in spans(cut)]
    for _, sums in zip(track(together, description, progress), found, strict=True):
        sums.add_to(totals)
