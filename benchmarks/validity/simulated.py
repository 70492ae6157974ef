"""The experiment on simulated cells: every method compared with the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from benchmarks.validity import measures
from benchmarks.validity.methods import METHODS, PSEUDOBULK_METHODS, SLOW_METHODS, Case
from benchmarks.validity.peers import can_correct
from benchmarks.validity.pseudobulk import Job, Pseudobulk, adjust, aggregate, test_all
from benchmarks.validity.rows import Row
from benchmarks.validity.simulation import DESIGNS, TARGET, simulate
from benchmarks.validity.training import EPOCHS, trained

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from anndata import AnnData

    from benchmarks.validity.simulation import Truth

EXPERIMENT = "simulation"
SEEDS = {"balanced": 20, "partly confounded": 10, "nested": 5}
# Runs whose counts are also tested by DESeq2, and those of the methods that take minutes.
DESEQ2_SEEDS, SLOW_SEEDS = 2, 1
TRUTH = "counterfactual (truth)"
SMALL = {"cells_per_donor": 40, "n_genes": 150}
FORMULAS = {
    "balanced": ("~ condition", "~ batch + condition"),
    "partly confounded": ("~ condition", "~ batch + condition"),
    "nested": ("~ condition",),
}
# A gene is tested if it has this many raw counts in as many samples as a condition has.
MIN_COUNT = 10


def prepare(design: str, seed: int, work: Path, *, small: bool = False) -> tuple[Case, Truth]:
    """Simulate cells and train a model on them (or load the one stored in `work`)."""
    cells, truth = simulate(design, seed, **(SMALL if small else {}))
    key = "donor" if design == "nested" else "batch"
    folder = work / f"simulation-{design.replace(' ', '_')}-{seed}{'-small' * small}"
    model = trained(cells, folder, batch_key=key, seed=seed, epochs=5 if small else EPOCHS)
    target = "D01" if design == "nested" else TARGET
    return Case(cells, model, target, batch_key=key, seed=seed), truth


def run(
    design: str,
    seed: int,
    work: Path,
    *,
    small: bool = False,
    methods: Sequence[str] | None = None,
) -> list[Row]:
    """Compare the methods on one simulation.

    Parameters
    ----------
    design
        One of `simulation.DESIGNS`.
    seed
        Number of the run.
    work
        Folder of the models.
    small
        Use a few cells and genes, to test the code.
    methods
        Names of methods; all for this seed if None.
    """
    if design not in DESIGNS:
        raise ValueError(f"design must be one of {list(DESIGNS)}, got {design!r}")
    case, truth = prepare(design, seed, work, small=small)
    # ComBat-seq refuses a condition that is nested in the batch.
    slow = seed <= SLOW_SEEDS and not small and design != "nested"
    made = {**METHODS, **(SLOW_METHODS if slow else {})}
    chosen = list(made) if methods is None else [name for name in methods if name in made]
    counts = {name: made[name](case) for name in chosen}
    counts[TRUTH] = sp.csr_matrix(
        np.where(case.at_home()[:, None], case.counts.toarray(), truth.counterfactual)
    )
    rows = _cell_rows(design, seed, case, truth, counts)
    tools = ("edgeR", "DESeq2") if seed <= DESEQ2_SEEDS or small else ("edgeR",)
    peers = [n for n in PSEUDOBULK_METHODS if methods is None or n in methods]
    return rows + test_rows(design, seed, case.cells, truth, counts, peers, tools, EXPERIMENT)


def _cell_rows(
    design: str, seed: int, case: Case, truth: Truth, counts: dict[str, sp.csr_matrix]
) -> list[Row]:
    obs, home = case.cells.obs, case.at_home()
    changed = measures.Changed.of(obs, case.counts.toarray(), truth, np.flatnonzero(~home))
    rows = []
    raw = measures.batch_effect_left(case.counts.toarray(), obs, home, truth)
    for method, matrix in counts.items():
        dense = matrix.toarray()
        figures = measures.cell_figures(dense[~home], changed)
        if design != "nested":
            left = measures.batch_effect_left(dense, obs, home, truth)
            figures |= measures.left_figures(left, raw)
        rows += [Row(EXPERIMENT, design, seed, method, *item) for item in figures.items()]
    return rows


def test_rows(
    design: str,
    seed: int,
    cells: AnnData,
    truth: Truth,
    counts: dict[str, sp.csr_matrix],
    peers: Sequence[str],
    tools: Sequence[str],
    experiment: str,
) -> list[Row]:
    """Test the condition in pseudobulks of donors, type by type."""
    formulas = FORMULAS.get(design, FORMULAS["balanced"])
    types = cells.obs["cell_type"].cat.categories
    raw, tested, of_type = [], {}, []
    for cell_type in types:
        mask = (cells.obs["cell_type"] == cell_type).to_numpy()
        whole = _bulk(cells, sp.csr_matrix(cells.X), mask)
        genes = tested[cell_type] = _tested_genes(whole)
        raw.append(Pseudobulk(whole.counts[:, genes], whole.samples))
        bulks = {name: _bulk(cells, matrix, mask) for name, matrix in counts.items()}
        of_type.append(
            {name: Pseudobulk(b.counts[:, genes], b.samples) for name, b in bulks.items()}
        )
    # Donors of one batch: the other packages have nothing to correct there.
    for name in peers if design != "nested" else ():
        for bulks, bulk in zip(of_type, _corrected(raw, name), strict=True):
            bulks[name] = bulk
    found = test_all(
        [
            Job((name, tool, formula, cell_type), bulk, tool, formula)
            for cell_type, bulks in zip(types, of_type, strict=True)
            for name, bulk in bulks.items()
            for formula in formulas
            for tool in tools
        ]
    )
    return list(_summarised(experiment, design, seed, found, tested, truth))


def _bulk(cells: AnnData, counts: sp.csr_matrix, mask: np.ndarray) -> Pseudobulk:
    return aggregate(counts, cells.obs, ("donor", "condition", "batch"), mask)


def _tested_genes(raw: Pseudobulk) -> np.ndarray:
    needed = raw.samples["condition"].value_counts().min()
    return np.flatnonzero((raw.counts >= MIN_COUNT).sum(axis=0) >= needed)


def _corrected(raw: Sequence[Pseudobulk], name: str) -> list[Pseudobulk]:
    """Correct those pseudobulks that the method accepts."""
    samples = [bulk.samples[["batch", "condition"]] for bulk in raw]
    accepted = [i for i, table in enumerate(samples) if can_correct(table)]
    corrected = list(raw)
    made = PSEUDOBULK_METHODS[name]([(raw[i].counts, samples[i]) for i in accepted])
    for i, counts in zip(accepted, made, strict=True):
        corrected[i] = Pseudobulk(counts, raw[i].samples)
    return corrected


def _summarised(
    experiment: str,
    design: str,
    seed: int,
    found: dict[tuple[str, ...], np.ndarray],
    tested: dict[str, np.ndarray],
    truth: Truth,
) -> Iterable[Row]:
    """Pool the tests of all types, each adjusted separately."""
    for name, tool, formula in dict.fromkeys(key[:3] for key in found):
        p, adjusted, true = (
            np.concatenate(parts)
            for parts in zip(
                *(
                    (found[key], adjust(found[key]), truth.differential[tested[key[3]]])
                    for key in found
                    if key[:3] == (name, tool, formula)
                ),
                strict=True,
            )
        )
        for figure, value in measures.test_figures(p, adjusted, true).items():
            yield Row(experiment, design, seed, name, figure, value, tool, formula)
