"""Tables of docs/validity.md for single experiments, from the figures of all runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks.validity import (
    grid,
    kang,
    null_batches,
    published,
    summary,
    trajectories,
    twins,
)
from benchmarks.validity.pseudobulk import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FDP, TYPE_ONE, POWER = "false discovery proportion", "type-I error", "power"
EQUAL = "power at a true FDP of .05"
BATCH, PLAIN = "~ batch + condition", "~ condition"
# The goal: at most so much above the false discovery proportion of raw counts.
MOST_FALSE = 0.02


def what_goes_wrong(rows: pd.DataFrame) -> str:
    """Return one row for each design of `grid`: errors, power, what is left, and warnings."""
    of_grid = rows[rows["experiment"] == grid.EXPERIMENT]
    if of_grid.empty:
        return "No runs."
    designs = [design for group in grid.GROUPS.values() for design in group.labels]
    made = []
    for design, part in sorted(of_grid.groupby("design"), key=lambda one: designs.index(one[0])):
        values = _Values(part)
        has_effect = bool(np.isfinite(values.of(grid.RAW, POWER, BATCH)).any())
        error = FDP if has_effect else TYPE_ONE
        gold = values.of(grid.RAW, error, BATCH)
        own = [values.of(grid.LABEL, error, formula) for formula in (BATCH, PLAIN)]
        over = [errors - gold for errors in own]
        power = [
            values.of(grid.LABEL, name, BATCH) / values.of(grid.RAW, name, BATCH)
            for name in (POWER, EQUAL)
        ]
        left = [
            values.of(method, "batch effect left, RMS over genes")
            for method in (grid.LABEL, grid.RESIDUAL, grid.TRUE_EFFECT)
        ]
        rho = [
            values.of(method, "Spearman with true counterfactual")
            for method in (grid.LABEL, grid.TRUE_EFFECT)
        ]
        made.append(
            {
                "design": design if has_effect else f"{design}*",
                "runs": len(gold),
                f"errors; less raw's: `{BATCH}`": f"{_mean(own[0], 3)}; {_with_error(over[0])}",
                f"`{PLAIN}`": f"{_mean(own[1], 3)}; {_with_error(over[1])}",
                "power over raw's": _mean(power[0]),
                "at equal errors": _mean(power[1]),
                "slope left": _mean(values.of(grid.LABEL, "batch effect left")),
                "RMS left; `residual=`; true effect": _side_by_side(left),
                "rank correlation; true effect": _side_by_side(rho),
                "warned of": _warned(values) or "nothing",
                f"above {MOST_FALSE:g}": _verdict(over),
            }
        )
    return summary.markdown(pd.DataFrame(made).set_index("design"))


# What is shown of effects without labels: experiment, design, and the formula with the batch.
_UNLABELLED = {
    "base": (grid.EXPERIMENT, "base", BATCH),
    "type-specific effects": (grid.EXPERIMENT, "type-specific effects", BATCH),
    "trajectory": (trajectories.EXPERIMENT, trajectories.DESIGN, BATCH),
    "Kang, spiked": (kang.EXPERIMENT, kang.WITHOUT_LABELS, "~ donor + condition"),
}
_COUNTS = {
    "raw": grid.RAW,
    "global": grid.GLOBAL,
    "local": grid.LOCAL,
    "label": grid.LABEL,
    "cell": "quantile, cell",
}


def without_labels(rows: pd.DataFrame) -> str:
    """Return a row for each design and effect: what is left, errors, and power."""
    made = []
    for name, (experiment, design, with_batch) in _UNLABELLED.items():
        part = rows[(rows["experiment"] == experiment) & (rows["design"] == design)]
        if part.empty:
            continue
        # Earlier runs of the grid lack the local effect; all methods are shown on the same runs.
        part = _runs_with(part, "method", grid.LOCAL)
        values = _Values(part)
        gold = values.of(grid.RAW, FDP, with_batch)
        for shown, method in _COUNTS.items():
            if method not in set(part["method"]):
                continue
            errors = values.of(method, FDP, with_batch)
            made.append(
                {
                    "design": name,
                    "counts": shown,
                    "RMS left": _mean(values.of(method, "batch effect left, RMS over genes")),
                    "slopes left": _mean(values.of(method, "share of the slopes left")),
                    "FDP with the batch; less raw's": f"{_mean(errors, 3)}"
                    + ("" if method == grid.RAW else f"; {_with_error(errors - gold)}"),
                    "power": _mean(values.of(method, POWER, with_batch), 3),
                    f"FDP `{PLAIN}`": _mean(values.of(method, FDP, PLAIN), 3),
                    "power ": _mean(values.of(method, POWER, PLAIN), 3),
                    "runs": len(gold),
                }
            )
    return summary.markdown(pd.DataFrame(made).set_index("design")) if made else "No runs."


def without_labels_in_the_grid(rows: pd.DataFrame) -> str:
    """Return a row for each model of `grid`: global, local and label effects side by side."""
    made = []
    for design in grid.GROUPS:
        part = rows[(rows["experiment"] == grid.EXPERIMENT) & (rows["design"] == design)]
        part = _runs_with(part, "method", grid.LOCAL)
        if part.empty:
            continue
        values = _Values(part)
        has_effect = bool(np.isfinite(values.of(grid.RAW, POWER, BATCH)).any())
        error = FDP if has_effect else TYPE_ONE
        gold = values.of(grid.RAW, error, BATCH)
        methods = (grid.GLOBAL, grid.LOCAL, grid.LABEL)

        left = [values.of(method, "batch effect left, RMS over genes") for method in methods]
        power = [values.of(m, POWER, BATCH) / values.of(grid.RAW, POWER, BATCH) for m in methods]
        over = {
            formula: [values.of(method, error, formula) - gold for method in methods]
            for formula in (BATCH, PLAIN)
        }
        made.append(
            {
                "design": design if has_effect else f"{design}*",
                "runs": len(gold),
                "RMS left": _side_by_side(left),
                f"errors less raw's, `{BATCH}`": _side_by_side(over[BATCH], 3),
                f"`{PLAIN}`": _side_by_side(over[PLAIN], 3),
                "power over raw's": _side_by_side(power) if has_effect else "",
            }
        )
    return summary.markdown(pd.DataFrame(made).set_index("design")) if made else "No runs."


def _runs_with(rows: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """Return the rows of the runs that have some row with this value."""
    return rows[rows["seed"].isin(rows.loc[rows[column] == value, "seed"])]


def with_deseq2(rows: pd.DataFrame) -> str:
    """Return errors and power of both tools on the same counts of `grid`."""
    made = []
    of_grid = rows[rows["experiment"] == grid.EXPERIMENT]
    for design in grid.TESTED_WITH_DESEQ2:
        part = of_grid[of_grid["design"] == design]
        part = _runs_with(part, "tool", "DESeq2")
        for tool in TOOLS if len(part) else ():
            values = _Values(part, tool)
            made += [
                {
                    "design": design,
                    "tool": tool,
                    "counts": shown,
                    f"FDP `{BATCH}`": _mean(values.of(method, FDP, BATCH), 3),
                    "power": _mean(values.of(method, POWER, BATCH), 3),
                    f"FDP `{PLAIN}`": _mean(values.of(method, FDP, PLAIN), 3),
                    "power ": _mean(values.of(method, POWER, PLAIN), 3),
                    "runs": part["seed"].nunique(),
                }
                for shown, method in list(_COUNTS.items())[:4]
                if np.isfinite(values.of(method, FDP, BATCH)).any()
            ]
    return summary.markdown(pd.DataFrame(made).set_index("design")) if made else "No runs."


class _Values:
    """Figures of one design, by run: those of cells, and those of one tool."""

    def __init__(self, rows: pd.DataFrame, tool: str = TOOLS[0]) -> None:
        rows = rows.fillna({"tool": "", "formula": ""})
        rows = rows[rows["tool"].isin(["", tool])]
        keys = ["method", "figure", "formula"]
        self._table = rows.pivot_table(index="seed", columns=keys, values="value", dropna=False)

    def of(self, method: str, figure: str, formula: str = "") -> pd.Series:
        """Return one value per run, NaN for runs without it."""
        key = (method, figure, formula)
        if key in self._table:
            return self._table[key]
        return pd.Series(np.nan, index=self._table.index)

    def warned_of(self) -> dict[str, pd.Series]:
        """Return by subject in which runs label counts came with a warning about it."""
        subjects = (*grid.WARNINGS, grid.OTHER)
        return {name: self.of(grid.LABEL, f"warned of {name}") for name in subjects}


def _warned(values: _Values) -> str:
    """List the subjects of the warnings; with the number of runs, unless it is all."""
    parts = []
    for name, runs in values.warned_of().items():
        times, n_runs = int(runs.sum()), len(runs)
        if times:
            parts.append(name if times == n_runs else f"{name} ({times} of {n_runs})")
    return ", ".join(parts)


def _verdict(differences: Sequence[pd.Series]) -> str:
    return "yes" if max(values.mean() for values in differences) > MOST_FALSE else ""


def _mean(values: pd.Series, digits: int = 2) -> str:
    return "" if values.isna().all() else _short(values.mean(), digits)


def _side_by_side(figures: Sequence[pd.Series], digits: int = 2) -> str:
    return "; ".join(_mean(values, digits) for values in figures)


def _with_error(values: pd.Series) -> str:
    error = values.sem()
    text = _short(values.mean(), 3)
    return text if np.isnan(error) else f"{text} ({_short(error, 3)})"


def _short(value: float, digits: int = 2) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def by_method(experiment: str, design: str, figures: dict[str, str]) -> Callable[..., str]:
    """Return a function that writes a table of means: a row for each method.

    Parameters
    ----------
    figures
        The headings by the names of the figures.
    """

    def write(rows: pd.DataFrame) -> str:
        chosen = rows[(rows["experiment"] == experiment) & (rows["design"] == design)]
        if chosen.empty:
            return "No runs."
        means = chosen.pivot_table(
            index="method", columns="figure", values="value", sort=False, observed=True
        )
        shown = pd.DataFrame(
            {
                heading: [_number(means.loc[m, name], name) for m in means.index]
                for name, heading in figures.items()
                if name in means
            },
            index=pd.Index(means.index, name="counts"),
        )
        n_runs = chosen["seed"].nunique()
        counted = "One run." if n_runs == 1 else f"Means of {n_runs} runs."
        return f"{summary.markdown(shown)}\n\n{counted}"

    return write


def _number(value: float, figure: str) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.0f}" if figure.startswith(_NUMBERS_OF_GENES) else _short(value, 3)


_NUMBERS_OF_GENES = ("genes differential", "markers that raw counts do not have")
_TWINS = {
    "RMSE of log2 pseudobulks": "RMSE",
    "batch effect left": "slope left",
    "Spearman with the twin": "rank correlation with the twin",
    "error of the share of zeros": "error of the share of zeros",
    "genes differential within types, Wilcoxon": "genes that differ between batches",
    "markers shared": "markers",
    "variable genes shared": "variable genes",
    "gene-gene edges shared": "gene-gene edges",
}
_NULL = {
    f"{figure}, {test}": f"{heading}, {test}"
    for figure, heading in (
        ("genes differential between fake batches", "genes between fake batches"),
        ("markers of raw counts that are found", "markers found"),
        ("markers that raw counts do not have", "other markers"),
    )
    for test in published.TESTS
}
_GROUPS = {FDP: "false discoveries", TYPE_ONE: "type-I error", POWER: "power", EQUAL: EQUAL}

# Tables by the name in the comment that precedes each in docs/validity.md.
TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "what goes wrong": what_goes_wrong,
    "without labels": without_labels,
    "without labels, all designs": without_labels_in_the_grid,
    "DESeq2": with_deseq2,
    **{f"twins, {design}": by_method(twins.EXPERIMENT, design, _TWINS) for design in twins.DESIGNS},
    **{
        f"published, {design}": by_method(published.EXPERIMENT, f"null batches: {design}", _NULL)
        for design in null_batches.DESIGNS
    },
    **{
        f"published, {name}": by_method(published.EXPERIMENT, f"simulated groups, {name}", _GROUPS)
        for name in published.MODELS
    },
}
