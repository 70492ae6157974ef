"""Tasks that sum the counts of blocks of cells by group: observed, and expected by the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from scvibridge._utils.grouped import GroupSums
from scvibridge.correction.own_parameters import expected_counts, own_parameters
from scvibridge.models.encoder import as_selection

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp

    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData
    from scvibridge.models.encoder import Cells, Encoder


@dataclass(frozen=True)
class ObservedSums:
    """Task: sum the observed counts of cells.

    Attributes
    ----------
    data
        The cells' counts; None where only what was read is needed.
    rows, group
        Positions of the cells to sum, and the group of each.
    genes
        The genes to sum; all if None.
    """

    data: CellData | None
    rows: np.ndarray
    group: np.ndarray
    genes: slice | None = None

    @property
    def reads_here(self) -> bool:
        """Whether the counts are in memory."""
        return self.data is None or self.data.reads_here

    def without_source(self) -> ObservedSums:
        """Return the task without the counts."""
        return replace(self, data=None, rows=self.rows[:0], group=self.group[:0])

    def read(self, block: slice, /) -> tuple[np.ndarray, sp.csr_matrix]:
        """Read the groups and the counts of a block."""
        if self.data is None:
            raise ValueError("the cells were read where the task was created")
        counts = self.data.require_counts().rows(as_selection(self.rows[block]))
        return self.group[block], counts

    def compute(self, loaded: tuple[np.ndarray, sp.csr_matrix], /) -> GroupSums:
        """Sum the counts."""
        group, counts = loaded
        return GroupSums.of(group, counts if self.genes is None else counts[:, self.genes])


@dataclass(frozen=True)
class CellSums:
    """Base class of tasks that sum values of encoded cells.

    Attributes
    ----------
    adapter
        The model.
    encoder
        Reads the cells, and holds their latents; None where only what was read is needed.
    rows, group
        Positions of the cells to sum, and the group of each.
    """

    adapter: Adapter
    encoder: Encoder | None
    rows: np.ndarray
    group: np.ndarray

    @property
    def reads_here(self) -> bool:
        """Whether the counts are in memory."""
        return self.encoder is None or self.encoder.data.reads_here

    def without_source(self) -> CellSums:
        """Return the task without the encoder."""
        return replace(self, encoder=None, rows=self.rows[:0], group=self.group[:0])

    def read(self, block: slice, /) -> tuple[np.ndarray, Cells]:
        """Read the groups and the cells of a block."""
        if self.encoder is None:
            raise ValueError("the cells were read where the task was created")
        return self.group[block], self.encoder.cells(self.rows[block])

    @torch.inference_mode()
    def compute(self, loaded: tuple[np.ndarray, Cells], /) -> GroupSums:
        """Sum the values of the cells."""
        group, cells = loaded
        return GroupSums.of(group, *self.values(group, cells))

    def values(self, group: np.ndarray, cells: Cells) -> tuple[Any, ...]:
        """Return the values to sum, shape ``(n_cells, n_columns)`` each."""
        raise NotImplementedError


@dataclass(frozen=True)
class ExpectedSums(CellSums):
    """Task: sum observed counts, and those expected by the model under the observed batch.

    Attributes
    ----------
    genes
        The genes to sum; all if None.
    over_genes
        Whether to sum over all genes as well: one column.
    """

    genes: slice | None = None
    over_genes: bool = False

    def values(self, group: np.ndarray, cells: Cells) -> tuple[Any, ...]:  # noqa: ARG002
        """Return observed and expected counts."""
        expected = expected_counts(own_parameters(self.adapter, cells))
        tables = (cells.require_counts(None), expected)
        return tuple(self._chosen(table) for table in tables)

    def _chosen(self, table: Any) -> Any:
        if self.over_genes:
            return table.sum(axis=1).reshape(-1, 1)
        return table if self.genes is None else table[:, self.genes]
