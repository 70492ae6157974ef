"""Cells with a known truth: donors, types, a condition, batches, and their counterfactual counts.

The counts of a cell and those that it would have had in the target batch come from one uniform per
cell and gene. Their joint distribution is a choice that favours methods that preserve quantiles:
the figures of `measures` therefore include some that do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BATCHES = ("A", "B")
TARGET = "B"
CELL_TYPES = ("T1", "T2", "T3", "T4", "T5")
TYPE_SHARES = (0.30, 0.25, 0.20, 0.15, 0.10)
MEDIAN_DEPTH = {"A": 3000.0, "B": 4500.0}
DEPTH_SD = 0.3
GENE_SD, TYPE_SD, TYPE_GENES = 1.3, 0.8, 0.3
N_FACTORS, FACTOR_SD, FACTOR_GENES = 8, 0.4, 0.1
BATCH_SD, BATCH_TYPE_SD = 0.5, 0.15
DONOR_SD, DONOR_TYPE_SD = 0.15, 0.08
LOG_THETA = (np.log(4.0), 0.7)
DE_SHARE, DE_RANGE, DE_TYPE_RANGE = 0.10, (0.4, 1.0), (0.6, 1.4)
# Crossing effects: share of the genes, and the log effect, whose sign differs from gene to gene.
CROSSING_SHARE, CROSSING = 0.10, 0.5
LOGIT_ZEROS = (-1.5, 1.0)

# Conditions of the donors of each batch. In "nested" there is no technical batch: the model's
# batch is the donor, and each donor has one condition.
DESIGNS = {
    "balanced": {"A": "cccsss", "B": "cccsss"},
    "partly confounded": {"A": "ccccss", "B": "ccssss"},
    "nested": {"B": "ccccccssssss"},
}


@dataclass(frozen=True)
class Scenario:
    """What is simulated. The defaults are those of the balanced design.

    Attributes
    ----------
    conditions
        Conditions of the donors of each batch, one letter each, "c" or "s".
    batches
        Names of all batches; the effects of each are drawn, also if it has no donors.
    median_depth
        Median counts per cell of each batch.
    type_shares
        Shares of the cell types in each batch.
    batch_type_sd
        Standard deviation of the batch's effects of gene and type.
    differential_share
        Share of the genes that the condition changes.
    crosses
        Whether the batch's effect on some genes has the opposite sign in the other condition. The
        condition does not change these genes on average over the target and the other batches.
    zero_inflated
        Whether counts are zero-inflated, with a probability by gene.
    ambient
        Share of the counts of a cell that come from the mean profile of its batch, by batch; none
        if empty.
    """

    conditions: Mapping[str, str] = field(default_factory=lambda: DESIGNS["balanced"])
    batches: Sequence[str] = BATCHES
    median_depth: Mapping[str, float] = field(default_factory=lambda: MEDIAN_DEPTH)
    type_shares: Mapping[str, Sequence[float]] = field(
        default_factory=lambda: dict.fromkeys(BATCHES, TYPE_SHARES)
    )
    batch_type_sd: float = BATCH_TYPE_SD
    differential_share: float = DE_SHARE
    crosses: bool = False
    zero_inflated: bool = False
    ambient: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """What the methods do not see.

    Attributes
    ----------
    counterfactual
        Counts as if every cell came from the target batch, at its depth there, ``(n, n_genes)``.
    mean
        Their means, ``(n, n_genes)``, float32.
    theta
        Inverse dispersions, ``(n_genes,)``.
    batch_effect
        True log ratio of frequencies of the target over each batch, by type, before normalisation:
        ``(n_batches, n_types, n_genes)``.
    differential
        Whether the condition changes a gene, ``(n_genes,)``.
    batches
        Names of the batches, in the order of `batch_effect`.
    """

    counterfactual: np.ndarray
    mean: np.ndarray
    theta: np.ndarray
    batch_effect: np.ndarray
    differential: np.ndarray
    batches: Sequence[str] = BATCHES


def simulate(
    design: str, seed: int, *, cells_per_donor: int = 300, n_genes: int = 2000
) -> tuple[ad.AnnData, Truth]:
    """Simulate the cells of 12 donors.

    Returns
    -------
    AnnData with X = counts (CSR, float32) and obs ``batch``, ``donor``, ``condition`` and
    ``cell_type``; and the truth.
    """
    scenario = Scenario(conditions=DESIGNS[design])
    entropy = [seed, sorted(DESIGNS).index(design)]
    return simulate_scenario(scenario, entropy, cells_per_donor=cells_per_donor, n_genes=n_genes)


def simulate_scenario(
    scenario: Scenario, entropy: Sequence[int], *, cells_per_donor: int, n_genes: int
) -> tuple[ad.AnnData, Truth]:
    """Simulate the cells of a scenario; the result is as that of :func:`simulate`."""
    rng, further = np.random.default_rng(entropy), np.random.default_rng([*entropy, 1])
    donors = donors_of(scenario.conditions)
    obs = draw_cells(rng, donors, cells_per_donor, scenario)
    codes = {name: obs[name].cat.codes.to_numpy() for name in obs if obs[name].dtype == "category"}
    log_rate, differential = _log_rates(
        rng, codes, len(donors), n_genes, scenario.differential_share
    )
    batch_effect = _batch_effects(rng, n_genes, scenario)
    batch = np.array([scenario.batches.index(b) for b in obs["batch"]])
    target = scenario.batches.index(TARGET)
    own = log_rate + batch_effect[batch, codes["cell_type"]]
    there = log_rate + batch_effect[target, codes["cell_type"]]
    if scenario.crosses:
        crossing = _crossing(further, codes["condition"], differential)
        own += np.where(batch == target, -1, 1)[:, None] * crossing
        there -= crossing
    theta = np.exp(rng.normal(*LOG_THETA, n_genes))
    ratio = scenario.median_depth[TARGET] / obs["batch"].map(scenario.median_depth).to_numpy(float)
    uniform = rng.random(own.shape)
    depth = obs.pop("depth").to_numpy()
    own_mean, mean = means_at(own, depth), means_at(there, depth * ratio)
    if scenario.ambient:
        own_mean, mean = _with_ambient(own_mean, mean, obs["batch"].to_numpy(), scenario.ambient)
    effect = batch_effect[target] - batch_effect
    if scenario.crosses or scenario.ambient:
        effect = _realised_effects(own_mean, mean, batch, codes["cell_type"], effect)
    if scenario.zero_inflated:
        zeros = 1 / (1 + np.exp(-further.normal(*LOGIT_ZEROS, n_genes)))
        uniform = np.maximum(uniform - zeros, 0.0) / (1 - zeros)
    truth = Truth(
        counterfactual=negative_binomial_quantile(uniform, mean, theta),
        mean=mean.astype(np.float32),
        theta=theta,
        batch_effect=effect,
        differential=differential,
        batches=tuple(scenario.batches),
    )
    counts = negative_binomial_quantile(uniform, own_mean, theta)
    var = pd.DataFrame(index=[f"gene{g + 1:04d}" for g in range(n_genes)])
    cells = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)
    return cells, truth


def negative_binomial_quantile(
    uniform: np.ndarray, mean: np.ndarray, theta: np.ndarray
) -> np.ndarray:
    """Return the smallest count whose distribution function reaches a uniform, by summation.

    Written independently: scvibridge's quantile functions are what is being tested.
    """
    theta = np.broadcast_to(theta, mean.shape)
    odds = (mean / (mean + theta)).ravel()
    shape, wanted = theta.ravel(), uniform.ravel()
    mass = (1.0 - odds) ** shape
    counts = np.zeros(mass.size, dtype=np.int32)
    place = np.flatnonzero(wanted > mass)
    mass, odds, shape, wanted = (values[place] for values in (mass, odds, shape, wanted))
    total, count = mass.copy(), 0
    while len(place) and count < 100_000:
        mass *= (count + shape) / (count + 1.0) * odds
        total += mass
        count += 1
        # In the far tail the sum stops short of one because of rounding: the remaining mass
        # decides.
        done = (wanted <= total) | ((mass < 1e-17) & (total > 0.5))
        counts[place[done]] = count
        keep = ~done
        if done.any():
            place, mass, odds, shape, wanted, total = (
                values[keep] for values in (place, mass, odds, shape, wanted, total)
            )
    return counts.reshape(mean.shape)


def donors_of(conditions: Mapping[str, str]) -> pd.DataFrame:
    """Return one row for each donor, from the conditions of the donors of each batch."""
    rows = [
        (batch, {"c": "ctrl", "s": "stim"}[letter])
        for batch, letters in conditions.items()
        for letter in letters
    ]
    donors = pd.DataFrame(rows, columns=["batch", "condition"])
    donors["donor"] = [f"D{i + 1:02d}" for i in range(len(donors))]
    return donors


def draw_cells(
    rng: np.random.Generator, donors: pd.DataFrame, per_donor: int, scenario: Scenario
) -> pd.DataFrame:
    """Draw the types and depths of the cells of each donor."""
    obs = donors.loc[np.repeat(np.arange(len(donors)), per_donor)].reset_index(drop=True)
    uniform = rng.random(len(obs))
    obs["cell_type"] = CELL_TYPES[0]
    for batch, shares in scenario.type_shares.items():
        upto = np.cumsum(shares) / np.sum(shares)
        rows = np.flatnonzero(obs["batch"] == batch)
        place = np.searchsorted(upto, uniform[rows], side="right")
        obs.loc[rows, "cell_type"] = np.array(CELL_TYPES)[place]
    median = obs["batch"].map(scenario.median_depth).to_numpy(float)
    obs["depth"] = median * np.exp(rng.normal(0.0, DEPTH_SD, len(obs)))
    obs.index = [f"cell{i + 1:05d}" for i in range(len(obs))]
    for name in ("batch", "condition", "donor"):
        obs[name] = obs[name].astype("category")
    obs["cell_type"] = pd.Categorical(obs["cell_type"], categories=list(CELL_TYPES))
    return obs


def _log_rates(
    rng: np.random.Generator,
    codes: dict[str, np.ndarray],
    n_donors: int,
    n_genes: int,
    differential_share: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return log frequencies before the batch, and which genes the condition changes."""
    n_cells, n_types = len(codes["cell_type"]), len(CELL_TYPES)
    types = sparse_normal(rng, (n_types, n_genes), TYPE_SD, TYPE_GENES)
    factors = sparse_normal(rng, (N_FACTORS, n_genes), FACTOR_SD, FACTOR_GENES)
    scores = rng.normal(size=(n_cells, N_FACTORS))
    donor = rng.normal(0.0, DONOR_SD, (n_donors, 1, n_genes))
    donor = donor + rng.normal(0.0, DONOR_TYPE_SD, (n_donors, n_types, n_genes))
    differential = rng.permutation(n_genes) < differential_share * n_genes
    change = rng.uniform(*DE_RANGE, n_genes) * rng.choice([-1.0, 1.0], n_genes) * differential
    change = change * rng.uniform(*DE_TYPE_RANGE, (n_types, n_genes))
    stimulated = codes["condition"][:, None] == 1
    log_rate = rng.normal(0.0, GENE_SD, n_genes) + types[codes["cell_type"]] + scores @ factors
    log_rate += donor[codes["donor"], codes["cell_type"]]
    log_rate += stimulated * change[codes["cell_type"]]
    return log_rate, differential


