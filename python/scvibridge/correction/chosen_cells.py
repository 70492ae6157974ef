"""Which cells effects are estimated on, if some were chosen (`estimate_on`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scvibridge._utils import wording
from scvibridge._utils.values_as_text import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


ARGUMENT = "estimate_on"

# What the provenance holds where cells were given by name or by a mask.
BY_CELL = "cells given"


@dataclass(frozen=True)
class EstimationCells:
    """Cells to estimate on.

    Attributes
    ----------
    rows
        Their positions in the reference data, sorted.
    n_all
        Number of cells of the reference data.
    asked
        The values of columns that chose them, as lists by column; None where cells were given.
    """

    rows: np.ndarray
    n_all: int
    asked: dict[str, list[Any]] | None

    def __str__(self) -> str:
        """Name the cells in a few words."""
        if self.asked is None:
            return f"the {len(self.rows)} cells of {ARGUMENT}"
        return f"the {len(self.rows)} cells of {ARGUMENT} ({describe_values(self.asked)})"

    def described(self) -> dict[str, Any]:
        """Return what the provenance says of them."""
        return {
            ARGUMENT: BY_CELL if self.asked is None else _as_texts(self.asked),
            f"{ARGUMENT}_cells": len(self.rows),
        }


def _as_texts(asked: Mapping[str, list[Any]]) -> dict[str, list[str]]:
    return {key: [as_text(value) for value in values] for key, values in asked.items()}


def describe_values(asked: Mapping[str, list[Any]]) -> str:
    """Spell the values out that cells were chosen by."""
    parts = (
        f"{key}: {wording.list_names(map(as_text, values), 6)}" for key, values in asked.items()
    )
    return ", ".join(parts)
