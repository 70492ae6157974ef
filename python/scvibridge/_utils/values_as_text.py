"""Convert values of columns to text and back: batches, labels, levels of a covariate.

A batch 1 is the number 1.0 in one file, the integer 1 in another and the text "1" on a command
line. All of these have the same text here.
"""

from __future__ import annotations

import datetime as dt
import numbers
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Larger whole numbers stored as float are not exact.
_EXACT = 2.0**53

_BOOLEANS = ("true", "false")


def as_text(value: Any) -> str:
    """Return a value as text: whole numbers without ``.0``, dates in ISO 8601."""
    if isinstance(value, bool | np.bool_ | str):
        return str(value)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        number = float(value)
        return str(int(number)) if abs(number) < _EXACT and number.is_integer() else str(value)
    if isinstance(value, dt.datetime | np.datetime64):
        time = pd.Timestamp(value)
        is_date = time == time.normalize() and time.tz is None
        return str(time.date()) if is_date else time.isoformat()
    if isinstance(value, np.timedelta64):
        return str(pd.Timedelta(value))
    return str(value)


def quoted(value: Any) -> str:
    """Format a value for a message: text in quotes, a number unchanged."""
    return repr(value) if isinstance(value, str) else as_text(value)


def position_of(text: str, values: Sequence[Any]) -> int | None:
    """Return the position of the value that a text means, see `positions_of`; None without one."""
    position = int(positions_of([text], values)[0])
    return None if position < 0 else position


def positions_of(values: Sequence[Any], among: Sequence[Any]) -> np.ndarray:
    """Return the position of each value among others; -1 if it has none.

    A value has the position of the same value; else of the only one with the same text, such as 1
    and ``"1"``; else of the only one that it is another spelling of. Numbers may have any format
    that Python reads (``"1.0"``, ``"1e5"``), and booleans any case (``"TRUE"``).

    Different categories are not merged. Two strings are never compared as numbers (``"1E1"`` and
    ``"10"`` may be two wells), a boolean is not a number, and two spellings of one value have no
    position.
    """
    same = {_with_kind(value): code for code, value in enumerate(among)}
    texts = _unique(as_text(value) for value in among)
    found = [same.get(_with_kind(value), texts.get(as_text(value), -1)) for value in values]
    taken, spellings = set(found), _Spellings(among)
    others = {place: spellings.code(values[place]) for place, code in enumerate(found) if code < 0}
    n_times = Counter(code for _, code in {(values[place], code) for place, code in others.items()})
    for place, code in others.items():
        if code not in taken and n_times[code] == 1:
            found[place] = code
    return np.array(found, dtype=np.int64)


def as_missing(codes: np.ndarray, names: list[Any], value: Any) -> tuple[np.ndarray, list[Any]]:
    """Return codes and categories in which one value counts as missing (-1)."""
    place = int(positions_of([value], names)[0])
    if place < 0:
        return codes, names
    others = np.where(codes > place, codes - 1, codes)
    return np.where(codes == place, -1, others), [*names[:place], *names[place + 1 :]]


class _Spellings:
    """Other spellings of values: the same number or boolean, but another text."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._all = _unique(_canonical(value) for value in values)
        # Of strings, only booleans are compared with another string.
        self._for_text = _unique(
            None
            if isinstance(value, str) and _canonical(value) not in _BOOLEANS
            else _canonical(value)
            for value in values
        )

    def code(self, value: Any) -> int:
        """Return the code of the only value that this one is another spelling of, or -1."""
        known = self._for_text if isinstance(value, str) else self._all
        return known.get(_canonical(value), -1)


def _unique(names: Iterable[str | None]) -> dict[str | None, int]:
    """Return the positions of the names that occur once."""
    listed = list(names)
    n_times = Counter(listed)
    return {name: code for code, name in enumerate(listed) if n_times[name] == 1}


def _with_kind(value: Any) -> tuple[bool, Any]:
    """Return a value with whether it is a boolean: in Python, True equals 1."""
    return isinstance(value, bool | np.bool_), value


def _canonical(value: Any) -> str:
    """Return the same text for all values that are equal as text, boolean or number."""
    text = as_text(value)
    if text.lower() in _BOOLEANS:
        return text.lower()
    try:
        number = float(text)
    except ValueError:
        return text
    # Other input that float() reads ("1_000", "infinity") stays text.
    plain = set(text) <= set("+-.0123456789eE")
    return as_text(number) if plain and abs(number) < _EXACT else text
