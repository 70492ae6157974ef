"""Kang's cells, 8 donors with and without interferon: the model's batch is the donor.

Each donor has both conditions, so the condition can be tested with the donor in the design. On raw
counts, this is the standard that corrected counts are compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.validity import cells as real
from benchmarks.validity import donors, spikes
from benchmarks.validity.methods import Case
from benchmarks.validity.neighbours import MIXING, embedding, mixing
from benchmarks.validity.pseudobulk import MIN_CELLS
from benchmarks.validity.rows import Row
from benchmarks.validity.training import EPOCHS, trained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from benchmarks.validity.donors import TypeTest
    from benchmarks.validity.pseudobulk import Pseudobulk

EXPERIMENT = "kang"
# Spikes for all seeds; agreement on the condition for three, because its data are always the same
# and only training and random numbers differ.
SEEDS = tuple(range(1, 21))
AGREEMENT_SEEDS = SEEDS[:3]
# The first ten were used while the shrinkage was developed; the others evaluate it.
SPIKED = {seed: "spiked" if seed <= 10 else "spiked, fresh" for seed in SEEDS}
FRESH = SPIKED[SEEDS[-1]]
# Spikes again, for effects without labels: seeds that no choice was made on.
WITHOUT_LABELS, SEEDS_WITHOUT_LABELS = "spiked, without labels", (21, 22, 23, 24, 25)
METHODS_WITHOUT_LABELS = ("quantile, global", "quantile, local", "quantile, label")
# The donor with most cells.
TARGET = "1015"
# Types of the data's authors and finer ones; many of the latter have fewer than 20 cells per
# donor.
LABELS = {"condition, 9 types": "cell_type_coarse", "condition, 13 types": "cell_type"}
N_GENES = 2000
SMALL = {"n_genes": 150, "epochs": 3}


def run(
    seed: int,
    work: Path,
    data: Path,
    *,
    small: bool = False,
    methods: Sequence[str] | None = None,
) -> list[Row]:
    """Compare the real condition (first seeds) and the spiked one (all seeds)."""
    cells = real.load(data, real.KANG)
    slow = seed == SEEDS[0] and not small
    rows: list[Row] = []
    if seed in AGREEMENT_SEEDS:
        rows += agreement(cells, seed, work, small=small, methods=methods, slow=slow)
    return rows + _spiked(cells, SPIKED[seed], seed, work, small=small, methods=methods, slow=slow)


def run_without_labels(seed: int, work: Path, data: Path, *, small: bool = False) -> list[Row]:
    """Compare effects with and without labels on cells with a spiked condition."""
    cells, methods = real.load(data, real.KANG), METHODS_WITHOUT_LABELS
    return _spiked(cells, WITHOUT_LABELS, seed, work, small=small, methods=methods, slow=False)


def _spiked(
    cells: AnnData,
    design: str,
    seed: int,
    work: Path,
    *,
    small: bool,
    methods: Sequence[str] | None,
    slow: bool,
) -> list[Row]:
    controls = cells[(cells.obs["condition"] == "ctrl").to_numpy()].copy()
    controls = real.most_expressed(controls, SMALL["n_genes"] if small else N_GENES)
    found = spikes.run(
        controls,
        seed,
        work,
        target=TARGET,
        labels_key="cell_type_coarse",
        epochs=SMALL["epochs"] if small else EPOCHS,
        methods=methods,
        slow=slow,
    )
    return [Row(EXPERIMENT, design, seed, *figures) for figures in found]


def agreement(
    cells: AnnData,
    seed: int,
    work: Path,
    *,
    small: bool,
    methods: Sequence[str] | None,
    slow: bool,
) -> list[Row]:
    """Compare condition and donors in the counts of each method with those in the raw counts."""
    cells = real.most_expressed(cells, SMALL["n_genes"] if small else N_GENES)
    folder = work / f"kang-{seed}{'-small' * small}"
    epochs = SMALL["epochs"] if small else EPOCHS
    model = trained(cells, folder, batch_key="donor", seed=seed, epochs=epochs)
    rows: list[Row] = []
    for design, labels_key in list(LABELS.items())[: 1 if small else None]:
        case = Case(cells, model, TARGET, batch_key="donor", labels_key=labels_key, seed=seed)
        types = donors.testable(cells, labels_key, MIN_CELLS)
        bulks: dict[str, dict[str, Pseudobulk]] = {
            "raw": donors.pseudobulks(case.counts, cells, types)
        }
        # Slow methods run only once.
        for method, counts in real.counts_by_method(case, methods, slow=slow and not rows):
            bulks[method] = donors.pseudobulks(counts, cells, types)
            near = mixing(embedding(counts), cells.obs["donor"], cells.obs[labels_key])
            rows.append(
                Row(EXPERIMENT, design, seed, method, _same_donor(MIXING), near.pop(MIXING))
            )
            rows += [Row(EXPERIMENT, design, seed, method, *item) for item in near.items()]
        bulks |= donors.corrected_pseudobulks(bulks["raw"], methods)
        rows += _donors_left(design, seed, bulks)
        rows += _agreement(design, seed, bulks, types)
    return rows


def _same_donor(figure: str) -> str:
    return figure.replace("batch", "donor")


def _donors_left(
    design: str, seed: int, bulks: Mapping[str, Mapping[str, Pseudobulk]]
) -> list[Row]:
    """Return donors' variance over that in raw counts: ratio of the means over genes and types.

    Counting noise is included: it is not zero if the donors are alike.
    """
    variance = {
        method: np.concatenate([donors.donor_variance(bulk) for bulk in by_kind.values()]).mean()
        for method, by_kind in bulks.items()
    }
    name = "donor variance over raw"
    return [
        Row(EXPERIMENT, design, seed, method, name, float(value / variance["raw"]))
        for method, value in variance.items()
    ]


def _agreement(
    design: str,
    seed: int,
    bulks: Mapping[str, Mapping[str, Pseudobulk]],
    types: Mapping[str, TypeTest],
) -> list[Row]:
    p = donors.p_values(bulks)
    gold = {kind: donors.found(p[(donors.GOLD[0], kind, donors.GOLD[1])]) for kind in types}
    change = {
        method: {kind: donors.fold_changes(bulk) for kind, bulk in by_kind.items()}
        for method, by_kind in bulks.items()
    }
    rows: list[Row] = []
    for method in bulks:
        for name, value in _fold_change_figures(change[method], change["raw"], gold).items():
            rows.append(Row(EXPERIMENT, design, seed, method, name, value))
        for formula in donors.FORMULAS:
            found = {kind: donors.found(p[(method, kind, formula)]) for kind in types}
            rows += [
                Row(EXPERIMENT, design, seed, method, name, value, donors.TOOL, formula)
                for name, value in _found_figures(found, gold).items()
            ]
    return rows


def _found_figures(
    found: Mapping[str, np.ndarray], gold: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Compare genes found, over all types, with those found by the standard."""
    ours, theirs = (np.concatenate([x[kind] for kind in gold]) for x in (found, gold))
    return {
        "genes found": float(ours.sum()),
        "gold's genes found": float((ours & theirs).sum() / max(theirs.sum(), 1)),
        "found that gold does not": float((ours & ~theirs).sum() / max(ours.sum(), 1)),
    }


def _fold_change_figures(
    ours: Mapping[str, np.ndarray], raw: Mapping[str, np.ndarray], gold: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Compare log fold changes with raw ones: correlation over all genes, slope over gold's."""
    a, b, chosen = (np.concatenate([x[kind] for kind in gold]) for x in (raw, ours, gold))
    slope = (a[chosen] @ b[chosen]) / (a[chosen] @ a[chosen]) if chosen.any() else np.nan
    return {
        "correlation of log fold changes": float(np.corrcoef(a, b)[0, 1]),
        "slope of log fold changes": float(slope),
    }
