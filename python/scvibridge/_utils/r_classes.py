"""R classes that a column of an AnnData cannot have: dates, times and time differences.

They are text or numbers in Python. ``uns["r_classes"]`` records their classes in R, so that results
have columns of the same class there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable


KEY = "r_classes"

# As named in R/python_vectors.R; a time zone or a unit follows after a space.
_CLASSES = ("Date", "POSIXct", "difftime")


def found_in(tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the entry of ``uns`` for table columns received from R.

    Parameters
    ----------
    tables
        Columns of ``"obs"`` and ``"var"``, each a dict with a ``name`` and possibly an
        ``r_class``.
    """
    listed: dict[str, Any] = {}
    for table, columns in tables.items():
        pairs = [[str(c["name"]), str(c["r_class"])] for c in columns if "r_class" in c]
        if pairs:
            # Not a dict: a name with a slash is a path in HDF5.
            listed[table] = np.array(pairs, dtype=object)
    return {KEY: listed} if listed else {}


def kept(uns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of ``uns`` for data derived from others, if there is one."""
    return {KEY: uns[KEY]} if KEY in uns else {}


def class_of(uns: Mapping[str, Any], table: str) -> dict[str, str]:
    """Return the R class of columns of ``"obs"`` or ``"var"``, by name."""
    listed = uns.get(KEY)
    if not isinstance(listed, Mapping) or table not in listed:
        return {}
    pairs = np.atleast_2d(np.asarray(listed[table], dtype=object))
    found = {str(name): str(r_class) for name, r_class in pairs}
    return {name: value for name, value in found.items() if value.split(" ")[0] in _CLASSES}
