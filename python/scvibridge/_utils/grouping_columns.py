"""Check columns that should contain groups of cells (batches, cell types, conditions, samples)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

# A numeric column with up to this many values may be group numbers or grades.
_ALWAYS_GROUPS = 20

# Whole numbers with more values than this are counts or measurements, not group numbers.
_MOST_NUMBERED_GROUPS = 200

# So are values shared by fewer cells than this.
_FEWEST_CELLS_PER_NUMBER = 5

# A text column with at least this many values contains cell names if most values are unique.
_FEWEST_NAMES, _FEWEST_CELLS_PER_NAME = 50, 2


def check_groups(column: pd.Categorical, dtype: Any, key: str, argument: str) -> None:
    """Check that a column contains groups of cells, not measurements or names of single cells.

    Parameters
    ----------
    column
        The values, without unused categories.
    dtype
        The original type of the column: numbers that are already categorical are groups on
        purpose.
    key, argument
        The column, and the argument that names it.

    Raises
    ------
    ValueError
        If it contains continuous numbers, or nearly as many values as there are cells.
    """
    n_values, n_cells = len(column.categories), int((column.codes >= 0).sum())
    counted = f"{n_values:,} different values in {n_cells:,} cells"
    if _is_numeric(dtype) and _are_measurements(column.categories, n_cells):
        raise ValueError(
            f"{argument}={key!r} is a column of numbers with {counted}: measurements, not groups "
            "of cells. Name a column of groups. If these numbers are groups, make them "
            f"categories first: adata.obs[{key!r}] = adata.obs[{key!r}].astype('category')"
        )
    if n_values >= _FEWEST_NAMES and n_values * _FEWEST_CELLS_PER_NAME > n_cells:
        raise ValueError(
            f"{argument}={key!r} has {counted}: nearly every cell would be a separate group. Name "
            "a column of groups"
        )


def _is_numeric(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def _are_measurements(values: pd.Index, n_cells: int) -> bool:
    n_values = len(values)
    if n_values <= _ALWAYS_GROUPS:
        return False
    numbers = np.asarray(values, dtype=float)
    if not (numbers == np.round(numbers)).all():
        return True
    return n_values > _MOST_NUMBERED_GROUPS or n_values * _FEWEST_CELLS_PER_NUMBER > n_cells
