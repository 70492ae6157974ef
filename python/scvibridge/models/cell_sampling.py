"""Choose a subset of cells independently of their order and of the other cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scvibridge.likelihood.cpu.philox import hash_names

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose_cells(names: np.ndarray | Sequence[str], rows: np.ndarray, most: int) -> np.ndarray:
    """Choose up to `most` of the cells: those whose names have the smallest hashes.

    Parameters
    ----------
    names
        Names of all cells.
    rows
        Sorted positions of the cells to choose from.
    most
        Maximum number of cells.

    Returns
    -------
    Sorted positions of the chosen cells.
    """
    if len(rows) <= most:
        return rows
    hashes = hash_names(np.asarray(names)[rows])
    return np.sort(rows[np.argsort(hashes, kind="stable")[:most]])
