"""Types of arguments, checked in one place for all public functions.

Python takes any object for a truth value, so that ``allow_confounded="False"`` would allow it. Each
public function begins with `check_types`, which reads the types from the function's own signature:
an argument that is added later is checked as soon as it is annotated.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

# A batch name that is passed as `batch_size` gets a separate error, which names the right argument:
# see `inputs.check_batch_size`.
_CHECKED_ELSEWHERE = frozenset({"batch_size"})
_LONGEST_SHOWN = 60
# The largest whole number of numpy and torch.
LARGEST_WHOLE = 2**63 - 1


def is_flag(value: Any) -> bool:
    """Whether a value is True or False, of Python or of numpy."""
    return isinstance(value, bool | np.bool_)


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a value is a whole number, of Python or numpy; booleans are not."""
    return isinstance(value, numbers.Integral) and not is_flag(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, of Python or numpy; booleans are not."""
    return isinstance(value, numbers.Real) and not is_flag(value)


# By the names that annotations have: what is accepted, and how a message calls it.
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

    Parameters annotated by other types are left to the checks that know them.

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
    """Split an annotation into types that are checked here; empty if it has another."""
    kinds = [kind.strip() for kind in str(annotation).split("|")]
    return kinds if set(kinds) <= _KINDS.keys() else []


def _described(kinds: list[str]) -> str:
    words = [_KINDS[kind][1] for kind in kinds if not (kind == "str" and "PathLike[str]" in kinds)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: Any) -> str:
    """Spell out a value for a message, with its type where the two could be mistaken."""
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
        raise ValueError(f"{argument} names the column {repeated[0]!r} more than once")
    return names or None


def listed(given: Any, argument: str = "the argument") -> list[Any]:
    """Return several values as a list, and a single one as a list of one.

    Raises
    ------
    TypeError
        If `given` has no order, as sets, or is read by something else than its values, as
        dictionaries and tables.
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
        raise ValueError(f"{argument} holds a missing value, got {shown(given)}")
    return values
