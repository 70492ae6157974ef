"""Record of the cells on which effects are estimated, if `estimate_on` was passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scvibridge._utils import wording
from scvibridge._utils.values_as_text import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


ARGUMENT = "estimate_on"

# Value in the provenance if cells were selected by name or with a mask.
BY_CELL = "cells given"


@dataclass(frozen=True)
class EstimationCells:
    """Cells on which effects are estimated.

    Attributes
    ----------
    rows
        Their positions in the reference data, sorted.
    n_all
        Number of cells of the reference data.
    asked
        Lists of values by column, if they were selected by values; None if by name or with a mask.
    """

    rows: np.ndarray
    n_all: int
    asked: dict[str, list[Any]] | None

    def __str__(self) -> str:
        """Describe the cells in a few words."""
        if self.asked is None:
            return f"the {len(self.rows)} cells of {ARGUMENT}"
        return f"the {len(self.rows)} cells of {ARGUMENT} ({describe_values(self.asked)})"

    def described(self) -> dict[str, Any]:
        """Return their entries in the provenance."""
        return {
            ARGUMENT: BY_CELL if self.asked is None else _as_texts(self.asked),
            f"{ARGUMENT}_cells": len(self.rows),
        }


def _as_texts(asked: Mapping[str, list[Any]]) -> dict[str, list[str]]:
    return {key: [as_text(value) for value in values] for key, values in asked.items()}


def describe_values(asked: Mapping[str, list[Any]]) -> str:
    """Return the values as text, such as ``"condition: 'ctrl', pool: 'A' and 'B'"``."""
    parts = (
        f"{key}: {wording.list_names(map(as_text, values), 6)}" for key, values in asked.items()
    )
    return ", ".join(parts)
