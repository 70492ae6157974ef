"""The figures of all experiments in one long table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Row:
    """One figure of one method in one run of an experiment.

    Attributes
    ----------
    experiment
        Such as "simulation" or "kang".
    design
        Variant of the experiment, such as "balanced".
    seed
        Number of the run.
    method
        Name of the counts.
    figure
        What was measured, such as "false discovery proportion".
    value
        The value; NaN if it is not defined.
    tool, formula
        For a test of the condition, else empty.
    """

    experiment: str
    design: str
    seed: int
    method: str
    figure: str
    value: float
    tool: str = ""
    formula: str = ""


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """Build a table from rows, with one column per attribute."""
    return pd.DataFrame([asdict(row) for row in rows], columns=list(Row.__annotations__))


def with_new_runs(recorded: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return recorded figures with those of new runs, which replace earlier runs of the same name.

    A run is an experiment, a design and a seed. Recorded runs that were not repeated are kept.
    """
    run = ["experiment", "design", "seed"]
    repeated = pd.MultiIndex.from_frame(recorded[run]).isin(pd.MultiIndex.from_frame(new[run]))
    return pd.concat([recorded[~repeated], new], ignore_index=True)
