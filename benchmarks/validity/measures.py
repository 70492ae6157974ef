"""Figures that compare counts with the truth of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from benchmarks.validity.neighbours import log_normalised

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.validity.simulation import Truth

MIN_CELLS = 30
# Genes with fewer counts per cell say nothing about single cells, or about a type.
MIN_MEAN_CELL, MIN_MEAN_TYPE = 0.5, 0.1
CORRELATED_GENES = 200
EQUAL_ERRORS = "power at a true FDP of .05"


@dataclass(frozen=True)
class Changed:
    """The cells that a correction changes (those outside the target), with their truth.

    Attributes
    ----------
    obs
        Their table.
    raw
        Their observed counts, ``(n, n_genes)``.
    counterfactual, mean, theta
        What they would have been: see `simulation.Truth`.
    independent
        Counts with the same distribution as `counterfactual`, independent of the observed ones.
    """

    obs: pd.DataFrame
    raw: np.ndarray
    counterfactual: np.ndarray
    mean: np.ndarray
    theta: np.ndarray
    independent: np.ndarray

    @staticmethod
    def of(obs: pd.DataFrame, raw: np.ndarray, truth: Truth, rows: np.ndarray) -> Changed:
        """Select some rows of the cells."""
        rng = np.random.default_rng(0)
        mean = truth.mean[rows].astype(float)
        independent = rng.poisson(rng.gamma(truth.theta, mean / truth.theta))
        cf = truth.counterfactual[rows]
        return Changed(obs.iloc[rows], raw[rows], cf, mean, truth.theta, independent)

    @cached_property
    def types(self) -> list[np.ndarray]:
        """Return positions of the cells of each type that has enough."""
        codes = self.obs["cell_type"].cat.codes.to_numpy()
        groups = [np.flatnonzero(codes == code) for code in np.unique(codes)]
        return [group for group in groups if len(group) >= MIN_CELLS]


def cell_figures(counts: np.ndarray, cells: Changed) -> dict[str, float]:
    """Compute figures of the counts of the changed cells, ``(n, n_genes)``.

    Only the first two depend on the uniform that observed and counterfactual counts share.
    """
    return {
        "Spearman with true counterfactual": spearman(counts, cells.counterfactual, cells),
        "Spearman with raw": spearman(counts, cells.raw, cells),
        "correlation with true rate": _rate_correlation(counts, cells),
        **_moments(counts, cells),
        "gene-gene correlation error": _correlation_error(counts, cells),
        "donor variance ratio": donor_variance(counts, cells),
    }


def spearman(a: np.ndarray, b: np.ndarray, cells: Changed) -> float:
    """Compute the mean over genes and types of the rank correlation over cells."""
    found = []
    for rows in cells.types:
        genes = np.flatnonzero(cells.counterfactual[rows].mean(axis=0) >= MIN_MEAN_CELL)
        ranks = [stats.rankdata(m[np.ix_(rows, genes)], axis=0) for m in (a, b)]
        found.append(_column_correlation(*ranks))
    return float(np.nanmean(np.concatenate(found)))


def _column_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)))


def _rate_correlation(counts: np.ndarray, cells: Changed) -> float:
    """Compute the mean over genes of the correlation with the log true frequency, within types."""
    found = []
    for rows in cells.types:
        genes = np.flatnonzero(cells.mean[rows].mean(axis=0) >= MIN_MEAN_CELL)
        rate = cells.mean[rows] / cells.mean[rows].sum(axis=1, keepdims=True)
        found.append(
            _column_correlation(log_normalised(counts[rows])[:, genes], np.log(rate[:, genes]))
        )
    return float(np.nanmean(np.concatenate(found)))


def _moments(counts: np.ndarray, cells: Changed) -> dict[str, float]:
    """Compute root mean squares, over genes and types, of errors in mean, variance and zeros."""
    errors: dict[str, list[np.ndarray]] = {"mean": [], "variance": [], "zero": []}
    for rows in cells.types:
        mean, x = cells.mean[rows], counts[rows]
        genes = mean.mean(axis=0) >= MIN_MEAN_TYPE
        mean, x, theta = mean[:, genes], x[:, genes], cells.theta[genes]
        expected = mean.mean(axis=0)
        # A gene without any counts left counts as one count.
        errors["mean"].append(np.log(np.maximum(x.mean(axis=0), 1 / len(rows)) / expected))
        variance = mean.var(axis=0) + (mean + mean**2 / theta).mean(axis=0)
        own = np.maximum(x.var(axis=0, ddof=1), 1 / len(rows))
        errors["variance"].append(np.log(own / variance))
        zeros = ((theta / (theta + mean)) ** theta).mean(axis=0)
        errors["zero"].append((x == 0).mean(axis=0) - zeros)
    names = {
        "mean": "error of log mean",
        "variance": "error of log variance",
        "zero": "error of zero fraction",
    }
    return {
        names[key]: float(np.sqrt(np.mean(np.concatenate(values) ** 2)))
        for key, values in errors.items()
    }


def _correlation_error(counts: np.ndarray, cells: Changed) -> float:
    """Compute the root mean square difference of gene-gene correlations in the largest type."""
    rows = max(cells.types, key=len)
    genes = np.argsort(-cells.mean[rows].mean(axis=0))[:CORRELATED_GENES]
    upper = np.triu_indices(len(genes), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mine, true = (
            np.nan_to_num(np.corrcoef(log_normalised(m[rows])[:, genes].T))[upper]
            for m in (counts, cells.independent)
        )
    return float(np.sqrt(np.mean((mine - true) ** 2)))


def donor_variance(counts: np.ndarray, cells: Changed) -> float:
    """Compute variance between donors of log pseudobulks, within groups, over the truth's."""
    own, true = 0.0, 0.0
    for rows in cells.types:
        obs = cells.obs.iloc[rows]
        genes = cells.mean[rows].mean(axis=0) >= MIN_MEAN_CELL
        for _, group in obs.groupby("condition", observed=True):
            place = rows[obs.index.get_indexer(group.index)]
            donor = group["donor"].astype(str).to_numpy()
            for matrix, weight in ((counts, 1), (cells.independent, 0)):
                bulk = np.stack([matrix[place[donor == d]].sum(axis=0) for d in np.unique(donor)])
                bulk = bulk[:, genes]
                log = np.log((bulk + 0.5) / bulk.sum(axis=1, keepdims=True))
                variance = float(log.var(axis=0, ddof=1).mean()) if len(bulk) > 1 else 0.0
                own, true = own + weight * variance, true + (1 - weight) * variance
    return own / true if true else float("nan")


