"""Elements of a page: sections of texts, tables, figures and lines of code.

Nothing here is HTML. The template escapes all text, so names that look like HTML remain text.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from scvibridge.diagnostics.report.palette import Colours


GOOD, CAUTION, STOP, PLAIN = "good", "caution", "stop", "plain"

_MOST_ROWS = 40


@dataclass(frozen=True)
class Text:
    """A paragraph, with a `level` that classifies the news as good or bad."""

    text: str
    level: str = PLAIN
    kind: str = "text"


@dataclass(frozen=True)
class Missing:
    """What could not be computed, and what to pass for it."""

    text: str
    kind: str = "missing"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and the CSS class that colours it."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, with a description of what it shows."""

    title: str
    source: str
    alt: str
    width: int
    height: int
    is_wide: bool = False


@dataclass(frozen=True)
class Pictures:
    """Figures side by side, with a common caption and legend."""

    caption: str
    pictures: Sequence[Picture]
    legends: Sequence[Colours] = ()
    kind: str = "pictures"


@dataclass(frozen=True)
class Code:
    """A line of code to copy."""

    language: str
    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Items:
    """A list of sentences under a small heading."""

    title: str
    items: Sequence[str]
    level: str = PLAIN
    kind: str = "items"


Block = Text | Missing | Table | Pictures | Code | Items


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    name: str
    title: str
    lead: str
    blocks: list[Block] = field(default_factory=list)


# ---- wording ---------------------------------------------------------------------------------


def plain(name: object, length: int = 1000) -> str:
    """Return a name as one line of printable text, shortened to `length`."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def percent(share: float) -> str:
    """Return a share as text: ``"3.4 %"``."""
    if math.isnan(share):
        return "\N{EN DASH}"
    if 0 < share < 0.001:
        return "below 0.1 %"
    return f"{share:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def figure(value: float, digits: int = 2) -> str:
    """Return a number as text, or a dash if it is missing."""
    if math.isnan(value):
        return "\N{EN DASH}"
    return f"{value:,.{digits}f}"


def listed(names: Sequence[object], most: int = 5) -> str:
    """List names in quotes, only the first few if there are many."""
    shown = [
        f"\N{LEFT DOUBLE QUOTATION MARK}{plain(name, 60)}\N{RIGHT DOUBLE QUOTATION MARK}"
        for name in names[:most]
    ]
    rest = len(names) - most
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")


def counted(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun: ``"1 cell"``, ``"1,200 cells"``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def table_of(frame: pd.DataFrame, caption: str) -> Table:
    """Convert any data frame to a table, with only the first rows if there are many."""
    named = not _is_numbered(frame)
    names = [*([frame.index.name or ""] if named else []), *frame.columns]
    shown = frame.iloc[:_MOST_ROWS]
    rows = [
        [_cell_of(value) for value in ([index] if named else []) + list(values)]
        for index, values in zip(shown.index, shown.to_numpy(dtype=object), strict=True)
    ]
    rest = len(frame) - _MOST_ROWS
    note = f"and {rest:,} more rows" if rest > 0 else ""
    return Table(caption, [plain(name).replace("_", " ") for name in names], rows, note)


def _cell_of(value: Any) -> Cell:
    is_number = isinstance(value, numbers.Number) and not isinstance(value, bool | np.bool_)
    return Cell(as_text(value), "number" if is_number else "")


def _is_numbered(frame: pd.DataFrame) -> bool:
    return list(frame.index) == list(range(len(frame)))


def as_text(value: Any) -> str:
    """Return a table value as text."""
    if isinstance(value, tuple):
        return " / ".join(as_text(part) for part in value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "item"):
        return as_text(value.item())
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else plain(value)
