"""What a result is made of and in which blocks of cells: shared by whoever makes or writes one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.sparse as sp

from scvibridge._utils.digests import digest_of_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anndata import AnnData

    Arrays = dict[str, np.ndarray]
    Remember = Callable[[str, Callable[[], Arrays]], Arrays]


class Job(Protocol):
    """What makes a result; pickled, it takes what blocks need, and no tables."""

    def pieces(self, selection: slice) -> Iterable[Block]:
        """Compute the matrices of some consecutive cells, in pieces to be stacked."""
        ...

    def tables(self, columns: Arrays, /) -> AnnData:
        """Return everything except the matrices, once all blocks are computed.

        `columns` are the values of all cells that blocks returned for the tables, by field.
        """
        ...


@dataclass(frozen=True)
class Field:
    """A matrix of a result, with a row for each cell.

    Attributes
    ----------
    name
        Its place in the AnnData: ``"X"``, ``"layers/raw_counts"``, ``"layers/normalized"`` or
        ``"obsm/X_scvi"``; ``"obs/..."`` are numbers of which the tables are made.
    sparse
        Whether it is CSR (int32) rather than dense.
    dtype
        Type of its values.
    n_columns
        Number of its columns.
    """

    name: str
    sparse: bool
    dtype: np.dtype[Any]
    n_columns: int

    @property
    def is_of_tables(self) -> bool:
        """Whether it is not written as a matrix, but handed to whoever makes the tables."""
        return self.name.startswith("obs/")


Block = dict[str, sp.csr_matrix | np.ndarray]

"""Rows of some consecutive cells, by the name of the field."""


@dataclass(frozen=True)
class Plan:
    """How a result is cut into blocks of consecutive cells.

    Attributes
    ----------
    n_cells
        Number of cells of the result.
    blocks
        Consecutive slices of the cells, which cover all of them.
    fields
        The matrices of each block.
    fingerprint
        What has to agree for blocks of an interrupted run to be used again: plain values that
        JSON can hold.
    tables
        Digest of the tables that the result gets from its data. Blocks do not depend on them.
    """

    n_cells: int
    blocks: tuple[slice, ...]
    fields: tuple[Field, ...]
    fingerprint: dict[str, Any]
    tables: str = ""

    @property
    def result(self) -> str:
        """Digest of what the result is, however it is cut into blocks."""
        content = {**self._content(), "tables": self.tables}
        return digest_of_text(json.dumps(content, sort_keys=True))

    def manifest(self) -> dict[str, Any]:
        """Return all of this as JSON gives it back."""
        cut = [[block.start, block.stop] for block in self.blocks]
        plain: dict[str, Any] = json.loads(json.dumps({**self._content(), "blocks": cut}))
        return plain

    def seal(self, part: int | str) -> str:
        """Return what a part (a block by its number, or other arrays by their name) is known by.

        It names the run and the place of the part in it.
        """
        if isinstance(part, str):
            return f"{self._run} {part}"
        block = self.blocks[part]
        return f"{self._run} block {part}: cells {block.start} to {block.stop}"

    @cached_property
    def _run(self) -> str:
        return digest_of_text(json.dumps(self.manifest(), sort_keys=True))

    def _content(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "n_cells": self.n_cells,
            "fields": [
                {**asdict(field), "dtype": np.dtype(field.dtype).name} for field in self.fields
            ],
        }
