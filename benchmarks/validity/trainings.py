"""How many discoveries change with the seed of the training, and with `seed=`.

The same cells are corrected by models that were trained with different seeds. Differential
expression between conditions is tested in the corrected counts of each. Raw counts of which a tenth
was removed at random show how many discoveries change by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from benchmarks.validity import cells as real
from benchmarks.validity import donors
from benchmarks.validity.kang import TARGET as KANG_TARGET
from benchmarks.validity.methods import Case
from benchmarks.validity.pseudobulk import MIN_CELLS, Job, Pseudobulk, adjust, aggregate, test_all
from benchmarks.validity.rows import Row
from benchmarks.validity.simulation import TARGET, simulate
from benchmarks.validity.training import EPOCHS, trained
from scvibridge.correction import effects
from scvibridge.correction.group_estimates import GroupedEffect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from anndata import AnnData

    from scvibridge.correction.basis import Basis

EXPERIMENT = "between trainings"
# Cells of these runs of the simulation; Kang's cells are the same in each run, so they are used
# once.
SEEDS = (701, 702)
SIZE = {"cells_per_donor": 150, "n_genes": 1000}
SMALL = {"cells_per_donor": 40, "n_genes": 150}
KANG_GENES = 1000
# Means over the effects of three models are compared with those of three others.
N_AVERAGED = 3
KEPT_SHARE = 0.9
ALPHA = 0.05
CHANGED = "share of the discoveries that differ"


@dataclass(frozen=True)
class Data:
    """Cells, and how the condition is tested in them.

    Attributes
    ----------
    name
        Name of the design in the table.
    cells
        AnnData with counts in X.
    batch_key, labels_key, target, formula
        Columns, the target batch, and the design of the test.
    samples
        Columns of ``obs`` that define the pseudobulks.
    genes
        Positions of the genes that are tested in each type.
    kinds
        Which cells are tested for each type.
    """

    name: str
    cells: AnnData
    batch_key: str
    labels_key: str
    target: str
    formula: str
    samples: tuple[str, ...]
    genes: Mapping[str, np.ndarray]
    kinds: Mapping[str, np.ndarray]


def run(seed: int, work: Path, data: Path | None, *, small: bool = False) -> list[Row]:
    """Compare discoveries between trainings on one simulation, and on Kang's cells in one run."""
    rows = _compare(_simulated(seed, small=small), seed, work, small=small)
    if data is not None and seed == SEEDS[0]:
        rows += _compare(_kang(data, small=small), seed, work, small=small)
    return rows


