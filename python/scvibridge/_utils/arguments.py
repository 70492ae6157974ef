"""Check arguments shared by public functions, and resolve selections of cells and genes."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import pandas as pd

from scvibridge._utils.grouping_columns import check_groups
from scvibridge._utils.values_as_text import as_text, position_of, quoted
from scvibridge._utils.wording import list_names, shorten, suggest

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


# A batch name passed as `batch_size` gets a separate error that names the right argument: see
# `check_batch_size`.
_CHECKED_ELSEWHERE = frozenset({"batch_size"})

_LONGEST_SHOWN = 60

# The largest integer that numpy and torch hold.
LARGEST_WHOLE = 2**63 - 1


def is_flag(value: Any) -> bool:
    """Return whether a value is True or False, of Python or of numpy."""
    return isinstance(value, bool | np.bool_)


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a value is a whole number, of Python or numpy; booleans are not."""
    return isinstance(value, numbers.Integral) and not is_flag(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, of Python or numpy; booleans are not."""
    return isinstance(value, numbers.Real) and not is_flag(value)


# By annotation name: the check, and its description in messages.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (is_flag, "True or False"),
    "int": (is_whole, "a whole number"),
    "float": (is_number, "a number"),
    "str": (lambda value: isinstance(value, str), "a single string"),
    "PathLike[str]": (lambda value: isinstance(value, PathLike), "a path"),
    "None": (lambda value: value is None, "None"),
}


def check_types(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Check flags, numbers, strings and paths by the annotations of a function.

    Parameters with other annotations are left to specific checks.

    Parameters
    ----------
    function
        The function that was called.
    given
        Its arguments by name: ``locals()``, as long as nothing else has been assigned.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If a whole number has more than 64 bits.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = kinds_of(parameter.annotation)
        if not kinds or name in _CHECKED_ELSEWHERE:
            continue
        if not any(_KINDS[kind][0](given[name]) for kind in kinds):
            raise TypeError(f"{name} must be {_described(kinds)}, got {shown(given[name])}")
        if "int" in kinds and is_whole(given[name]) and abs(int(given[name])) > LARGEST_WHOLE:
            raise ValueError(f"{name} must have at most 64 bits, got {shown(given[name])}")


def kinds_of(annotation: Any) -> list[str]:
    """Split an annotation into types that are checked here; empty if it has any other type."""
    kinds = [kind.strip() for kind in str(annotation).split("|")]
    return kinds if set(kinds) <= _KINDS.keys() else []


def _described(kinds: list[str]) -> str:
    words = [_KINDS[kind][1] for kind in kinds if not (kind == "str" and "PathLike[str]" in kinds)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: Any) -> str:
    """Format a value for a message, with its type if it is ambiguous."""
    text = " ".join(repr(value).split())
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[: _LONGEST_SHOWN - 3]}..."
    return text if value is None or is_flag(value) else f"{text} (of type {type(value).__name__})"


def column_names(given: Any, argument: str) -> list[str] | None:
    """Return names of columns as a list; None for none.

    Raises
    ------
    TypeError
        If `given` is not a list of strings.
    ValueError
        If a name occurs twice.
    """
    if given is None:
        return None
    if isinstance(given, str):
        raise TypeError(f"{argument} must be a list of columns, got the single name {given!r}")
    names = listed(given, argument)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument} must be a list of names of columns, got {shown(name)}")
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{argument} contains the column {repeated[0]!r} more than once")
    return names or None


def listed(given: Any, argument: str = "the argument") -> list[Any]:
    """Return several values as a list, and a single value as a list of one.

    Raises
    ------
    TypeError
        If `given` is unordered (a set) or its values are ambiguous (a dictionary or table).
    ValueError
        If a value is missing (None, NaN).
    """
    if isinstance(given, AbstractSet | Mapping | pd.DataFrame):
        raise TypeError(f"{argument} must be a value or a list of values, got {shown(given)}")
    if isinstance(given, np.ndarray):
        if given.ndim > 1:
            raise TypeError(f"{argument} must be a list, got an array of shape {given.shape}")
        given = np.atleast_1d(given)
    single = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    values = [given] if single else list(given)
    if any(pd.api.types.is_list_like(value) for value in values):
        raise TypeError(f"{argument} must be a value or a list of values, got {shown(given)}")
    if any(pd.api.types.is_scalar(value) and pd.isna(value) for value in values):
        raise ValueError(f"{argument} contains a missing value, got {shown(given)}")
    return values


# Depths beyond these give counts that exceed 32 bits, or expression of 0 or infinity.
LEAST_DEPTH, MOST_DEPTH = 1e-6, 2**31 - 1

WITHOUT_BATCH = (
    "the model was set up without batch_key=, so it has no batches and there is no batch effect "
    "to remove. Set it up with the batch column, setup_anndata(adata, batch_key=...) or "
    "train_scvi(adata, batch_key=...), and train it again"
)


def check_unique(names: pd.Index, what: str, fix: str) -> None:
    """Raise an error for duplicated cell or gene names, which are used as keys."""
    duplicated = pd.Index(names)[pd.Index(names).duplicated()].unique()
    if len(duplicated):
        raise ValueError(
            f"{len(duplicated)} {what} names occur more than once: {shorten(duplicated)}. "
            f"Make them unique first: {fix}"
        )


# -- selections --------------------------------------------------------------------------------


def resolve_targets(
    transform_batch: Any, batches: Sequence[Any], *, required: bool, known: bool = True
) -> list[int] | None:
    """Convert names of target batches to the model's codes; None if there is no target.

    `known` is whether the model was set up with batches.

    Raises
    ------
    ValueError
        If a batch is unknown or occurs twice, or `required` and none is given; or a batch is given
        and the model has none.
    """
    if transform_batch is not None and not known:
        raise ValueError(f"transform_batch={transform_batch!r}: {WITHOUT_BATCH}")
    if transform_batch is None:
        if required and len(batches) > 1:
            raise ValueError(
                "transform_batch is required: choose the target batch from the model's batches, "
                f"{list_names(batches)}"
            )
        return [0] if required else None
    names = listed(transform_batch, "transform_batch")
    if not names:
        raise ValueError(f"transform_batch is empty: name one or several of {list_names(batches)}")
    codes = [code_of(name, batches, "batch") for name in names]
    if len(set(codes)) != len(codes):
        raise ValueError(f"transform_batch contains a batch twice: {list_names(names)}")
    return codes


def code_of(name: Any, batches: Sequence[Any], what: str) -> int:
    """Return the code of a value among those that the model knows.

    Raises
    ------
    ValueError
        If it is not among them.
    """
    for code, batch in enumerate(batches):
        # True == 1 in Python, but a boolean must not match the batch 1.
        if batch == name and isinstance(batch, bool | np.bool_) == isinstance(
            name, bool | np.bool_
        ):
            return code
    alike = None if isinstance(name, PathLike | bytes) else position_of(as_text(name), batches)
    if alike is not None and not isinstance(name, numbers.Number | np.bool_):
        return alike  # from the command line or R, or a date, which models store as text
    known = f"{what} {quoted(name)} is not among {list_names(batches)}"
    if alike is not None:
        raise ValueError(f"{known}: did you mean {quoted(batches[alike])}?")
    if isinstance(name, numbers.Integral) and 0 <= int(name) < len(batches):
        raise ValueError(
            f"{known}: pass the {what} itself, not scvi-tools' internal code ({int(name)} is the "
            f"code of {quoted(batches[int(name)])})"
        )
    raise ValueError(f"{known}{suggest(as_text(name), [as_text(b) for b in batches])}")


# -- scalars -----------------------------------------------------------------------------------


def check_batch_size(batch_size: Any, batches: Sequence[Any]) -> None:
    """Raise an error for a batch name passed as `batch_size`, the size of a minibatch."""
    if batch_size is None:
        return
    if not is_whole(batch_size):
        known = ""
        is_value = pd.api.types.is_scalar(batch_size) and not pd.isna(batch_size)
        if is_value and batch_size in list(batches):
            known = f": to choose the target batch, use transform_batch={batch_size!r}"
        raise ValueError(
            f"batch_size is the number of cells in a minibatch, got {batch_size!r}{known}"
        )
    if not 1 <= batch_size <= LARGEST_WHOLE:
        raise ValueError(f"batch_size must be at least 1, got {shown(batch_size)}")


def check_library_size(library_size: Any) -> str | float:
    """Return a depth: a number from `LEAST_DEPTH` to `MOST_DEPTH`, or one of the four names."""
    names = ("observed", "latent", "median", "scaled")
    if isinstance(library_size, str):
        if library_size not in names:
            raise ValueError(
                f"library_size {library_size!r} is not among {list_names(names)} or a number"
                f"{suggest(library_size, names)}"
            )
        return library_size
    if not is_number(library_size):
        raise TypeError(f"library_size must be a number or a name, got {library_size!r}")
    if not 0 < library_size < np.inf:
        raise ValueError(f"library_size must be positive and finite, got {library_size!r}")
    if not LEAST_DEPTH <= library_size <= MOST_DEPTH:
        raise ValueError(
            f"library_size must be between {LEAST_DEPTH:g} and {MOST_DEPTH}, got "
            f"{shown(library_size)}: counts are stored in 32 bits, expression in single precision"
        )
    return float(library_size)


def check_choice(value: Any, choices: Sequence[str], what: str) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"{what} {value!r} is not among {list_names(choices)}{suggest(str(value), choices)}"
        )
    return str(value)


def check_n_samples(n_samples: Any) -> int | None:
    """Return the number of posterior samples; None for the posterior mean."""
    if n_samples is None:
        return None
    if not is_whole(n_samples) or n_samples < 1:
        raise ValueError(f"n_samples must be None or at least 1, got {n_samples!r}")
    return int(n_samples)


def column_codes(adata: AnnData, key: str, argument: str) -> tuple[np.ndarray, list[Any]]:
    """Return codes of a column of ``obs`` (-1 where missing) and its categories.

    Raises
    ------
    ValueError
        If ``obs`` has no such column, or it contains measurements rather than groups of cells.
    """
    if key not in adata.obs:
        columns = [c for c in adata.obs.columns if not str(c).startswith("_scvi_")]
        raise ValueError(
            f"{argument}={key!r} is not a column of obs, which has {list_names(columns)}"
            f"{suggest(key, [str(c) for c in columns])}"
        )
    if list(adata.obs.columns).count(key) > 1:
        raise ValueError(f"{argument}={key!r}: obs has more than one column with this name")
    values = adata.obs[key]
    column = pd.Categorical(values)
    column = column.remove_unused_categories()
    check_groups(column, values.dtype, key, argument)
    return np.asarray(column.codes, dtype=np.int64), list(column.categories)
