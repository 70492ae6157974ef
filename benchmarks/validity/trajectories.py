"""Cells along a trajectory: batch effects that change with pseudotime, with known slopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from benchmarks.validity import measures
from benchmarks.validity import simulation as base
from benchmarks.validity.methods import Case
from benchmarks.validity.rows import Row
from benchmarks.validity.simulated import test_rows
from benchmarks.validity.training import EPOCHS, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

EXPERIMENT, DESIGN = "trajectory", "balanced"
SEEDS = (501, 502, 503)
SMALL = {"cells_per_donor": 40, "n_genes": 150}
# Share of the genes whose batch effect has a slope along pseudotime, and its SD in each batch.
SLOPE_SHARE, SLOPE_SD = 0.3, 0.7
DONOR_SLOPE_SD = 0.16
# Bins of pseudotime by which slopes are estimated: of batches, and of single donors.
N_BINS, DONOR_BINS, MIN_CELLS = 10, 5, 5


@dataclass(frozen=True)
class Trajectory:
    """The truth of a trajectory.

    Attributes
    ----------
    truth
        As in the simulation of types; a type is a fifth of the pseudotime.
    time
        Pseudotime of each cell, between 0 and 1, shape ``(n_cells,)``.
    slope
        Slope of the batch effect along pseudotime, target minus source, shape ``(n_genes,)``.
    """

    truth: base.Truth
    time: np.ndarray
    slope: np.ndarray


def simulate(
    seed: int, *, cells_per_donor: int = 300, n_genes: int = 2000
) -> tuple[ad.AnnData, Trajectory]:
    """Simulate 12 donors in two batches, whose cells lie along a trajectory."""
    rng = np.random.default_rng([seed, 77])
    donors = base.donors_of(base.DESIGNS[DESIGN])
    obs = base.draw_cells(rng, donors, cells_per_donor, base.Scenario())
    codes = {key: obs[key].cat.codes.to_numpy() for key in ("donor", "condition")}
    batch = np.array([base.BATCHES.index(b) for b in obs["batch"]])
    place = np.exp(rng.normal(0.0, 0.15, (len(donors), 2)))
    time = rng.beta(1.2 * place[codes["donor"], 0], 1.2 * place[codes["donor"], 1])
    fifth = np.minimum((pd.Series(time).rank(pct=True).to_numpy() * 5).astype(int), 4)
    obs["cell_type"] = pd.Categorical.from_codes(fifth, list(base.CELL_TYPES))
    centred = time[:, None] - 0.5
    log_rate, differential = _log_rates(rng, codes, time, n_genes)
    constant = rng.normal(0.0, base.BATCH_SD, (2, n_genes))
    has_slope = rng.random(n_genes) < SLOPE_SHARE
    slope = rng.normal(0.0, SLOPE_SD, (2, n_genes)) * has_slope
    target = base.BATCHES.index(base.TARGET)
    own = log_rate + constant[batch] + slope[batch] * centred
    there = log_rate + constant[target] + slope[target] * centred
    theta = np.exp(rng.normal(*base.LOG_THETA, n_genes))
    ratio = base.MEDIAN_DEPTH[base.TARGET] / obs["batch"].map(base.MEDIAN_DEPTH).to_numpy(float)
    uniform, depth = rng.random(own.shape), obs.pop("depth").to_numpy()
    counts = base.negative_binomial_quantile(uniform, base.means_at(own, depth), theta)
    mean = base.means_at(there, depth * ratio)
    middle = np.array([time[fifth == f].mean() for f in range(len(base.CELL_TYPES))])
    effect = constant[:, None] + slope[:, None] * (middle[:, None] - 0.5)
    truth = base.Truth(
        counterfactual=base.negative_binomial_quantile(uniform, mean, theta),
        mean=mean.astype(np.float32),
        theta=theta,
        batch_effect=effect[target] - effect,
        differential=differential,
    )
    var = pd.DataFrame(index=[f"gene{g + 1:04d}" for g in range(n_genes)])
    cells = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)
    return cells, Trajectory(truth, time, slope[target] - slope[1 - target])


def _log_rates(
    rng: np.random.Generator, codes: dict[str, np.ndarray], time: np.ndarray, n_genes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log frequencies before the batch, and which genes the condition changes."""
    along = base.sparse_normal(rng, (3, n_genes), base.TYPE_SD, base.TYPE_GENES)
    waves = [np.cos(np.pi * time), np.sin(np.pi * time), np.cos(2 * np.pi * time) / 2]
    shape = (base.N_FACTORS, n_genes)
    factors = base.sparse_normal(rng, shape, base.FACTOR_SD, base.FACTOR_GENES)
    n_donors, centred = codes["donor"].max() + 1, time[:, None] - 0.5
    log_rate = rng.normal(0.0, base.GENE_SD, n_genes) + np.stack(waves, axis=1) @ along
    log_rate += rng.normal(size=(len(time), base.N_FACTORS)) @ factors
    donor = rng.normal(0.0, base.DONOR_SD, (n_donors, n_genes))
    tilt = rng.normal(0.0, DONOR_SLOPE_SD, (n_donors, n_genes))
    log_rate += donor[codes["donor"]] + tilt[codes["donor"]] * centred
    differential = rng.permutation(n_genes) < base.DE_SHARE * n_genes
    sign = rng.choice([-1.0, 1.0], n_genes)
    change = rng.uniform(*base.DE_RANGE, n_genes) * sign * differential
    tilt = rng.uniform(-0.8, 0.8, n_genes)
    log_rate += (codes["condition"][:, None] == 1) * change * (1 + tilt * centred)
    return log_rate, differential


