"""Format values for messages: quoted lists, shortened lists, and the nearest known name."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.values_as_text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

# -- wording -----------------------------------------------------------------------------------


def list_names(names: Iterable[Any], most: int = 20) -> str:
    """Format names as a quoted list of at most `most` names."""
    listed = [quoted(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def shorten(names: Iterable[Any], most: int = 5) -> str:
    """Format the first few of many names."""
    return list_names((str(name) for name in names), most)


def suggest(name: Any, known: Iterable[Any]) -> str:
    """Return ": did you mean ...?" for the nearest known name, or nothing."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    if not near:
        folded = {k.casefold(): k for k in names}
        near = [folded[str(name).casefold()]] if str(name).casefold() in folded else []
    return f": did you mean {near[0]!r}?" if near else ""


# ---- terminals -------------------------------------------------------------------------------


def printable(text: object, keep: str = "") -> str:
    r"""Return text with terminal control characters replaced by escapes such as ``\x1b``.

    Parameters
    ----------
    text
        Any value with a text representation, such as a path.
    keep
        Characters to keep, such as ``"\n"``.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    if code in _SHORT:
        return _SHORT[code]
    if code <= _LARGEST_BYTE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _LARGEST_SHORT else f"\\U{code:08x}"


_SHORT = {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_LARGEST_BYTE, _LARGEST_SHORT = 0xFF, 0xFFFF


# ---- Python ----------------------------------------------------------------------------------


def python_literal(value: Any) -> str:
    """Return Python code of a value: text, numbers, booleans, None, lists and dictionaries."""
    value = _plain(value)
    if isinstance(value, dict):
        entries = (f"{python_literal(k)}: {python_literal(v)}" for k, v in value.items())
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, list):
        return f"[{', '.join(python_literal(entry) for entry in value)}]"
    if isinstance(value, str):
        return f'"{_in_double_quotes(value)}"'
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def _in_double_quotes(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return printable(escaped)


# ---- R ---------------------------------------------------------------------------------------

_R_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")

_R_RESERVED = frozenset(
    (
        *("if", "else", "repeat", "while", "function", "for", "next", "break", "in"),
        *("TRUE", "FALSE", "NULL", "Inf", "NaN", "NA", "NA_integer_", "NA_real_"),
        *("NA_character_", "NA_complex_"),
    )
)

# An R string cannot hold it, nor half a surrogate pair.
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def r_literal(value: Any) -> str:
    """Return R code of a value: text, numbers, booleans, None, and vectors or lists of them."""
    value = _plain(value)
    if isinstance(value, dict):
        return f"list({', '.join(r_argument(k, v) for k, v in value.items())})"
    if isinstance(value, list):
        return f"c({', '.join(r_literal(entry) for entry in value)})"
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Inf" if value > 0 else "-Inf")
    return _r_text(value) if isinstance(value, str) else repr(value)


def r_argument(name: str, value: Any) -> str:
    """Return R code of an argument of a call or an entry of a list: ``name = value``."""
    is_plain = _R_NAME.fullmatch(name) and name not in _R_RESERVED
    return f"{name if is_plain else _r_text(name)} = {r_literal(value)}"


def _r_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else _r_character(c) for c in escaped) + '"'


def _r_character(character: str) -> str:
    code = ord(character)
    if code in _SHORT:
        return _SHORT[code]
    if code == 0 or _is_surrogate(character):
        return _UNKNOWN
    # Not \x..: R does not accept both kinds in one string.
    return f"\\u{code:04x}" if code <= _LARGEST_SHORT else f"\\U{code:08x}"


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


# ---- shells ----------------------------------------------------------------------------------


def shell_words(words: list[str]) -> str:
    r"""Join words to a shell command line; words with unprintable characters become ``$'\x1b'``."""
    return " ".join(_shell_word(word) for word in words)


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_shell_character(c) for c in word.replace("\0", "")) + "'"


def _shell_character(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    encoded = character.encode("utf-8", "surrogateescape" if _is_byte(character) else "replace")
    return "".join(f"\\{byte:03o}" for byte in encoded)


def _is_byte(character: str) -> bool:
    """Return whether a character represents an undecodable byte of a path (PEP 383)."""
    return "\udc80" <= character <= "\udcff"


# ---- CSV -------------------------------------------------------------------------------------

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def csv_cell(value: Any) -> Any:
    """Return a cell of a CSV file that no spreadsheet interprets as a formula.

    Text that starts with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return is prefixed with
    ``'``, as spreadsheets mark text; text that already has such prefixes before it gets another, so
    that `from_csv_cell` can restore the original.
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def from_csv_cell(value: Any) -> Any:
    """Return the value passed to `csv_cell`."""
    is_marked = isinstance(value, str) and value.startswith("'") and _FORMULA.match(value)
    return value[1:] if is_marked else value


def csv_table(table: pd.DataFrame | pd.Series) -> pd.DataFrame:
    """Return a table with `csv_cell` applied to its text, row names and column names."""
    table = table.to_frame() if isinstance(table, pd.Series) else table
    safe = table.copy()
    for position, dtype in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            column = table.iloc[:, position].astype(object).map(csv_cell)
            safe.isetitem(position, column)
    safe.columns = table.columns.map(csv_cell)
    index = table.index
    if not isinstance(index, pd.MultiIndex) and not pd.api.types.is_numeric_dtype(index.dtype):
        safe.index = index.map(csv_cell).rename(csv_cell(index.name))
    return safe


# ---- values ----------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Convert a value to Python's own classes."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, tuple | np.ndarray):
        return list(value)
    return value
