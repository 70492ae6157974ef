"""Convert columns of ``obs`` while scvi-tools registers them, then restore them."""

from __future__ import annotations

import numbers
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvibridge._utils.values_as_text import as_text, positions_of
from scvibridge.models.adapters.registry import Registry
from scvibridge.models.obs_columns import codes_of, numbers_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def as_categories(cells: AnnData, keys: Mapping[str, Any]) -> Iterator[None]:
    """Convert columns to categories while scvi-tools registers them, then restore them.

    Otherwise categories without cells would become batches of the model. The user's data keep such
    categories, and their numbers stay numbers. Dates and similar types, and numbers mixed with
    text, are registered as text, which can be sorted and saved.

    Parameters
    ----------
    cells
        The data; ``obs`` is restored afterwards, together with columns added in the meantime.
    keys
        ``batch_key``, ``labels_key`` and ``categorical_covariate_keys``.
    """
    single = [keys.get("batch_key"), keys.get("labels_key")]
    named = [*single, *(keys.get("categorical_covariate_keys") or ())]
    with _exchanged(
        cells,
        {
            key: _registrable(pd.Categorical(cells.obs[key]).remove_unused_categories())
            for key in named
            if key is not None
        },
    ):
        yield


def check_registrable(column: pd.Categorical, key: str) -> None:
    """Check that a model can tell the values of a column apart, see `_registrable`.

    Raises
    ------
    ValueError
        If different values become the same text, such as 1 and ``"1"``.
    """
    if _is_plain(column):
        return
    count = Counter(as_text(value) for value in column.categories)
    alike = [value for value in column.categories if count[as_text(value)] > 1]
    if alike:
        raise ValueError(
            f"obs[{key!r}] has different values that are the same text, "
            f"{', '.join(map(repr, alike[:4]))}: a model cannot tell them apart. Convert the "
            "column to one type, or rename the values"
        )


def _registrable(column: pd.Categorical) -> pd.Categorical:
    """Convert categories to text unless all are text, or all are numbers or booleans."""
    if _is_plain(column):
        return column
    return column.rename_categories([as_text(value) for value in column.categories])


def _is_plain(column: pd.Categorical) -> bool:
    """Return whether scvi-tools can sort the categories, and save them."""
    kinds = (str, numbers.Number | np.bool_)
    return any(all(isinstance(value, kind) for value in column.categories) for kind in kinds)


@contextmanager
def as_spelled_by_model(data: object, registry: Mapping[str, Any]) -> Iterator[None]:
    """Convert columns to the model's values while it is loaded, if only their types differ.

    scvi-tools compares types: the string "1" does not match the batch 1.

    Parameters
    ----------
    data
        The data that the model is loaded with; only an AnnData is changed.
    registry
        The model's registry.
    """
    if not isinstance(data, AnnData):
        yield
        return
    known = _known_values(_registry_of(registry))
    columns = {key: _as_known(data.obs[key], known[key]) for key in known if key in data.obs}
    with _exchanged(data, {key: values for key, values in columns.items() if values is not None}):
        yield


def fault_of_columns(data: object, registry: Mapping[str, Any]) -> str | None:
    """Describe the first column of data that a model cannot be loaded with; None without one.

    Parameters
    ----------
    data
        The data that scvi-tools refused; only an AnnData is examined.
    registry
        The model's registry.
    """
    if not isinstance(data, AnnData):
        return None
    found = _registry_of(registry)
    known = _known_values(found)
    try:
        for key in found.columns:
            if key in known:
                codes_of(data.obs, key, known[key])
            else:
                numbers_of(data.obs, key)
    except ValueError as error:
        return str(error)
    return None


def _registry_of(registry: Mapping[str, Any]) -> Registry:
    setup = dict(registry.get("setup_args") or {})
    return Registry(setup, dict(registry.get("field_registries") or {}), is_mudata=False)


def _known_values(found: Registry) -> dict[Any, list[Any]]:
    """Return the values of the batch, the labels and the categorical covariates, by column."""
    known: dict[Any, list[Any]] = {
        found.key(name): found.categories(name) for name in ("batch", "labels")
    }
    return known | found.categorical


def _as_known(column: pd.Series, values: list[Any]) -> pd.Categorical | None:
    """Return a column converted to these values if all match as text but are not equal."""
    distinct = pd.Index(column.unique())
    if column.isna().any() or distinct.isin(values).all():
        return None
    positions = positions_of(list(distinct), values)
    if (positions < 0).any():
        return None
    codes = positions[distinct.get_indexer(pd.Index(column))]
    return pd.Categorical.from_codes(codes, pd.Index(values))


@contextmanager
def _exchanged(data: AnnData, columns: Mapping[Any, Any]) -> Iterator[None]:
    """Replace values in columns of ``obs``, and restore them afterwards."""
    before = {key: data.obs[key].copy() for key in columns}
    for key, values in columns.items():
        data.obs[key] = values
    try:
        yield
    finally:
        for key, column in before.items():
            data.obs[key] = column


def is_plain_number(column: pd.Series) -> bool:
    """Return whether scvi-tools accepts a column as a continuous covariate without conversion."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf"
