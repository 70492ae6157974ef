"""Spiked truth in real cells: a fake condition in which some genes are thinned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from benchmarks.validity import cells as real
from benchmarks.validity import donors
from benchmarks.validity.methods import Case
from benchmarks.validity.pseudobulk import MIN_CELLS
from benchmarks.validity.training import trained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from benchmarks.validity.donors import TypeTest

SPIKED_SHARE, LOG_FOLD = 0.10, (0.4, 1.0)
Figures = tuple[str, str, float, str, str]


def run(
    controls: AnnData,
    seed: int,
    work: Path,
    *,
    target: str,
    labels_key: str,
    epochs: int,
    methods: Sequence[str] | None,
    slow: bool,
) -> list[Figures]:
    """Spike, train with the donor as batch, correct, and test the fake condition.

    Returns
    -------
    Tuples of method, figure, value, tool and formula.
    """
    cells, spiked = spike(controls, seed, labels_key)
    folder = work / f"spikes-{seed}-{cells.n_vars}-{epochs}"
    model = trained(cells, folder, batch_key="donor", seed=seed, epochs=epochs)
    case = Case(cells, model, target, batch_key="donor", labels_key=labels_key, seed=seed)
    types = donors.testable(cells, labels_key, MIN_CELLS)
    bulks = {"raw": donors.pseudobulks(case.counts, cells, types)}
    for method, counts in real.counts_by_method(case, methods, slow=slow):
        bulks[method] = donors.pseudobulks(counts, cells, types)
    bulks |= donors.corrected_pseudobulks(bulks["raw"], methods)
    p = donors.p_values(bulks)
    return [
        (method, name, value, donors.TOOL, formula)
        for method in bulks
        for formula in donors.FORMULAS
        for name, value in errors(
            {kind: p[(method, kind, formula)] for kind in types}, types, spiked
        ).items()
    ]


def spike(controls: AnnData, seed: int, labels_key: str) -> tuple[AnnData, np.ndarray]:
    """Assign a fake condition to half of each donor's cells, and thin a tenth of the genes.

    A spiked gene's counts are thinned binomially in one half or, with equal chance, in the other,
    by a factor whose log is uniform in `LOG_FOLD`. The conditions have equal numbers of each type.

    Returns
    -------
    Copy of the cells with ``obs["condition"]`` "ctrl" or "stim"; and which genes are spiked.
    """
    rng = np.random.default_rng([seed, 2018])
    cells = controls.copy()
    stimulated = real.random_half(rng, cells.obs[[donors.DONOR, labels_key]])
    cells.obs[donors.CONDITION] = np.where(stimulated, "stim", "ctrl")
    cells.obs[donors.CONDITION] = cells.obs[donors.CONDITION].astype("category")
    spiked = rng.permutation(cells.n_vars) < SPIKED_SHARE * cells.n_vars
    kept = np.exp(-rng.uniform(*LOG_FOLD, cells.n_vars))
    thinned_half = rng.random(cells.n_vars) < 0.5
    counts = sp.coo_matrix(cells.X)
    thin = spiked[counts.col] & (stimulated[counts.row] == thinned_half[counts.col])
    drawn = counts.data.astype(np.int64)
    drawn[thin] = rng.binomial(drawn[thin], kept[counts.col[thin]])
    cells.X = sp.csr_matrix((drawn, (counts.row, counts.col)), cells.shape, dtype=np.float32)
    cells.X.eliminate_zeros()
    return cells, spiked


def errors(
    p: Mapping[str, np.ndarray], types: Mapping[str, TypeTest], spiked: np.ndarray
) -> dict[str, float]:
    """Compute errors of the tests of all types together; genes are adjusted within types."""
    truth = np.concatenate([spiked[types[kind].genes] for kind in p])
    values = np.concatenate(list(p.values()))
    found = np.concatenate([donors.found(v) for v in p.values()])
    return {
        "power at 5 % false discoveries": power_at(values, truth, donors.ALPHA),
        "type-I error": float((values[~truth] < donors.ALPHA).mean()),
        "false discovery proportion": float((found & ~truth).sum() / max(found.sum(), 1)),
        "power": float((found & truth).sum() / max(truth.sum(), 1)),
        "genes found": float(found.sum()),
        "tests": float(len(truth)),
    }


def power_at(p: np.ndarray, truth: np.ndarray, share: float) -> float:
    """Compute the power at the threshold with a given true share of false discoveries.

    This compares tests that are not equally strict: some stay far below the errors that they
    allow.
    """
    order = np.argsort(np.where(np.isnan(p), 1.0, p), kind="stable")
    true = np.cumsum(truth[order])
    allowed = np.flatnonzero(1.0 - true / np.arange(1, len(p) + 1) <= share)
    return float(true[allowed[-1]] / max(truth.sum(), 1)) if len(allowed) else 0.0
