"""Two published benchmarks that advise against scVI for tests: their calls, and ours.

Antonsson and Melsted (2025; repository pmelsted/AM_2024, ``scripts/methods.py``) split one batch at
random into two fake ones, train SCVI with its defaults, and test draws of
``posterior_predictive_sample``. Nguyen et al. (2023; repository
noobCoding/Benchmarking-integration-of-differential-expression, ``BEC_scvi.py``) simulate two
batches of two groups with Splatter, train a large SCVI, and test ``get_normalized_expression``.
Neither passes ``transform_batch``, so that each cell keeps its batch. Here the same cells are
tested with their call, with the target batch in that call, and with corrected counts.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

import scvibridge as sb
from benchmarks.validity import cells as real
from benchmarks.validity import measures, null_batches
from benchmarks.validity.markers import rank_sum_z
from benchmarks.validity.neighbours import log_normalised
from benchmarks.validity.pseudobulk import adjust
from benchmarks.validity.rows import Row
from benchmarks.validity.training import trained_by_default
from scvibridge.models.training.trainer import quiet

if TYPE_CHECKING:
    from pathlib import Path

EXPERIMENT = "published benchmarks"
SEEDS = (601, 602, 603)
TARGET = "B"
RAW, OURS = "raw", "quantile, label"
WITHIN = "raw, tested within batches"
DRAWN, EXPRESSION = "posterior_predictive_sample", "get_normalized_expression"
THEIRS, TRANSFORMED = "their call", "with transform_batch"
# As in BEC_scvi.py, except for its 1,000 epochs.
LARGE = {"n_hidden": 1024, "n_latent": 128, "n_layers": 3, "dropout_rate": 0.2}
MODELS: dict[str, dict[str, Any]] = {"default model": {}, "their model": LARGE}
EPOCHS = {"default model": 400, "their model": 100}
# Splatter's defaults for means and dispersion. Cells are shallower than its defaults, and batches
# and groups differ by more.
N_CELLS, N_GENES = 400, 1000
MEAN_SHAPE, MEAN_RATE, LIBRARY, BATCH_FACTOR, GROUP_FACTOR = 0.6, 0.3, (8.5, 0.2), 0.3, (0.4, 0.4)
GROUP_SHARE, BCV, BCV_DF = 0.10, 0.1, 60
SHARES = {"A": 0.7, "B": 0.3}  # of the first group in each batch
SMALL = {"n_cells": 200, "n_genes": 150, "epochs": 3}
ALPHA = 0.05


def parts() -> list[str]:
    """Return the names of the parts, each of which is a separate run."""
    return [*null_batches.DESIGNS, *MODELS]


def run(part: str, seed: int, work: Path, data: Path, *, small: bool = False) -> list[Row]:
    """Run the first benchmark on the cells of a design, or the second with one of the models."""
    if part in MODELS:
        return _simulated_groups(part, seed, work, small=small)
    name, batch = null_batches.DESIGNS[part]
    labels_key = null_batches.LABELS[name]
    cells = null_batches.halves(real.load(data, name), batch, labels_key, seed, small=small)
    cells.obs["label"] = cells.obs[labels_key].astype("category")
    folder = work / f"published-{batch}-{seed}{'-small' * small}"
    epochs = SMALL["epochs"] if small else 400
    model = trained_by_default(cells, folder, batch_key="half", seed=seed, epochs=epochs)
    return [
        Row(EXPERIMENT, f"null batches: {part}", seed, method, figure, value)
        for method, figure, value in _null_figures(model, cells, seed)
    ]


def _simulated_groups(part: str, seed: int, work: Path, *, small: bool) -> list[Row]:
    cells, differential = splatter(seed, small=small)
    folder = work / f"published-splatter-{part.replace(' ', '_')}-{seed}{'-small' * small}"
    epochs = SMALL["epochs"] if small else EPOCHS[part]
    model = trained_by_default(
        cells, folder, batch_key="batch", seed=seed, epochs=epochs, **MODELS[part]
    )
    return [
        Row(EXPERIMENT, f"simulated groups, {part}", seed, method, figure, value)
        for method, values in group_values(model, cells, seed).items()
        for figure, value in group_figures(values, cells, differential, method).items()
    ]


# -- null batches ----------------------------------------------------------------------------------


def _null_figures(model: Any, cells: ad.AnnData, seed: int) -> list[tuple[str, str, float]]:
    """Test fake batches, and two cell types, with the counts of each call."""
    values = null_values(model, cells, seed)
    kinds = cells.obs["label"].value_counts().index[:2]
    of_two = cells.obs["label"].isin(kinds).to_numpy()
    half = (cells.obs["half"] == TARGET).to_numpy()[of_two]
    kind = (cells.obs["label"] == kinds[0]).to_numpy()[of_two]
    found = []
    markers = {test: found_by(values[RAW][of_two], kind, test) for test in TESTS}
    for method, table in values.items():
        for test in TESTS:
            by_kind = found_by(table[of_two], kind, test)
            found += [
                (
                    method,
                    f"genes differential between fake batches, {test}",
                    float(found_by(table[of_two], half, test).sum()),
                ),
                (
                    method,
                    f"markers of raw counts that are found, {test}",
                    float((by_kind & markers[test]).sum() / max(markers[test].sum(), 1)),
                ),
                (
                    method,
                    f"markers that raw counts do not have, {test}",
                    float((by_kind & ~markers[test]).sum()),
                ),
            ]
    return found


def null_values(model: Any, cells: ad.AnnData, seed: int) -> dict[str, np.ndarray]:
    """Return logs of the counts of each call, ``(n_cells, n_genes)``."""
    drawn = {
        THEIRS: _drawn(model, seed, None),
        TRANSFORMED: _drawn(model, seed, TARGET),
    }
    ours = _corrected(model, seed, "label")
    return {
        RAW: log_normalised(sp.csr_matrix(cells.X)),
        # As in the benchmark: log2, without normalisation.
        **{f"{DRAWN}, {call}": np.log2(counts.toarray() + 1) for call, counts in drawn.items()},
        OURS: log_normalised(ours),
    }


def _drawn(model: Any, seed: int, target: str | None) -> sp.csr_matrix:
    import scvi

    scvi.settings.seed = seed
    with quiet():
        drawn = model.posterior_predictive_sample(n_samples=1, transform_batch=target)
    return drawn.to_scipy_sparse().tocsr()


def _corrected(model: Any, seed: int, labels_key: str | None, **more: Any) -> sp.csr_matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = sb.corrected_counts(
            model,
            transform_batch=TARGET,
            labels_key=labels_key,
            seed=seed,
            progress=False,
            **more,
        )
    return sp.csr_matrix(made.X)


TESTS = ("hurdle", "Wilcoxon")


def found_by(values: np.ndarray, group: np.ndarray, test: str) -> np.ndarray:
    """Return which genes differ between two groups of cells (Bonferroni, .05).

    Parameters
    ----------
    values
        Logs of counts, ``(n_cells, n_genes)``.
    group
        Boolean, one per cell.
    test
        "hurdle", the likelihood-ratio test of MAST's model without its priors, or "Wilcoxon".
    """
    p = hurdle(values, group) if test == "hurdle" else wilcoxon(values, group)
    return np.asarray(p * len(p) < ALPHA)


def wilcoxon(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Compute p-values of the rank-sum test, ``(n_genes,)``."""
    return np.asarray(2 * stats.norm.sf(np.abs(rank_sum_z(values, group.astype(int))[0])))


