"""Twins by thinning: the counts of real cells in two batches whose effects are known.

The counts of each cell are thinned twice, independently, with the gene factors of a batch A and of
a batch B. The model is trained on the A copies of a random half of the cells and on the B copies of
the other half. The A copies are then corrected to B, and compared with the B copies of the same
cells. The two copies share the molecules that were counted, but no random number, and no
distribution is assumed. The tools that take no batch are compared with the result that they have
when all cells are B copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

import scvibridge as sb
from benchmarks.validity import cells as real
from benchmarks.validity.markers import differential_by_label, markers_kept, top_markers
from benchmarks.validity.methods import METHODS, Case
from benchmarks.validity.neighbours import log_normalised
from benchmarks.validity.pseudobulk import aggregate
from benchmarks.validity.rows import Row
from benchmarks.validity.training import trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

EXPERIMENT = "twins by thinning"
SEEDS = (601, 602, 603)
LABELS = {real.KANG: "cell_type_coarse", real.CHEMISTRIES: "cell_type"}
DESIGNS = {"Kang": (real.KANG, 100), "10x": (real.CHEMISTRIES, 200)}  # with the training epochs
N_GENES, FACTOR_SD = 1500, 0.7
SMALL = {"n_cells": 900, "n_genes": 200, "epochs": 5}
# Counts of a gene in the cells of a type in both copies: below, log ratios are mostly noise.
MIN_COUNTS = 20
MIN_MEAN_CELL, MIN_CELLS = 0.5, 30
N_TOP, N_VARIABLE, N_CORRELATED, EDGE_SHARE = 50, 300, 300, 0.01
OTHER_COPY = "another B copy (best possible)"
_KEYS = {"condition_key": "condition", "sample_key": "sample"}


@dataclass(frozen=True)
class Twins:
    """Two copies of real cells.

    Attributes
    ----------
    cells
        A copies of one half and B copies of the other, in ``obs["half"]``.
    there
        B copies of all cells, ``(n_cells, n_genes)``: those of `cells` for the half in B.
    others
        Further B copies, independent of these.
    log2_effect
        Log2 of the factor of B over that of A, ``(n_genes,)``.
    """

    cells: ad.AnnData
    there: sp.csr_matrix
    others: sp.csr_matrix
    log2_effect: np.ndarray


def run(
    seed: int,
    work: Path,
    data: Path,
    *,
    small: bool = False,
    methods: Sequence[str] | None = None,
) -> list[Row]:
    """Thin, train, correct and compare, for each data set."""
    rows = []
    for design, (name, epochs) in DESIGNS.items():
        twins = make(real.load(data, name), LABELS[name], seed, small=small)
        model = trained(
            twins.cells,
            work / f"twins-{design}-{seed}{'-small' * small}",
            batch_key="half",
            seed=seed,
            epochs=SMALL["epochs"] if small else epochs,
            warmup=epochs // 4,
        )
        case = Case(twins.cells, model, "B", "half", LABELS[name], "condition", "sample", seed)
        rows += [
            Row(EXPERIMENT, design, seed, method, figure, value)
            for method, counts in counts_by_method(case, twins, methods)
            for figure, value in figures(counts, twins, LABELS[name]).items()
        ]
    return rows


def make(cells: ad.AnnData, labels_key: str, seed: int, *, small: bool = False) -> Twins:
    """Thin the counts of cells, and choose which half is seen in which batch.

    The halves have equal numbers of cells of each type, condition and sample: a donor of Kang, or a
    chemistry of the 10x data.
    """
    rng = np.random.default_rng([seed, 18])
    if small:
        cells = cells[np.sort(rng.permutation(cells.n_obs)[: SMALL["n_cells"]])].copy()
    cells = real.most_expressed(cells, SMALL["n_genes"] if small else N_GENES)
    cells.obs["sample"] = cells.obs["batch"].astype("category")
    in_b = real.random_half(rng, cells.obs[[labels_key, "condition", "sample"]])
    cells.obs["half"] = pd.Categorical(np.where(in_b, "B", "A"))
    # Factors are shares of the molecules that are counted, hence at most 1.
    a, b = np.exp(-np.abs(rng.normal(0.0, FACTOR_SD, (2, cells.n_vars))))
    here, there, others = (thinned(rng, cells.X, factor) for factor in (a, b, b))
    mixed = sp.csr_matrix(np.where(in_b[:, None], there.toarray(), here.toarray()), dtype="f4")
    cells.X = mixed
    return Twins(cells, there, others, np.log2(b / a))


def thinned(rng: np.random.Generator, counts: Any, factor: np.ndarray) -> sp.csr_matrix:
    """Keep each count with the probability of its gene."""
    kept = sp.csr_matrix(counts).copy()
    kept.data = rng.binomial(kept.data.astype(np.int64), factor[kept.indices]).astype(np.int32)
    kept.eliminate_zeros()
    return kept


def counts_by_method(
    case: Case, twins: Twins, methods: Sequence[str] | None = None
) -> Iterator[tuple[str, sp.csr_matrix]]:
    """Yield the counts of all cells by each method."""

    def ours(**arguments: Any) -> Callable[[], Any]:
        keys = {**_KEYS, "labels_key": case.labels_key}
        return lambda: case.corrected(**keys, **arguments).X

    def refitted() -> Any:
        return ours(dispersion=sb.calibration(case.model, seed=case.seed, progress=False))()

    known: dict[str, Callable[[], Any]] = {
        name: lambda name=name: METHODS[name](case)  # type: ignore[misc]
        for name in (
            "raw",
            "quantile, label",
            "quantile, global",
            "quantile, cell",
            "stochastic rounding",
            "sample",
            "posterior_predictive_sample",
        )
    }
    known["quantile, label, residual"] = ours(residual="auto")
    known["quantile, label, refitted dispersion"] = refitted
    known[OTHER_COPY] = lambda: np.where(
        case.at_home()[:, None], twins.there.toarray(), twins.others.toarray()
    )
    for name in known if methods is None else [name for name in known if name in methods]:
        yield name, sp.csr_matrix(known[name]())


# -- figures ---------------------------------------------------------------------------------------


def figures(counts: sp.csr_matrix, twins: Twins, labels_key: str) -> dict[str, float]:
    """Compare counts of all cells with the B copies.

    Returns
    -------
    For the half that was seen in A: the root mean square error of log2 pseudobulks of types, the
    slope of these errors on the true effects (1 for raw counts), the mean rank correlation of genes
    with the twins within types, and the error of the share of zeros. For all cells: genes that
    differ between the halves within types (Wilcoxon); and the shares of markers, variable genes and
    gene-gene edges that are also found if all cells are B copies.
    """
    obs = twins.cells.obs
    in_a = (obs["half"] == "A").to_numpy()
    new, true = (m[in_a] for m in (counts, twins.there))
    errors, effects = pseudobulk_errors(new, true, obs[in_a], labels_key, twins.log2_effect)
    before, after = (log_normalised(m) for m in (twins.there, counts))
    label = obs[labels_key]
    return {
        "RMSE of log2 pseudobulks": float(np.sqrt(np.mean(errors**2))),
        "batch effect left": float(-stats.linregress(effects, errors).slope),
        "Spearman with the twin": twin_correlation(new, true, label[in_a]),
        "error of the share of zeros": share_of_zeros(new) - share_of_zeros(true),
        "genes differential within types, Wilcoxon": float(
            differential_by_label(after, ~in_a, label, "Wilcoxon")
        ),
        "markers shared": markers_kept(
            top_markers(before, label, N_TOP), top_markers(after, label, N_TOP)
        ),
        "variable genes shared": overlap(variable_genes(before), variable_genes(after)),
        "gene-gene edges shared": overlap(edges(before), edges(after, like=before)),
    }


def pseudobulk_errors(
    new: sp.csr_matrix, true: sp.csr_matrix, obs: pd.DataFrame, labels_key: str, effect: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of log2 rates of types, and the true log2 effects on the same genes."""
    bulks = [aggregate(m, obs, [labels_key]).counts for m in (new, true)]
    enough = bulks[0] + bulks[1] >= MIN_COUNTS
    logs = [np.log2((b + 0.5) / (b.sum(axis=1, keepdims=True) + 1) * 1e6) for b in bulks]
    return (logs[0] - logs[1])[enough], np.broadcast_to(effect, enough.shape)[enough]


