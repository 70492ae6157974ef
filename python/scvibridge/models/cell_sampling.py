"""Choosing some of many cells, so that neither their order nor the others matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scvibridge.likelihood.cpu.philox import hash_names

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose_cells(names: np.ndarray | Sequence[str], rows: np.ndarray, most: int) -> np.ndarray:
    """Choose at most so many of some cells: those whose names have the smallest hashes.

    Parameters
    ----------
    names
        Names of all cells.
    rows
        Positions of those to choose from, sorted.
    most
        Largest number of cells.

    Returns
    -------
    Their positions, sorted.
    """
    if len(rows) <= most:
        return rows
    hashes = hash_names(np.asarray(names)[rows])
    return np.sort(rows[np.argsort(hashes, kind="stable")[:most]])
