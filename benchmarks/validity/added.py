"""Compare genes added to a model with a model that was trained on all genes.

The most variable genes train a model, and `extend_genes` adds the others. Likelihoods are those of
the added genes, per entry, over the cells that no model was trained on, with a cell's total over
all genes as its depth and z at its posterior mean. Counts of the model's and of the added genes are
tested and compared separately.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import scipy.stats
import torch

import scvibridge as sb
from benchmarks.validity import cells as real
from benchmarks.validity import donors, measures, simulated, spikes
from benchmarks.validity.kang import TARGET as KANG_TARGET
from benchmarks.validity.methods import Case
from benchmarks.validity.pseudobulk import MIN_CELLS
from benchmarks.validity.rows import Row
from benchmarks.validity.simulation import TARGET, Truth, simulate
from benchmarks.validity.training import EPOCHS, trained
from scvibridge._utils.torch_threads import one_thread
from scvibridge.models.extension.head_fit import fit_head
from scvibridge.models.extension.head_parameters import HeadData

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

EXPERIMENT = "added genes"
SEEDS = {"simulation": 10, "kang, spiked": 5, "10x chemistries": 3}
# Number of genes that train the model; for Kang's and 10x's cells, all others in the files are
# added.
OWN = {"simulation": 500, "kang, spiked": 1500, "10x chemistries": 1500}
SMALL = {"n_genes": 150, "own": 60, "epochs": 3}
FULL, EXTENDED = "all genes trained", "extended"
MARGIN = 0.002
DIFFERENCE = "minus all genes trained, of 1,000 entries"
# Bins of genes by their mean count per cell.
EDGES = (0.0, 0.03, 0.1, 0.3, 1.0, np.inf)
QUIET = {"progress": False, "device": "cpu"}


def run(design: str, seed: int, work: Path, data: Path | None, *, small: bool) -> list[Row]:
    """Compare likelihoods, time and counts in one run of a design (one of `SEEDS`)."""
    cells, batch_key, truth = _cells(design, seed, data, small=small)
    n_own = SMALL["own"] if small else OWN[design]
    own = most_variable(cells, n_own)
    models = _models(cells, own, design, seed, work, batch_key, small=small)
    rows = [
        Row(EXPERIMENT, design, seed, method, figure, value)
        for method, figure, value in _likelihoods(models, cells, own, batch_key)
    ]
    rows += [
        Row(EXPERIMENT, design, seed, EXTENDED, "time over training on all genes", models.ratio)
    ]
    if truth is None:
        return rows
    counts = _counts(models, cells, design, seed, batch_key)
    added = np.setdiff1d(np.arange(cells.n_vars), own)
    for name, genes in (("own", own), ("added", added)):
        figures = _simulated_figures if design == "simulation" else _spiked_figures
        rows += figures(f"{design}, {name} genes", seed, cells, counts, truth, genes)
    return rows


def _cells(design: str, seed: int, data: Path | None, *, small: bool) -> tuple[AnnData, str, Any]:
    """Return cells, the model's batch, and what is known of the truth."""
    if design == "simulation":
        cells, truth = simulate("balanced", seed, **(simulated.SMALL if small else {}))
        return cells, "batch", truth
    assert data is not None  # noqa: S101 - the caller's business
    cells = real.load(data, real.CHEMISTRIES if design == "10x chemistries" else real.KANG)
    if design == "10x chemistries":
        return (real.most_expressed(cells, SMALL["n_genes"]) if small else cells), "batch", None
    controls = cells[(cells.obs["condition"] == "ctrl").to_numpy()].copy()
    controls = real.most_expressed(controls, SMALL["n_genes"] if small else controls.n_vars)
    spiked, which = spikes.spike(controls, seed, "cell_type_coarse")
    return spiked, "donor", which


def most_variable(cells: AnnData, n_genes: int) -> np.ndarray:
    """Return positions of the genes whose variance exceeds their mean most, on the log scale."""
    counts = sp.csc_matrix(cells.X, dtype=np.float64)
    mean = np.asarray(counts.mean(axis=0)).ravel()
    variance = np.asarray(counts.multiply(counts).mean(axis=0)).ravel() - mean**2
    score = np.log((variance + 1e-9) / (mean + 1e-9))
    return np.sort(np.argsort(-score, kind="stable")[:n_genes])


