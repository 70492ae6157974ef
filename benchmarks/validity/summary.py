"""Summarise the figures of all runs: means, Monte-Carlo errors, differences to the standard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

RAW = "raw"
DEFAULT = "quantile, label"
KEYS = ["experiment", "design", "tool", "formula", "figure", "method"]
TESTED = ("type-I error", "false discovery proportion", "power")


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute mean, standard error (Monte-Carlo error) and number of runs of each figure."""
    rows = rows.fillna({"tool": "", "formula": ""})
    values = rows.groupby(KEYS, sort=False)["value"]
    table = values.agg(mean="mean", se="sem", runs="count").reset_index()
    return table[table["runs"] > 0]


def against_gold(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare tests with those of raw counts with the batch in the design, run by run.

    Returns
    -------
    For each experiment, design, tool, formula and method: the mean difference of the false
    discovery proportion to the gold's and the mean ratio of the power to the gold's, each with
    the ends of its 95 % interval (Student's t over runs).
    """
    rows = rows.fillna({"tool": "", "formula": ""})
    rows = rows[rows["figure"].isin(TESTED) & (rows["tool"] != "")]
    found = []
    keys = ["experiment", "design", "tool"]
    for (experiment, design, tool), part in rows.groupby(keys, sort=False):
        raw = part[part["method"] == RAW]
        if raw.empty:
            continue
        gold = raw[raw["formula"] == max(raw["formula"].unique(), key=len)]
        gold = gold.pivot_table(index="seed", columns="figure", values="value")
        for (method, formula), tests in part.groupby(["method", "formula"], sort=False):
            own = tests.pivot_table(index="seed", columns="figure", values="value")
            both = own.join(gold, rsuffix=" of gold", how="inner")
            if "power" not in both or both.empty:
                continue
            fdp = both[TESTED[1]] - both[f"{TESTED[1]} of gold"]
            power = both["power"] / both["power of gold"]
            found.append(
                {
                    "experiment": experiment,
                    "design": design,
                    "tool": tool,
                    "formula": formula,
                    "method": method,
                    "runs": len(both),
                    **_interval("FDP - gold", fdp),
                    **_interval("power / gold", power),
                }
            )
    return pd.DataFrame(found)


def _interval(name: str, values: pd.Series) -> dict[str, float]:
    values = values.dropna()
    mean = float(values.mean())
    half = np.nan
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.sem())
    return {name: mean, f"{name}, lower": mean - half, f"{name}, upper": mean + half}


def wide(table: pd.DataFrame, figures: Sequence[str] | None = None) -> pd.DataFrame:
    """Put methods in rows and figures in columns, each as text of mean and standard error."""
    if figures is not None:
        table = table[table["figure"].isin(figures)]
    text = [_text(mean, se) for mean, se in zip(table["mean"], table["se"], strict=True)]
    return (
        table.assign(text=text)
        .pivot_table(index="method", columns="figure", values="text", aggfunc="first", sort=False)
        .fillna("")
    )


def _text(mean: float, se: float) -> str:
    return f"{mean:.3g}" if np.isnan(se) else f"{mean:.3f} ({se:.3f})"


def markdown(table: pd.DataFrame) -> str:
    """Write a table of text in Markdown, its index first."""
    names = [table.index.name or "", *map(str, table.columns)]
    lines = [names, ["---"] * len(names)]
    lines += [
        [str(i), *map(str, row)] for i, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