def _simulated(seed: int, *, small: bool) -> Data:
    cells, _ = simulate("balanced", seed, **(SMALL if small else SIZE))
    samples = ("donor", "condition", "batch")
    genes, kinds = {}, {}
    for kind in cells.obs["cell_type"].cat.categories:
        kinds[kind] = (cells.obs["cell_type"] == kind).to_numpy()
        bulk = aggregate(cells.X, cells.obs, samples, kinds[kind])
        genes[kind] = np.flatnonzero(donors.expressed(bulk.counts, len(bulk.samples) // 2))
    return Data(
        f"simulation {seed}", cells, "batch", "cell_type", TARGET, "~ batch + condition", samples,
        genes, kinds,
    )  # fmt: skip


def _kang(data: Path, *, small: bool) -> Data:
    cells = real.most_expressed(real.load(data, real.KANG), 150 if small else KANG_GENES)
    types = donors.testable(cells, "cell_type_coarse", MIN_CELLS)
    return Data(
        "kang", cells, "donor", "cell_type_coarse", KANG_TARGET, "~ donor + condition",
        (donors.DONOR, donors.CONDITION),
        {kind: test.genes for kind, test in types.items()},
        {kind: test.cells for kind, test in types.items()},
    )  # fmt: skip


def _compare(data: Data, seed: int, work: Path, *, small: bool) -> list[Row]:
    counts = dict(_counts(data, work, small=small))
    found = _discoveries(data, counts)
    rows = []
    for method, members in _groups(counts).items():
        pairs = [_changed(found[a], found[b]) for a, b in combinations(members, 2)]
        rows.append(Row(EXPERIMENT, data.name, seed, method, CHANGED, float(np.mean(pairs))))
        number = float(np.mean([found[name].sum() for name in members]))
        rows.append(Row(EXPERIMENT, data.name, seed, method, "discoveries", number))
    return rows


def _groups(counts: Mapping[tuple[str, int], Any]) -> dict[str, list[tuple[str, int]]]:
    """Return the counts that are compared with each other, by method."""
    return {
        method: [key for key in counts if key[0] == method]
        for method in dict.fromkeys(method for method, _ in counts)
    }


def _counts(
    data: Data, work: Path, *, small: bool
) -> Iterator[tuple[tuple[str, int], sp.csr_matrix]]:
    """Yield counts by what differs between them and a number."""
    raw = sp.csr_matrix(data.cells.X).astype(np.int32)
    for number in range(N_AVERAGED):
        thinned = raw.copy()
        thinned.data = np.random.default_rng(number).binomial(raw.data, KEPT_SHARE).astype(np.int32)
        yield ("raw, a tenth removed", number), thinned
    cases, tables = [], []
    for number in range(1, 2 * N_AVERAGED + 1):
        folder = work / f"trainings-{data.name.replace(' ', '-')}-{number}{'-small' * small}"
        model = trained(
            data.cells, folder, batch_key=data.batch_key, seed=number, epochs=3 if small else EPOCHS
        )
        cases.append(Case(data.cells, model, data.target, data.batch_key, data.labels_key))
        yield ("another training", number), _corrected(cases[-1], _recording(tables))
    for number in range(N_AVERAGED):
        case = replace(cases[0], seed=number)
        yield ("another seed", number), _corrected(case, GroupedEffect.estimate)
    for first in (0, N_AVERAGED):
        mean = np.mean(tables[first : first + N_AVERAGED], axis=0)
        counts = _corrected(cases[first], _replacing(mean))
        yield ("other trainings, mean of 3 effects", first), counts


def _corrected(case: Case, strategy: Callable[[Basis], GroupedEffect]) -> sp.csr_matrix:
    """Return label counts, with another way to estimate the effects."""
    usual = effects.STRATEGIES["label"]
    effects.STRATEGIES["label"] = strategy
    try:
        keys = {"labels_key": case.labels_key, "condition_key": case.condition_key}
        return sp.csr_matrix(case.corrected(**keys, sample_key=case.sample_key).X)
    finally:
        effects.STRATEGIES["label"] = usual


def _recording(tables: list[np.ndarray]) -> Callable[[Basis], GroupedEffect]:
    """Estimate effects as usual, and keep their table."""

    def strategy(basis: Basis) -> GroupedEffect:
        effect = GroupedEffect.estimate(basis)
        tables.append(effect.change.effects.shift.log_ratio)
        return effect

    return strategy


def _replacing(table: np.ndarray) -> Callable[[Basis], GroupedEffect]:
    """Estimate effects as usual, and replace their table."""

    def strategy(basis: Basis) -> GroupedEffect:
        effect = GroupedEffect.estimate(basis)
        own = effect.change.effects
        shift = replace(own.shift, log_ratio=table)
        return replace(effect, change=replace(effect.change, effects=replace(own, shift=shift)))

    return strategy


def _discoveries(
    data: Data, counts: Mapping[tuple[str, int], sp.csr_matrix]
) -> dict[tuple[str, int], np.ndarray]:
    """Return which genes are found, over all types, at 5 % false discoveries."""
    jobs = []
    for kind, mask in data.kinds.items():
        for name, matrix in counts.items():
            bulk = aggregate(matrix, data.cells.obs, data.samples, mask)
            some = Pseudobulk(bulk.counts[:, data.genes[kind]], bulk.samples)
            jobs.append(Job((*name, kind), some, "edgeR", data.formula))
    p = test_all(jobs)
    return {
        name: np.concatenate([adjust(p[(*name, kind)]) < ALPHA for kind in data.kinds])
        for name in counts
    }


def _changed(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of the discoveries of either that the other lacks."""
    return float((first != second).sum() / max((first | second).sum(), 1))
