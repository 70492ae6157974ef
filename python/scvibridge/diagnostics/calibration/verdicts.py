"""Assess batches by how well their counts follow the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scvibridge._utils.spelling import spelled
from scvibridge.diagnostics.calibration.goodness_of_fit import (
    LARGE_MISFIT,
    MIN_CELLS,
    MOST_DISPLACEMENT,
    MOST_VARIANCE_RATIO,
    NO_MISFIT,
    SMALL_MISFIT,
    BatchFit,
    Figures,
    judged_fits,
    reference_range,
    test_level,
)

# -- the table ---------------------------------------------------------------------------------


def table(batches: list[Any], fits: list[BatchFit | None]) -> pd.DataFrame:
    """Tabulate the fit of each batch: figures, their ranges in the references, and a verdict."""
    index = pd.Index(spelled(batches), name="batch")
    return pd.DataFrame([_row(fit, test_level(fits)) for fit in fits], index=index)


def overall(fits: list[BatchFit | None]) -> pd.Series:
    """Assess all batches together, by the means of their figures: one row of such a table."""
    judged = judged_fits(fits)
    row = _row(_together(judged) if judged else None, test_level(fits))
    if not judged:
        row["n_cells"] = sum(fit.n_cells for fit in fits if fit is not None)
        row["verdict"] = (
            f"{row['n_cells']} held-out cells, but no batch has the required {MIN_CELLS}: "
            "nothing can be concluded"
        )
    between = _ratio_between(judged)
    if between > MOST_VARIANCE_RATIO and _any_is_clear(judged, fits):
        row["misfit"], row["flagged"] = LARGE_MISFIT, True
        row["verdict"] = (
            "large misfit: the variance of the counts relative to the model differs between "
            f"batches by a factor of {between:.1f}, and so it does after the correction; "
            "dispersion='gene-batch' fits a theta for each batch"
        )
    return pd.Series(row, name="overall")


def _ratio_between(fits: list[BatchFit]) -> float:
    """Return the ratio of the largest to the smallest variance ratio of the batches."""
    ratios = [fit.variance_ratio for fit in fits]
    return max(ratios) / min(ratios) if ratios else 1.0


def _any_is_clear(judged: list[BatchFit], fits: list[BatchFit | None]) -> bool:
    return any(min(fit.p_values()) < test_level(fits) for fit in judged)


def _together(fits: list[BatchFit]) -> BatchFit:
    """Combine the fits of batches, with figures weighted by cells."""
    weights = np.array([fit.n_cells for fit in fits])

    def mean(name: str, parts: list[Figures]) -> float:
        return float(np.average([getattr(part, name) for part in parts], weights=weights))

    def joined(parts: list[Figures]) -> Figures:
        return Figures(*(mean(name, parts) for name in ("ks_rejection", "variance", "distance")))

    references = zip(*(fit.references for fit in fits), strict=True)
    return BatchFit(
        int(weights.sum()),
        sum(fit.n_ks_genes for fit in fits),
        max(fit.n_variance_genes for fit in fits),
        joined([fit.observed for fit in fits]),
        tuple(joined(list(parts)) for parts in references),
        fits[0].mean,
        fits[0].variance,
    )


def _row(fit: BatchFit | None, level: float) -> dict[str, Any]:
    row: dict[str, Any] = {"n_cells": 0 if fit is None else fit.n_cells}
    judged = fit if fit is not None and fit.enough else None
    p_values = (np.nan, np.nan) if judged is None else judged.p_values()
    for name, p_value in zip(("ks_rejection", "variance"), p_values, strict=True):
        low, high = (np.nan, np.nan) if judged is None else judged.range_of(name)
        row[name] = np.nan if judged is None else getattr(judged.observed, name)
        row[f"{name}_reference_low"], row[f"{name}_reference_high"] = low, high
        row[f"{name}_p_value"] = p_value
    row["displacement"] = np.nan if judged is None else judged.displacement
    row["misfit"] = "" if judged is None else _misfit(judged, min(p_values) < level)
    row["flagged"] = row["misfit"] == LARGE_MISFIT
    row["verdict"] = _verdict(row, level)
    return row


def _misfit(fit: BatchFit, is_clear: bool) -> str:
    """Return the size of a misfit, given whether it is clear against the references."""
    if not is_clear:
        return NO_MISFIT
    spread = max(fit.variance_ratio, 1 / fit.variance_ratio)
    is_large = fit.displacement > MOST_DISPLACEMENT or spread > MOST_VARIANCE_RATIO
    return LARGE_MISFIT if is_large else SMALL_MISFIT


def _verdict(row: dict[str, Any], level: float) -> str:
    if row["n_cells"] < MIN_CELLS:
        return (
            f"{row['n_cells']} held-out cells, {MIN_CELLS} are required: nothing can be concluded"
        )
    if row["misfit"] == NO_MISFIT:
        return "the counts follow the model as closely as data sampled from it"
    found = "; ".join(_departures(row, level))
    off = f"quantiles of counts in their distributions are off by {row['displacement']:.2f}"
    return f"{row['misfit']} misfit: {off} ({found})"


def _departures(row: dict[str, Any], level: float) -> list[str]:
    """Describe how the counts depart from the reference data beyond chance."""
    found = []
    if row["variance_p_value"] < level:
        expected = reference_range(row, "variance", ".2f")
        usual = f"variance {row['variance']:.2f}, expected {expected}"
        if row["variance"] < row["variance_reference_low"]:
            found.append(f"counts vary less than the model predicts, theta is too small: {usual}")
        else:
            found.append(
                "counts vary more than the model predicts, theta is too large or the means are "
                f"wrong: {usual}"
            )
    if row["ks_rejection_p_value"] < level:
        found.append(
            f"{row['ks_rejection']:.0%} of the genes rejected at 5%, in data sampled from the "
            f"model {reference_range(row, 'ks_rejection', '.0%')}"
        )
    return found
