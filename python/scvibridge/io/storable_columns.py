"""Convert columns of tables to forms that files can store, or raise an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.values_as_text import as_text

if TYPE_CHECKING:
    from collections.abc import Callable


# Results of `pandas.api.types.infer_dtype` for objects whose text is unambiguous.
_TIMES = {
    "date": "dates",
    "datetime": "dates",
    "datetime64": "dates",
    "time": "times",
    "timedelta": "durations",
    "timedelta64": "durations",
    "period": "periods",
    "interval": "intervals",
}


class UnstorableError(ValueError):
    """A value that no file format can store; the message is the reason."""


def storable_column(values: pd.Series) -> tuple[pd.Series, str | None]:
    """Convert a column to a form that h5ad and zarr files can store.

    Parameters
    ----------
    values
        The column.

    Returns
    -------
    The column, and what it was converted from, or None if its values are unchanged.

    Raises
    ------
    UnstorableError
        If its values cannot be stored in any form.
    """
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _categories(values)
    if isinstance(dtype, pd.SparseDtype):
        return storable_column(values.sparse.to_dense())[0], "sparse values, stored in full"
    if type(dtype).__name__ == "ArrowDtype":
        return storable_column(pd.Series(values.astype(object), index=values.index))
    convert = _converter(dtype)
    return (values, None) if convert is None else convert(values)


def check_text(texts: Any) -> None:
    """Check that texts can be stored.

    Raises
    ------
    UnstorableError
        If one contains a NUL character, or is not valid Unicode.
    """
    for text in texts:
        if "\0" in text:
            raise UnstorableError(f"{text!r} contains a NUL character")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UnstorableError(f"{text!r} is not valid Unicode") from error


def _converter(dtype: Any) -> Callable[[pd.Series], tuple[pd.Series, str | None]] | None:
    """Return the converter for columns of a type; None if they are stored unchanged."""
    is_float = pd.api.types.is_float_dtype(dtype)
    converters: dict[Callable[[pd.Series], tuple[pd.Series, str | None]], bool] = {
        _objects: pd.api.types.is_object_dtype(dtype),
        _text: isinstance(dtype, pd.StringDtype),
        _dates: pd.api.types.is_datetime64_any_dtype(dtype),
        _durations: pd.api.types.is_timedelta64_dtype(dtype),
        _periods: isinstance(dtype, pd.PeriodDtype),
        _intervals: isinstance(dtype, pd.IntervalDtype),
        _doubles: is_float and (not isinstance(dtype, np.dtype) or dtype == np.longdouble),
    }
    return next((convert for convert, applies in converters.items() if applies), None)


def _dates(values: pd.Series) -> tuple[pd.Series, str]:
    return _as_text(values, "dates")


def _durations(values: pd.Series) -> tuple[pd.Series, str]:
    return _as_text(values, "durations")


def _periods(values: pd.Series) -> tuple[pd.Series, str]:
    return _as_text(values, "periods")


def _intervals(values: pd.Series) -> tuple[pd.Series, str]:
    return _as_text(values, "intervals")


def _objects(values: pd.Series) -> tuple[pd.Series, str | None]:
    missing = values.isna()
    kind = pd.api.types.infer_dtype(values[~missing], skipna=True)
    if kind in ("string", "empty"):
        return _text(values)
    if kind == "boolean":
        return values.astype("boolean" if missing.any() else bool), None
    if kind == "integer":
        try:
            return values.astype("Int64" if missing.any() else np.int64), None
        except (OverflowError, TypeError) as error:
            raise UnstorableError("it contains whole numbers beyond 64 bits") from error
    if kind in ("floating", "mixed-integer-float"):
        return values.astype(np.float64), None
    if kind in _TIMES:
        return _as_text(values, _TIMES[kind])
    kinds = sorted({type(value).__name__ for value in values[~missing]})
    raise UnstorableError(f"it contains Python objects of the type {', '.join(kinds[:4])}")


def _as_text(values: pd.Series, what: str) -> tuple[pd.Series, str]:
    codes, distinct = pd.factorize(values)
    # The same text as everywhere else, so that a batch of the model is the same batch in the file.
    texts = np.array([*(as_text(value) for value in distinct), None], dtype=object)[codes]
    named = pd.Series(texts, index=values.index, name=values.name, dtype=object)
    return _text(named)[0], f"{what}, stored as text"


def _text(values: pd.Series) -> tuple[pd.Series, None]:
    """Convert text with missing values to categories: h5ad files cannot store it as text."""
    check_text(values.dropna().unique())
    texts = values.astype(object)  # also as categories: anndata 0.11 writes no others
    return texts.astype("category") if values.isna().any() else texts, None


def _doubles(values: pd.Series) -> tuple[pd.Series, None]:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.Series(numbers, index=values.index, name=values.name), None


def _categories(values: pd.Series) -> tuple[pd.Series, str | None]:
    categories = pd.Series(values.cat.categories)
    converted, note = storable_column(categories)
    if note is None and converted.dtype == categories.dtype:
        return values, None
    if converted.duplicated().any():
        raise UnstorableError("some of its categories have the same text")
    made = pd.Categorical.from_codes(
        values.cat.codes,
        categories=pd.Index(converted, dtype=converted.dtype),
        ordered=values.cat.ordered,
    )
    return pd.Series(made, index=values.index, name=values.name), note