@dataclass(frozen=True)
class Left:
    """The remaining batch effect.

    Attributes
    ----------
    slope
        Slope of the remaining effect on the original one: 1 for raw counts, 0 if it is gone, below
        0 if too much was removed. Errors that differ in sign from gene to gene cancel.
    size
        Root mean square over genes of the log ratios between batches, in which nothing cancels. It
        includes noise of the counts and donors.
    """

    slope: float
    size: float


def batch_effect_left(
    counts: np.ndarray, obs: pd.DataFrame, home: np.ndarray, truth: Truth
) -> Left:
    """Compute the batch effect left within type and condition; NaN if nothing can be compared."""
    x, y = [], []
    genes = truth.mean.mean(axis=0) >= MIN_MEAN_TYPE
    for (batch, condition, cell_type), group in obs[~home].groupby(
        ["batch", "condition", "cell_type"], observed=True
    ):
        rows = obs.index.get_indexer(group.index)
        others = np.flatnonzero(
            home
            & (obs["condition"] == condition).to_numpy()
            & (obs["cell_type"] == cell_type).to_numpy()
        )
        if min(len(rows), len(others)) < MIN_CELLS:
            continue
        bulk = [counts[place][:, genes].sum(axis=0) + 0.5 for place in (rows, others)]
        log = [np.log(b / b.sum()) for b in bulk]
        code = obs["cell_type"].cat.categories.get_loc(cell_type)
        y.append(log[1] - log[0])
        x.append(truth.batch_effect[truth.batches.index(str(batch)), code][genes])
    if not x or not np.ptp(np.concatenate(x)):
        return Left(float("nan"), float("nan"))
    there, left = np.concatenate(x), np.concatenate(y)
    return Left(
        float(stats.linregress(there, left).slope), float(np.sqrt(np.mean(np.square(left))))
    )


def left_figures(left: Left, raw: Left) -> dict[str, float]:
    """Return figures of the remaining batch effect, named alike in all designs."""
    return {
        "batch effect left": left.slope,
        "batch effect left, RMS over genes": left.size / raw.size,
    }


def test_figures(p: np.ndarray, adjusted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Compute type-I error at .05, and false discovery proportion and power at adjusted .05.

    The power at equal errors is that of the longest list of genes by p-value in which a share of
    at most .05 is false. It compares tests that are liberal or conservative to different degrees.
    Power is NaN if the condition changes no gene.
    """
    found = adjusted < 0.05
    has_power = true.any()
    return {
        "type-I error": float(np.mean(np.where(np.isnan(p), 1.0, p)[~true] < 0.05)),
        "false discovery proportion": float(np.sum(found & ~true) / max(found.sum(), 1)),
        "power": float(np.mean(found[true])) if has_power else float("nan"),
        EQUAL_ERRORS: _power_at_equal_errors(p, true) if has_power else float("nan"),
    }


def _power_at_equal_errors(p: np.ndarray, true: np.ndarray) -> float:
    # Of genes with equal p-values, the false ones come first: ties cannot add power.
    order = np.lexsort([true, np.where(np.isnan(p), 1.0, p)])
    n_true = np.cumsum(true[order])
    length = np.arange(1, len(order) + 1)
    allowed = (length - n_true) <= 0.05 * length
    return float(n_true[allowed].max(initial=0) / true.sum())
