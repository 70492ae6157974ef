"""Resolve the target of a correction: batches, values of other covariates, or both."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import arguments, wording
from scvibridge._utils.arguments import listed
from scvibridge._utils.values_as_text import as_text
from scvibridge.models.adapters import Strata, Target
from scvibridge.models.trained_on import check_range

if TYPE_CHECKING:
    from scvibridge.models.adapters import Adapter


# Tables of strata by genes are held in memory.
_MOST_STRATA = 10_000


def resolve(
    adapter: Adapter, transform_batch: Any, transform_covariates: Any, *, required: bool
) -> Target:
    """Resolve the target that cells are decoded as, for :meth:`Adapter.with_target`.

    Parameters
    ----------
    adapter
        The model.
    transform_batch
        One batch or several, or None.
    transform_covariates
        Values by name of the covariate, or None. Several values are averaged over.
    required
        Whether one of the two is required if the model has several batches.

    Raises
    ------
    ValueError
        If a batch, a covariate or a value is unknown, or named twice.
    TypeError
        If `transform_covariates` is not a mapping.
    """
    if transform_covariates is not None and not isinstance(transform_covariates, Mapping):
        raise TypeError(
            "transform_covariates must map names of covariates to values, e.g. "
            f"{{'donor': 'D1'}}, got {transform_covariates!r}"
        )
    batches = arguments.resolve_targets(
        transform_batch,
        adapter.model_batches,
        required=required and not transform_covariates,
        known=adapter.batch_key is not None,
    )
    if not transform_covariates:
        return Target(batches or [])
    categorical: dict[int, tuple[str, list[Any]]] = {}
    chosen: list[list[int]] = [] if batches is None else [batches]
    continuous: dict[int, tuple[float, ...]] = {}
    values, asked = adapter.registry.categorical, dict[str, list[Any]]()
    for key, given in transform_covariates.items():
        if key not in values and key not in adapter.registry.continuous:
            raise ValueError(_unknown(adapter, key))
        wanted = _listed(key, given)
        asked[str(key)] = [_storable(value) for value in wanted]
        if key in values:
            categorical[list(values).index(key)] = (key, values[key])
            chosen.append(_codes(key, wanted, values[key]))
        else:
            numbers_given = _numbers(key, wanted)
            check_range(adapter, key, np.asarray(numbers_given))
            continuous[adapter.registry.continuous.index(key)] = numbers_given
    strata = Strata.of(adapter.model_batches, batches is not None, categorical, continuous)
    if len(strata.names) > _MOST_STRATA:
        raise ValueError(
            f"transform_covariates: {len(strata.names)} combinations of values exceed the maximum "
            f"of {_MOST_STRATA}; correct for fewer covariates at a time"
        )
    codes = [strata.code(parts) for parts in product(*chosen)]
    names = [as_text(adapter.model_batches[code]) for code in batches or []]
    return Target(codes, strata, {"transform_batch": names, "transform_covariates": asked})


def described(adapter: Adapter) -> dict[str, Any]:
    """Describe the target of an adapter for the provenance."""
    return {"transform_batch": adapter.target.names(adapter.batches), **adapter.target.asked}


def _listed(key: str, given: Any) -> list[Any]:
    wanted = listed(given, f"transform_covariates: {key!r}")
    if not wanted:
        raise ValueError(f"transform_covariates: {key!r} has no value: pass one or several")
    return wanted


def _storable(value: Any) -> Any:
    """Return a requested value for the provenance: numbers as such, dates and the like as text."""
    if isinstance(value, np.number | np.bool_):
        return value.item()
    if isinstance(value, bool | int | float):
        return value
    return float(value) if isinstance(value, numbers.Real) else as_text(value)


def _codes(key: str, wanted: list[Any], values: list[Any]) -> list[int]:
    codes = [arguments.code_of(value, values, key) for value in wanted]
    if len(set(codes)) != len(codes):
        raise ValueError(f"transform_covariates: {key!r} has the same value twice: pass each once")
    return codes


def _numbers(key: str, wanted: list[Any]) -> tuple[float, ...]:
    found = []
    for value in wanted:
        is_string = isinstance(value, str)
        if not is_string and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
            raise ValueError(f"transform_covariates: {key!r} must be a number, got {value!r}")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            raise ValueError(
                f"transform_covariates: {key!r} must be a finite number, got {value!r}"
            )
        found.append(number)
    return tuple(found)


def _unknown(adapter: Adapter, key: Any) -> str:
    known = [*adapter.registry.categorical, *adapter.registry.continuous]
    if key == adapter.batch_key:
        return f"transform_covariates: {key!r} is the model's batch; use transform_batch="
    if not known:
        return (
            f"transform_covariates: the model has no covariate {key!r}; it was set up without "
            "categorical_covariate_keys and continuous_covariate_keys"
        )
    return (
        f"transform_covariates: the model has no covariate {key!r}; its covariates are "
        f"{wording.list_names(known)}{wording.suggest(key, known)}"
    )
