"""The content and the blocks of a result, shared by the code that computes or writes it."""

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
    """Computes a result; its pickle contains what blocks need, without tables."""

    @property
    def step(self) -> int:
        """Number of cells of a piece."""
        ...

    def pieces(self, selection: slice) -> Iterable[Block]:
        """Compute the matrices of consecutive cells, in pieces to be stacked."""
        ...

    def tables(self, columns: Arrays, /) -> AnnData:
        """Return everything except the matrices, once all blocks are computed.

        `columns` are the values of all cells that blocks returned for the tables, by field.
        """
        ...


@dataclass(frozen=True)
class Field:
    """A matrix of a result, with one row per cell.

    Attributes
    ----------
    name
        Its location in the AnnData: ``"X"``, ``"layers/raw_counts"``, ``"layers/normalized"`` or
        ``"obsm/X_scvi"``; ``"obs/..."`` are numbers from which the tables are built.
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
        """Whether it is not written as a matrix but used to build the tables."""
        return self.name.startswith("obs/")


Block = dict[str, sp.csr_matrix | np.ndarray]

"""Rows of some consecutive cells, by the name of the field."""


@dataclass(frozen=True)
class Plan:
    """The blocks of consecutive cells of a result.

    Attributes
    ----------
    n_cells
        Number of cells of the result.
    blocks
        Consecutive slices that cover all cells.
    fields
        The matrices of each block.
    fingerprint
        Plain values (for JSON) that must agree for blocks of an interrupted run to be reused.
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
        """Digest of the content of the result, regardless of its division into blocks."""
        content = {**self._content(), "tables": self.tables}
        return digest_of_text(json.dumps(content, sort_keys=True, default=_plain))

    def manifest(self) -> dict[str, Any]:
        """Return the plan in the form that JSON restores."""
        cut = [[block.start, block.stop] for block in self.blocks]
        plain: dict[str, Any] = json.loads(
            json.dumps({**self._content(), "blocks": cut}, default=_plain)
        )
        return plain

    def seal(self, part: int | str) -> str:
        """Return the seal that identifies a block (by number) or other arrays (by name).

        It contains the run and the position in it.
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


def _plain(value: Any) -> Any:
    """Convert a number of numpy, such as the name of a batch, to one that JSON can hold."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be stored as JSON: {value!r}")
