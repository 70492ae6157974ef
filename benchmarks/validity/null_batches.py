"""Null pseudo-batches: one real batch split at random into two; any change is damage.

After Antonsson and Melsted (2025, "Batch correction methods used in single-cell RNA sequencing
analyses are often poorly calibrated").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.validity import cells as real
from benchmarks.validity.markers import (
    differential,
    differential_by_label,
    markers_kept,
    top_markers,
)
from benchmarks.validity.methods import Case
from benchmarks.validity.neighbours import log_normalised
from benchmarks.validity.rows import Row
from benchmarks.validity.training import EPOCHS, trained

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import scipy.sparse as sp
    from anndata import AnnData

EXPERIMENT = "null batches"
SEEDS = tuple(range(1, 11))
# The largest donor of Kang, whose ctrl and stim cells are split in the same way, and the largest
# chemistry.
DONOR, CHEMISTRY = "1015", "V3"
LABELS = {real.KANG: "cell_type_coarse", real.CHEMISTRIES: "cell_type"}
DESIGNS = {
    f"Kang, donor {DONOR}": (real.KANG, DONOR),
    f"10x, {CHEMISTRY}": (real.CHEMISTRIES, CHEMISTRY),
}
N_GENES, N_TOP = 2000, 50
SMALL = {"n_cells": 200, "n_genes": 200, "epochs": 5}


def run(
    seed: int,
    work: Path,
    data: Path,
    *,
    small: bool = False,
    methods: Sequence[str] | None = None,
) -> list[Row]:
    """Split, train, correct and compare, for each design."""
    rows = []
    for design, (name, batch) in DESIGNS.items():
        cells = halves(real.load(data, name), batch, LABELS[name], seed, small=small)
        folder = work / f"null-{batch}-{seed}{'-small' * small}"
        epochs = SMALL["epochs"] if small else EPOCHS
        model = trained(cells, folder, batch_key="half", seed=seed, epochs=epochs)
        case = Case(
            cells,
            model,
            "B",
            batch_key="half",
            labels_key=LABELS[name],
            sample_key="half",
            seed=seed,
        )
        # Slow methods run only once.
        slow = seed == SEEDS[0] and not small
        rows += [
            Row(EXPERIMENT, design, seed, method, figure, value)
            for method, counts in real.counts_by_method(case, methods, slow=slow)
            for figure, value in damage(case, counts).items()
        ]
    return rows


def halves(cells: AnnData, batch: str, labels_key: str, seed: int, *, small: bool) -> AnnData:
    """Select the cells of one batch, and write the half ("A", "B") of each to ``obs["half"]``.

    The halves have equal numbers of each type and condition.
    """
    rng = np.random.default_rng(seed)
    chosen = cells[(cells.obs["batch"] == batch).to_numpy()]
    if small:
        chosen = chosen[np.sort(rng.permutation(chosen.n_obs)[: SMALL["n_cells"]])]
    chosen = real.most_expressed(chosen.copy(), SMALL["n_genes"] if small else N_GENES)
    in_b = real.random_half(rng, chosen.obs[[labels_key, "condition"]])
    chosen.obs["half"] = np.where(in_b, "B", "A")
    chosen.obs["half"] = chosen.obs["half"].astype("category")
    return chosen


def damage(case: Case, counts: sp.csr_matrix) -> dict[str, float]:
    """Compare counts of a case of two halves with the raw ones.

    Shares of counts and the correlation are for the half that is corrected into the other.
    """
    label = case.cells.obs[case.labels_key]
    home = case.at_home()
    raw, new = (c[~home].toarray() for c in (case.counts, counts))
    changed = raw != new
    before, after = log_normalised(case.counts), log_normalised(counts)
    return {
        "nonzero counts changed": float(changed[raw > 0].mean()),
        "counts changed": float(changed.mean()),
        **{
            f"genes differential, {test}": float(differential(after, home, test))
            for test in ("Wilcoxon", "t")
        },
        **{
            f"genes differential within types, {test}": float(
                differential_by_label(after, home, label, test)
            )
            for test in ("Wilcoxon", "t")
        },
        "markers kept": markers_kept(
            top_markers(before, label, N_TOP), top_markers(after, label, N_TOP)
        ),
        "Spearman with raw counts": _rank_correlation(raw, new),
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the mean over cells of Spearman's correlation over genes; 0 for an empty cell."""
    from scipy.stats import rankdata

    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(((a * b).sum(axis=1) / np.where(norms > 0, norms, np.inf)).mean())