@dataclass(frozen=True)
class _Models:
    """A model of all genes, one of the variable genes and its extension, with their times."""

    full: Any
    base: Any
    extended: Any
    ratio: float


def _models(
    cells: AnnData,
    own: np.ndarray,
    design: str,
    seed: int,
    work: Path,
    batch_key: str,
    *,
    small: bool,
) -> _Models:
    """Train and extend, on one thread each; times are processor times."""
    folder = f"added-{design.replace(' ', '_')}-{seed}{'-small' * small}"
    epochs = SMALL["epochs"] if small else EPOCHS
    given = {"batch_key": batch_key, "seed": seed, "epochs": epochs}
    base = trained(cells[:, own].copy(), work / f"{folder}-own", **given)
    stamp = work / f"{folder}-all.seconds"
    start = time.process_time()
    full = trained(cells.copy(), work / f"{folder}-all", **given)
    if not stamp.is_file():
        stamp.write_text(str(time.process_time() - start))
    with one_thread():
        start = time.process_time()
        extended = sb.extend_genes(base, cells, seed=seed, **QUIET)
        taken = time.process_time() - start
    return _Models(full, base, extended, taken / float(stamp.read_text()))


# -- likelihoods of held-out cells -----------------------------------------------------------------


def _likelihoods(
    models: _Models, cells: AnnData, own: np.ndarray, batch_key: str
) -> list[tuple[str, str, float]]:
    judge = np.sort(models.base.validation_indices)
    if not np.array_equal(judge, np.sort(models.full.validation_indices)):
        raise RuntimeError("the two models held out different cells")
    added = np.setdiff1d(np.arange(cells.n_vars), own)
    counts = sp.csr_matrix(cells.X)[judge][:, added].toarray()
    names, total = cells.var_names[added], np.asarray(cells.X.sum(axis=1)).ravel()[judge]
    shares = sb.denoised_expression(
        models.full, indices=judge, gene_list=list(names), library_size=1.0, **QUIET
    ).X
    theta = models.full.module.px_r.detach().exp().numpy().astype(float)[added]
    means = sb.denoised_expression(
        models.extended, adata=cells, indices=judge, gene_list=list(names), **QUIET
    ).X
    latent = sb.denoised_expression(
        models.base, gene_list=list(models.base.adata.var_names[:1]), **QUIET
    ).obsm["X_scvi"]
    nothing = np.zeros((cells.n_obs, 1))
    found = {
        FULL: log_likelihood(counts, shares * total[:, None], theta),
        EXTENDED: log_likelihood(
            counts, means, models.extended.quality["theta"].loc[names].to_numpy()
        ),
        "[1, batch, z]": _regression(models, cells, added, batch_key, latent),
        "[1, batch]": _regression(models, cells, added, batch_key, nothing),
    }
    mean_count = np.asarray(cells.X.mean(axis=0)).ravel()[added]
    return [
        (method, *figure)
        for method, values in found.items()
        for figure in _figures(values, found[FULL], mean_count)
    ]


def _figures(values: np.ndarray, full: np.ndarray, mean: np.ndarray) -> list[tuple[str, float]]:
    """Return means over genes and differences to the full model, over all genes and by bin."""
    difference = 1000 * (values - full)
    half = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    figures = [
        ("held-out log-likelihood of an entry", float(values.mean())),
        (DIFFERENCE, float(difference.mean())),
        ("95 % half-width over genes", float(half)),
        ("share of runs not inferior by 2", float(difference.mean() - half > -1000 * MARGIN)),
    ]
    for low, high in pairwise(EDGES):
        of_bin = (mean >= low) & (mean < high)
        if of_bin.sum() >= 10:
            name = f"of genes of {low:g} to {high:g} counts a cell"
            figures.append((name, float(difference[of_bin].mean())))
    return figures