def hurdle(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Compute p-values of the hurdle model, ``(n_genes,)``.

    Logistic regression of whether a value is positive and linear regression of the positive values
    on the group: the likelihood ratios are added, as are their degrees of freedom (Finak et al.,
    Genome Biology 16, 2015). MAST's priors for both parts are left out.
    """
    positive = values > 0
    statistic, freedom = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    seen = [positive[group].sum(axis=0), positive[~group].sum(axis=0)]
    sizes = [group.sum(), (~group).sum()]
    apart = sum(n * _entropy(k / n) for k, n in zip(seen, sizes, strict=True))
    statistic += 2 * (sum(sizes) * _entropy(sum(seen) / sum(sizes)) - apart)
    freedom += (sum(seen) > 0) & (sum(seen) < sum(sizes))
    within = sum(_squares(values[rows], positive[rows]) for rows in (group, ~group))
    total = _squares(values, positive)
    usable = (np.minimum(*seen) > 1) & (within > 1e-12 * np.maximum(total, 1e-300))
    ratio = np.where(usable, total / np.where(usable, within, 1.0), 1.0)
    statistic += sum(seen) * np.log(ratio)
    freedom += usable
    return np.where(freedom > 0, stats.chi2.sf(statistic, np.maximum(freedom, 1)), 1.0)


def _entropy(share: np.ndarray) -> np.ndarray:
    from scipy.special import entr

    return np.asarray(entr(share) + entr(1 - share))


def _squares(values: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return sums of squared deviations of the positive values from their mean, by gene."""
    n = np.maximum(positive.sum(axis=0), 1)
    mean = np.where(positive, values, 0.0).sum(axis=0) / n
    return np.asarray((np.where(positive, values - mean, 0.0) ** 2).sum(axis=0))


# -- simulated groups ------------------------------------------------------------------------------


def splatter(seed: int, *, small: bool = False) -> tuple[ad.AnnData, np.ndarray]:
    """Simulate two batches of two groups as Splatter does, and return which genes differ.

    Gamma means, log-normal library sizes, log-normal factors of batches and of the genes that
    differ, a biological variation that grows at low means, and Poisson counts. The first group has
    a larger share in batch A.
    """
    rng = np.random.default_rng([seed, 4])
    n_cells, n_genes = (SMALL["n_cells"], SMALL["n_genes"]) if small else (N_CELLS, N_GENES)
    batch = np.repeat(list(SHARES), n_cells // 2)
    first = rng.random(n_cells) < np.array([SHARES[name] for name in batch])
    base = rng.gamma(MEAN_SHAPE, 1 / MEAN_RATE, n_genes)
    of_batch = {name: np.exp(rng.normal(0.0, BATCH_FACTOR, n_genes)) for name in SHARES}
    differential = rng.random(n_genes) < GROUP_SHARE
    factor = np.exp(rng.normal(*GROUP_FACTOR, n_genes) * rng.choice([-1, 1], n_genes))
    rate = base * np.stack([of_batch[name] for name in batch])
    rate *= np.where(first[:, None] & differential, factor, 1.0)
    mean = rate / rate.sum(axis=1, keepdims=True)
    mean *= np.exp(rng.normal(*LIBRARY, n_cells))[:, None]
    variation = (BCV + 1 / np.sqrt(mean + 1e-9)) * np.sqrt(BCV_DF / rng.chisquare(BCV_DF, n_genes))
    shape = 1 / np.minimum(variation, 1e3) ** 2
    counts = rng.poisson(rng.gamma(shape, mean / shape))
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(batch),
            "group": pd.Categorical(np.where(first, "1", "2")),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    seen = counts.sum(axis=0) > 0
    var = pd.DataFrame(index=[f"gene{g}" for g in np.flatnonzero(seen)])
    cells = ad.AnnData(sp.csr_matrix(counts[:, seen], dtype=np.float32), obs=obs, var=var)
    return cells, differential[seen]


def group_values(model: Any, cells: ad.AnnData, seed: int) -> dict[str, np.ndarray]:
    """Return logs of the values of each call, ``(n_cells, n_genes)``."""
    with quiet():
        expression = {
            THEIRS: model.get_normalized_expression(return_numpy=True),
            TRANSFORMED: model.get_normalized_expression(transform_batch=TARGET, return_numpy=True),
        }
    raw = log_normalised(sp.csr_matrix(cells.X))
    return {
        RAW: raw,
        WITHIN: raw,
        **{f"{EXPRESSION}, {call}": np.log1p(1e4 * x) for call, x in expression.items()},
        "quantile, global": log_normalised(
            _corrected(model, seed, None, condition_key="group", allow_confounded=True)
        ),
    }


def group_figures(
    values: np.ndarray, cells: ad.AnnData, differential: np.ndarray, method: str
) -> dict[str, float]:
    """Test the groups by Wilcoxon, cell by cell, and compare with the truth.

    Raw counts are also tested within each batch: the z scores are added and weighted by the root
    of the batch's size (Stouffer).
    """
    group = (cells.obs["group"] == "1").to_numpy()
    batches = cells.obs["batch"].to_numpy() if method == WITHIN else np.full(cells.n_obs, "all")
    z = 0.0
    for name in np.unique(batches):
        rows = batches == name
        weight = np.sqrt(rows.sum() / cells.n_obs)
        z = z + weight * rank_sum_z(values[rows], group[rows].astype(int))[1]
    p = 2 * stats.norm.sf(np.abs(z))
    return measures.test_figures(p, adjust(p), differential)
