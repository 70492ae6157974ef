"""Colours of batches and types, the same in all figures of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scvibridge.diagnostics.report.reading import Groups


# Okabe and Ito's palette, which colour-blind readers can distinguish, and three colours of Tol's.
BATCH_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A800",
    "#332288", "#882255", "#666633",
)  # fmt: skip

# Tol's muted palette, also suitable for colour-blind readers, and three more colours.
TYPE_COLOURS = (
    "#CC6677", "#332288", "#C4A92F", "#117733", "#56B4E9", "#882255", "#44AA99", "#999933",
    "#AA4499", "#D55E00", "#0072B2", "#7F5539",
)  # fmt: skip

OTHER = "#B5B5B5"

BEFORE, AFTER, CHANCE = "#D55E00", "#0072B2", "#8A8A8A"


@dataclass(frozen=True)
class Colours:
    """Colours of groups.

    Attributes
    ----------
    title
        What the groups are, for the legend.
    named
        Colour of each group that has its own.
    n_others
        Number of groups that share the colour `OTHER`.
    """

    title: str
    named: dict[str, str]
    n_others: int

    def of(self, name: str) -> str:
        """Return the colour of a group."""
        return self.named.get(name, OTHER)


def colours_of(
    groups: Groups, title: str, palette: tuple[str, ...], first: int = 0, without: str = ""
) -> Colours:
    """Assign distinct colours to the first groups, then to the largest, until none are left.

    Parameters
    ----------
    groups, title
        The groups and what they are.
    palette
        Colours to assign.
    first
        Number of groups that come first, regardless of size.
    without
        A group that gets the colour of the others.
    """
    by_size = np.argsort(-groups.sizes[first:], kind="stable") + first
    order = [*range(first), *by_size]
    chosen = [groups.names[i] for i in order if groups.names[i] != without][: len(palette)]
    shown = [name for name in groups.names if name in set(chosen)]
    colour = dict(zip(chosen, palette, strict=False))
    return Colours(title, {name: colour[name] for name in shown}, len(groups.names) - len(shown))