def log_likelihood(counts: np.ndarray, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Compute the mean log-probability of each gene's counts, with scipy."""
    law = scipy.stats.nbinom.logpmf(counts, theta, theta / (theta + mean))
    return np.asarray(law.mean(axis=0))


def _regression(
    models: _Models, cells: AnnData, added: np.ndarray, batch_key: str, features: np.ndarray
) -> np.ndarray:
    """Compute the likelihood of the added genes under a regression on [1, batch] and features."""
    fit, judge = np.sort(models.base.train_indices), np.sort(models.base.validation_indices)
    counts = sp.csr_matrix(cells.X)[:, added].astype(np.int32)
    features = (features - features[fit].mean(axis=0)) / (features[fit].std(axis=0) + 1e-9)
    total = np.asarray(cells.X.sum(axis=1)).ravel()
    batch = cells.obs[batch_key].astype("category").cat.codes.to_numpy().astype(np.int64)

    def data(rows: np.ndarray) -> HeadData:
        return HeadData(
            torch.as_tensor(features[rows]).float(),
            torch.as_tensor(batch[rows]),
            int(batch.max()) + 1,
            torch.as_tensor(np.log(total[rows])).float(),
            lambda some: counts[rows[some]],
            len(added),
        )

    found = fit_head(data(fit), data(judge), "nb", "gene", 0.01, 40, 0).parameters
    held_out = data(judge)
    mean = found.log_mean(held_out.features, held_out.batch, held_out.log_total).exp()
    assert found.log_theta is not None  # noqa: S101 - of a negative binomial
    theta = found.log_theta.exp()[0].numpy().astype(float)
    return log_likelihood(counts[judge].toarray(), mean.numpy().astype(float), theta)


# -- corrected counts ------------------------------------------------------------------------------


def _counts(
    models: _Models, cells: AnnData, design: str, seed: int, batch_key: str
) -> dict[str, sp.csr_matrix]:
    """Compute corrected counts of all genes, in the gene order of the cells."""
    target = TARGET if design == "simulation" else KANG_TARGET
    labels_key = "cell_type" if design == "simulation" else "cell_type_coarse"
    found = {"raw": sp.csr_matrix(cells.X)}
    for name, model in ((EXTENDED, models.extended), (FULL, models.full)):
        case = Case(cells, model, target, batch_key=batch_key, labels_key=labels_key, seed=seed)
        made = case.corrected(
            adata=cells, labels_key=labels_key, condition_key="condition", sample_key="donor"
        )
        found[name] = sp.csr_matrix(made[:, cells.var_names].X)
    return found


def _simulated_figures(
    design: str,
    seed: int,
    cells: AnnData,
    counts: dict[str, sp.csr_matrix],
    truth: Truth,
    genes: np.ndarray,
) -> list[Row]:
    part = Truth(
        truth.counterfactual[:, genes],
        truth.mean[:, genes],
        truth.theta[genes],
        truth.batch_effect[:, :, genes],
        truth.differential[genes],
    )
    home = (cells.obs["batch"] == TARGET).to_numpy()
    some = {name: matrix[:, genes] for name, matrix in counts.items()}
    left = {
        name: measures.batch_effect_left(matrix.toarray(), cells.obs, home, part)
        for name, matrix in some.items()
    }
    rows = [
        Row(EXPERIMENT, design, seed, name, figure, value)
        for name in some
        for figure, value in measures.left_figures(left[name], left["raw"]).items()
    ]
    part_cells = cells[:, genes].copy()
    return rows + [
        replace(row, design=design)
        for row in simulated.test_rows(
            "balanced", seed, part_cells, part, some, (), ("edgeR",), EXPERIMENT
        )
    ]


def _spiked_figures(
    design: str,
    seed: int,
    cells: AnnData,
    counts: dict[str, sp.csr_matrix],
    spiked: np.ndarray,
    genes: np.ndarray,
) -> list[Row]:
    part = cells[:, genes].copy()
    types = donors.testable(part, "cell_type_coarse", MIN_CELLS)
    bulks = {
        name: donors.pseudobulks(matrix[:, genes], part, types) for name, matrix in counts.items()
    }
    p = donors.p_values(bulks)
    return [
        Row(EXPERIMENT, design, seed, method, name, value, donors.TOOL, formula)
        for method in bulks
        for formula in donors.FORMULAS
        for name, value in spikes.errors(
            {kind: p[(method, kind, formula)] for kind in types}, types, spiked[genes]
        ).items()
    ]
