"""Columns of ``obs`` that a model was set up with, read for new cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scvibridge._utils.values_as_text import positions_of, quoted


def _column(obs: pd.DataFrame, key: str) -> pd.Series:
    if key not in obs:
        raise ValueError(
            f"the model was set up with obs[{key!r}], which is missing from the data: add this "
            "column, or rename the one that has its values"
        )
    if list(obs.columns).count(key) > 1:
        raise ValueError(
            f"obs has more than one column {key!r}, which the model was set up with: rename or "
            "drop the others"
        )
    return obs[key]


def codes_of(obs: pd.DataFrame, key: str, categories: list[Any]) -> np.ndarray:
    """Return the codes of a column among the categories that the model knows."""
    column = _column(obs, key)
    missing = np.asarray(column.isna())
    if missing.any():
        raise ValueError(
            f"obs[{key!r}] is missing for {int(missing.sum())} cells: fill in the values, or leave "
            "out these cells"
        )
    places, distinct = pd.factorize(column.astype(object))
    codes = positions_of(list(distinct), categories)[places]
    if (codes < 0).any():
        unknown = sorted({quoted(v) for v in distinct[np.unique(places[codes < 0])]})
        raise ValueError(
            f"obs[{key!r}] has values unknown to the model: {', '.join(unknown[:5])}. Known "
            f"values are {', '.join(quoted(c) for c in categories[:20])}. Rename the others, or "
            "leave out these cells"
        )
    return np.asarray(codes, dtype=np.int64)


def numbers_of(obs: pd.DataFrame, key: str) -> np.ndarray:
    """Return the values of a column of finite numbers."""
    values = np.asarray(pd.to_numeric(_column(obs, key), errors="coerce"), dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(
            f"obs[{key!r}] must hold finite numbers for all cells: fill in the others, or leave "
            "out these cells"
        )
    return values