def twin_correlation(new: sp.csr_matrix, true: sp.csr_matrix, label: pd.Series) -> float:
    """Compute the mean over types and genes of the rank correlation over cells."""
    found = []
    for kind in label.unique():
        rows = np.flatnonzero((label == kind).to_numpy())
        if len(rows) < MIN_CELLS:
            continue
        dense = [m[rows].toarray() for m in (new, true)]
        genes = dense[1].mean(axis=0) >= MIN_MEAN_CELL
        a, b = (stats.rankdata(m[:, genes], axis=0) for m in dense)
        a, b = (m - m.mean(axis=0) for m in (a, b))
        norms = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        # A gene without variation says nothing about the cells.
        found.append((a * b).sum(axis=0) / np.where(norms > 0, norms, np.inf))
    return float(np.mean(np.concatenate(found)))


def share_of_zeros(counts: sp.csr_matrix) -> float:
    """Return the share of zeros."""
    return 1 - counts.count_nonzero() / (counts.shape[0] * counts.shape[1])


def variable_genes(values: np.ndarray) -> set[int]:
    """Choose variable genes by scanpy's default method, without the batches."""
    import scanpy as sc

    table = ad.AnnData(values.astype(np.float32))
    table.uns["log1p"] = {"base": None}
    sc.pp.highly_variable_genes(table, n_top_genes=min(N_VARIABLE, values.shape[1] // 4))
    return set(np.flatnonzero(table.var["highly_variable"].to_numpy()).tolist())


def edges(values: np.ndarray, like: np.ndarray | None = None) -> set[int]:
    """Return the pairs of genes with the strongest correlations over cells.

    Pairs are numbered. The genes are those with the highest means in `like`.
    """
    genes = np.argsort(-(values if like is None else like).mean(axis=0), kind="stable")
    genes = np.sort(genes[:N_CORRELATED])
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(np.nan_to_num(np.corrcoef(values[:, genes].T)))
    strength = correlation[np.triu_indices(len(genes), 1)]
    n_edges = max(1, round(EDGE_SHARE * len(strength)))
    return set(np.argsort(-strength, kind="stable")[:n_edges].tolist())


def overlap(expected: set[int], found: set[int]) -> float:
    """Return the share of the expected that was found."""
    return len(expected & found) / len(expected)
