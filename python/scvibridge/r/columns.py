"""Convert columns of data frames to R vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from scvibridge._utils.values_as_text import as_text

Parts = dict[str, Any]

R_MAX_INTEGER = 2**31 - 1

EXACT_IN_DOUBLE = 2**53


# -- columns -----------------------------------------------------------------------------------
#
# pandas2ri (and so anndata2ri 2.0.1) is not used for columns. With rpy2 3.6 it refuses categories
# that are not text, uint32, int64 beyond 2^31 and Float32 columns; S4Vectors' DataFrame(), as
# anndata2ri calls it, changes names ("odd name" becomes "odd.name") and takes a column called
# "row.names" or "check.names" for its own argument; and every column is given the cells' names
# once more, element by element.


def table_columns(table: pd.DataFrame, classes: Mapping[str, str] | None = None) -> list[Parts]:
    """Return the columns of a table as converted by :func:`column`, each with its ``name``.

    `classes` are the R classes of some columns, by name; they become ``r_class``.
    """
    columns = [{"name": str(name), **column(values)} for name, values in table.items()]
    known = classes or {}
    return [
        {**part, "r_class": known[part["name"]]} if part["name"] in known else part
        for part in columns
    ]


def column(values: pd.Series) -> Parts:
    """Convert one column to a type of R vector.

    Returns
    -------
    dict with ``kind`` (``"factor"``, ``"logical"``, ``"integer"``, ``"double"``, ``"character"``
    or ``"time"``), ``values`` (int32 or float64; for factors and text the number of the level,
    from 1) and ``missing`` (int32, the positions of the missing values, from 1). Factors and text
    have ``levels``, factors also ``ordered``. Whole numbers that R's 32-bit integers cannot hold
    become doubles, or text if a double would round them.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _factor(values)
    if pd.api.types.is_bool_dtype(values.dtype):
        return _logical(values)
    if pd.api.types.is_integer_dtype(values.dtype):
        return _integer(values)
    if pd.api.types.is_float_dtype(values.dtype):
        return _double(values)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return _time(values)
    return _of_objects(values)


def _of_objects(values: pd.Series) -> Parts:
    """Convert a column of text or Python objects by the type of its non-missing values."""
    content = pd.api.types.infer_dtype(values, skipna=True)
    if content == "empty":
        return _logical(values.astype("boolean"))
    if content == "boolean":
        return _logical(values.astype("boolean"))
    if content == "integer" and all(abs(v) <= EXACT_IN_DOUBLE for v in values.dropna()):
        return _integer(values.astype("Int64"))
    if content in ("floating", "mixed-integer-float"):
        return _double(values.astype("Float64"))
    return _character(values)


def _with_missing(kind: str, values: np.ndarray, missing: np.ndarray, **more: object) -> Parts:
    positions = (np.flatnonzero(missing) + 1).astype(np.int32)
    return {"kind": kind, "values": values, "missing": positions, **more}


def _factor(values: pd.Series) -> Parts:
    levels = _levels(values.cat.categories)
    if len(set(levels)) < len(levels):
        raise ValueError(
            f"column {values.name!r}: its categories {list(values.cat.categories)} are not "
            "distinct as text, but levels of an R factor are text: rename or merge them"
        )
    codes = values.cat.codes.to_numpy(dtype=np.int32)
    ordered = bool(values.cat.ordered)
    return _with_missing("factor", codes + 1, codes < 0, levels=levels, ordered=ordered)


def _levels(categories: pd.Index) -> list[str] | np.ndarray:
    """Return categories as text; numbers and booleans are kept, for R to convert as in factor()."""
    if categories.dtype.kind == "b":
        return [str(value).upper() for value in categories]
    if categories.dtype.kind == "f":
        return categories.to_numpy(dtype=np.float64)
    return [as_text(value) for value in categories]


def _logical(values: pd.Series) -> Parts:
    missing = values.isna().to_numpy()
    return _with_missing("logical", values.fillna(value=False).to_numpy(dtype=np.int32), missing)


def _integer(values: pd.Series) -> Parts:
    missing = values.isna().to_numpy()
    numbers = values.fillna(0).to_numpy()
    low, high = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    largest = max(-low, high)
    if largest > EXACT_IN_DOUBLE:
        return _character(values)
    # -2^31 is R's NA_integer_.
    if largest > R_MAX_INTEGER:
        return _with_missing("double", numbers.astype(np.float64), missing)
    return _with_missing("integer", numbers.astype(np.int32), missing)


def _double(values: pd.Series) -> Parts:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return _with_missing("double", numbers, values.isna().to_numpy())


def _time(values: pd.Series) -> Parts:
    """Convert times to seconds since 1970 (UTC; a time without a time zone is treated as UTC)."""
    utc = values.dt.tz_localize("UTC") if values.dt.tz is None else values.dt.tz_convert("UTC")
    seconds = (utc - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return _with_missing("time", seconds.to_numpy(dtype=np.float64), values.isna().to_numpy())


def _character(values: pd.Series) -> Parts:
    missing = values.isna().to_numpy()
    text = [v if isinstance(v, str) else str(v) for v in values[~missing]]
    present, levels = pd.factorize(np.array(text, dtype=object))
    codes = np.zeros(len(values), dtype=np.int32)
    codes[~missing] = present + 1
    return _with_missing("character", codes, missing, levels=list(levels))


# -- provenance --------------------------------------------------------------------------------


def nested(value: object) -> Parts:
    """Convert a setting, a list or a dictionary of settings to a tree with columns as leaves.

    A list of plain values becomes one vector in R; None becomes NULL.
    """
    if value is None:
        return {"kind": "null"}
    if isinstance(value, Mapping):
        items = [nested(entry) for entry in value.values()]
        return {"kind": "list", "names": list(map(str, value)), "items": items}
    if isinstance(value, pd.DataFrame):
        return {
            "kind": "table",
            "columns": table_columns(value),
            "rows": list(map(str, value.index)),
        }
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not _is_list(value):
        return column(pd.Series([value]))
    if any(_is_list(entry) or isinstance(entry, Mapping) for entry in value):
        return {"kind": "list", "names": [], "items": [nested(entry) for entry in value]}
    return column(pd.Series(list(value))) if value else _character(pd.Series([], dtype=object))


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
