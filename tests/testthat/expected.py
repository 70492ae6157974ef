"""What pandas says of a column, as plain text, for comparison with what R holds."""

from __future__ import annotations

import pandas as pd


def text(column: pd.Series) -> list[str]:
    """The values as R's side of the comparison writes them; "" where missing."""
    return ["" if pd.isna(v) else one(v, column.dtype) for v in column]


def one(value: object, dtype: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, pd.Timestamp):
        return f"{value.timestamp():.0f}"
    if pd.api.types.is_bool(value):
        return "TRUE" if value else "FALSE"
    if isinstance(dtype, pd.CategoricalDtype):
        return str(value)
    # A column of various objects is text; so are whole numbers that a double would round.
    if pd.api.types.is_object_dtype(dtype) or (
        pd.api.types.is_integer(value) and abs(value) > 2**53
    ):
        return str(value)
    infinite = {float("inf"): "Inf", float("-inf"): "-Inf"}
    return infinite.get(value) or f"{float(value):.17g}"


def levels(column: pd.Series) -> list[str]:
    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    return [one(c, column.dtype) for c in column.cat.categories] if categorical else []