def run(
    seed: int,
    work: Path,
    data: Path | None = None,  # noqa: ARG001 - as other experiments
    *,
    small: bool = False,
    methods: Sequence[str] | None = None,
) -> list[Row]:
    """Compare effects with and without labels (fifths of the pseudotime) on one trajectory."""
    cells, path = simulate(seed, **(SMALL if small else {}))
    folder = work / f"trajectory-{seed}{'-small' * small}"
    model = trained(cells, folder, batch_key="batch", seed=seed, epochs=5 if small else EPOCHS)
    case = Case(cells, model, base.TARGET, seed=seed)
    made = _methods(case)
    counts = {name: make() for name, make in made.items() if methods is None or name in methods}
    raw = measures.batch_effect_left(case.counts.toarray(), cells.obs, case.at_home(), path.truth)
    rows = []
    for method, matrix in counts.items():
        left = measures.batch_effect_left(matrix.toarray(), cells.obs, case.at_home(), path.truth)
        figures = {
            **measures.left_figures(left, raw),
            **slope_figures(matrix, cells.obs, case.at_home(), path),
        }
        rows += [Row(EXPERIMENT, DESIGN, seed, method, *item) for item in figures.items()]
    return rows + test_rows(DESIGN, seed, cells, path.truth, counts, [], ("edgeR",), EXPERIMENT)


def _methods(case: Case) -> dict[str, Callable[[], sp.csr_matrix]]:
    keys = {"condition_key": case.condition_key, "sample_key": case.sample_key}

    def ours(effect: str, **arguments: str) -> Callable[[], sp.csr_matrix]:
        return lambda: sp.csr_matrix(case.corrected(effect=effect, **keys, **arguments).X)

    return {
        "raw": lambda: case.counts,
        "quantile, label": ours("label", labels_key=case.labels_key),
        "quantile, global": ours("global"),
        "quantile, local": ours("local"),
        "quantile, cell": ours("cell"),
    }


def slope_figures(
    counts: sp.csr_matrix, obs: pd.DataFrame, home: np.ndarray, path: Trajectory
) -> dict[str, float]:
    """Compute which share of the slopes is left, and which genes without a slope get one.

    The second compares the slopes of single donors between batches by a t test, at p < .05.
    """
    genes = path.truth.mean.mean(axis=0) >= measures.MIN_MEAN_TYPE
    edges = np.quantile(path.time, np.linspace(0, 1, N_BINS + 1)[1:-1])
    place = np.searchsorted(edges, path.time, side="right")
    sums = [_binned(counts, place, rows, N_BINS) for rows in (~home, home)]
    logs = [np.log((s + 0.5) / s.sum(axis=1, keepdims=True)) for s in sums]
    middle = np.array([path.time[place == b].mean() for b in range(N_BINS)])
    weights = 1 / np.sum([1 / (s + 0.5) for s in sums], axis=0)
    slope = _slopes(logs[1] - logs[0], middle, weights)
    with_slope = genes & (path.slope != 0)
    true = path.slope[with_slope]
    fifth = place * DONOR_BINS // N_BINS
    of_donors, is_home = [], []
    for donor in obs["donor"].cat.categories:
        rows = (obs["donor"] == donor).to_numpy()
        used = np.flatnonzero(np.bincount(fifth[rows], minlength=DONOR_BINS) >= MIN_CELLS)
        own = _binned(counts, fifth, rows, DONOR_BINS)[used]
        middle = np.array([path.time[rows & (fifth == b)].mean() for b in used])
        log = np.log((own + 0.5) / own.sum(axis=1, keepdims=True))
        of_donors.append(_slopes(log, middle, own + 0.5))
        is_home.append(home[rows][0])
    by_batch = [np.stack(of_donors)[np.array(is_home) == side] for side in (True, False)]
    p = stats.ttest_ind(*by_batch).pvalue
    return {
        "share of the slopes left": float(true @ slope[with_slope] / (true @ true)),
        "genes without a slope that have one": float(np.mean(p[genes & (path.slope == 0)] < 0.05)),
    }


def _binned(counts: sp.csr_matrix, place: np.ndarray, rows: np.ndarray, n_bins: int) -> np.ndarray:
    """Sum the counts of some cells by bin, ``(n_bins, n_genes)``."""
    chosen = np.flatnonzero(rows)
    shape = (n_bins, counts.shape[0])
    members = sp.csr_matrix((np.ones(len(chosen)), (place[chosen], chosen)), shape)
    return np.asarray((members @ counts).toarray(), dtype=float)


def _slopes(values: np.ndarray, time: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return weighted least squares slopes of values, ``(n_bins, n_genes)``, along pseudotime."""
    centred = time[:, None] - (weights * time[:, None]).sum(axis=0) / weights.sum(axis=0)
    return np.asarray((weights * centred * values).sum(axis=0) / (weights * centred**2).sum(axis=0))
