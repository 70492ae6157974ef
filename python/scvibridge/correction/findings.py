"""What checks and estimates find: notes and values for the provenance of a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scvibridge._utils import user_warnings
from scvibridge._utils.wording import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

# Status of the confounding check where there is nothing to compare.
UNCHECKED = "not checked"


@dataclass(frozen=True)
class Found:
    """What a check or an estimate found. Several are added up in the order of the checks.

    Attributes
    ----------
    notes
        Messages, whether or not a warning was issued with them.
    values
        Values for the provenance, by name.
    """

    notes: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, other: Found) -> Found:
        """Return the notes and values of both; a value of the second replaces that of the first."""
        return Found((*self.notes, *other.notes), {**self.values, **other.values})


NOTHING = Found()


def noted(message: str, *, warn: bool = False) -> Found:
    """Return a note, after issuing a warning with the same text if `warn`."""
    message = printable(message)
    if warn:
        user_warnings.warn(message)
    return Found((message,))
