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
    from collections.abc import Sequence

# Larger whole numbers stored as float are not exact.
_EXACT = 2.0**53


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
    """Return the position of the only value with this text; None if there is no such value.

    Numbers may have any format that Python reads (``"1"``, ``"1.0"``, ``"1e5"``), booleans any case
    (``"TRUE"``).
    """
    for key in (_literal, _canonical):
        wanted = key(text)
        found = [code for code, value in enumerate(values) if key(value) == wanted]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def positions_of(values: Sequence[Any], among: Sequence[Any]) -> np.ndarray:
    """Return the position of each value among others with the same text, -1 if no other has it."""
    names = [_canonical(value) for value in among]
    n_times = Counter(names)
    known = {name: code for code, name in enumerate(names) if n_times[name] == 1}
    return np.array([known.get(_canonical(value), -1) for value in values], dtype=np.int64)


def _literal(value: Any) -> str:
    return str(value)


def _canonical(value: Any) -> str:
    """Return the same text for all values that are equal as text, boolean or number."""
    text = as_text(value)
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = float(text)
    except ValueError:
        return text
    # Other input that float() reads ("1_000", "infinity") stays text.
    plain = set(text) <= set("+-.0123456789eE")
    return as_text(number) if plain and abs(number) < _EXACT else text