def sparse_normal(
    rng: np.random.Generator, shape: tuple[int, int], sd: float, share: float
) -> np.ndarray:
    """Draw normal values, of which a share is not zero."""
    return rng.normal(0.0, sd, shape) * (rng.random(shape) < share)


def _batch_effects(rng: np.random.Generator, n_genes: int, scenario: Scenario) -> np.ndarray:
    """Return log effects by batch, type and gene."""
    n_batches = len(scenario.batches)
    by_type = rng.normal(0.0, scenario.batch_type_sd, (n_batches, len(CELL_TYPES), n_genes))
    return rng.normal(0.0, BATCH_SD, (n_batches, 1, n_genes)) + by_type


def _crossing(
    rng: np.random.Generator, condition: np.ndarray, differential: np.ndarray
) -> np.ndarray:
    """Return effects of the condition outside of the target, ``(n_cells, n_genes)``.

    In the target they have the opposite sign.
    """
    n_genes = len(differential)
    size = rng.choice([-CROSSING, CROSSING], n_genes) * (rng.random(n_genes) < CROSSING_SHARE)
    return np.outer(np.where(condition == 1, 0.5, -0.5), size * ~differential)


def _with_ambient(
    own: np.ndarray, there: np.ndarray, batch: np.ndarray, shares: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Replace a share of each cell's means by the mean profile of its batch, or of the target."""
    profiles = {
        name: (own[batch == name] / own[batch == name].sum(axis=1, keepdims=True)).mean(axis=0)
        for name in shares
    }
    mixed = []
    for mean, names in ((own, batch), (there, np.full(len(batch), TARGET))):
        share = np.array([shares[name] for name in names])[:, None]
        ambient = np.stack([profiles[name] for name in names])
        mixed.append((1 - share) * mean + share * mean.sum(axis=1, keepdims=True) * ambient)
    return mixed[0], mixed[1]


def _realised_effects(
    own: np.ndarray, there: np.ndarray, batch: np.ndarray, cell_type: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """Compute log ratios of the mean frequencies of the cells of each batch and type."""
    effects = drawn.copy()
    for b, t in {*zip(batch.tolist(), cell_type.tolist(), strict=True)}:
        rows = (batch == b) & (cell_type == t)
        sums = [mean[rows].sum(axis=0) for mean in (there, own)]
        effects[b, t] = np.log(sums[0] / sums[0].sum()) - np.log(sums[1] / sums[1].sum())
    return effects


def means_at(log_rate: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the means of cells at their depths, ``(n, n_genes)``."""
    rate = np.exp(log_rate)
    return rate * (depth / rate.sum(axis=1))[:, None]
