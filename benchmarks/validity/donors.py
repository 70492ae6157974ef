"""Pseudobulks of donors by type: genes that can be tested, tests of many counts, fold changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.validity.methods import PSEUDOBULK_METHODS
from benchmarks.validity.pseudobulk import Job, Pseudobulk, adjust, aggregate, test_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anndata import AnnData

DONOR, CONDITION = "donor", "condition"
FORMULAS = ("~ condition", "~ donor + condition")
GOLD = ("raw", FORMULAS[1])
TOOL = "edgeR"
ALPHA = 0.05
MIN_DONORS = 4
# A gene is tested if it has this many counts at the median sample's depth (edgeR's filterByExpr),
# based on the raw counts for all methods.
MIN_COUNT, MIN_TOTAL = 10, 15


@dataclass(frozen=True)
class TypeTest:
    """The samples and the genes that are tested in one cell type.

    Attributes
    ----------
    cells
        Which cells, boolean of shape ``(n_cells,)``: those of donors with enough cells of the type
        in both conditions.
    genes
        Positions of the genes that can be tested.
    """

    cells: np.ndarray
    genes: np.ndarray


def testable(cells: AnnData, labels_key: str, min_cells: int) -> dict[str, TypeTest]:
    """Return types with at least `MIN_DONORS` donors of `min_cells` cells in both conditions."""
    found = {}
    for kind in sorted(cells.obs[labels_key].unique()):
        of_kind = (cells.obs[labels_key] == kind).to_numpy()
        table = pd.crosstab(cells.obs[DONOR][of_kind], cells.obs[CONDITION][of_kind])
        donors = table.index[(table >= min_cells).all(axis=1)]
        if table.shape[1] < 2 or len(donors) < MIN_DONORS:
            continue
        chosen = of_kind & cells.obs[DONOR].isin(donors).to_numpy()
        raw = aggregate(cells.X, cells.obs, [DONOR, CONDITION], chosen)
        genes = np.flatnonzero(expressed(raw.counts, len(donors)))
        if len(genes):
            found[str(kind)] = TypeTest(chosen, genes)
    return found


def expressed(counts: np.ndarray, smallest_group: int) -> np.ndarray:
    """Return which genes have enough counts to be tested (edgeR's ``filterByExpr``).

    Parameters
    ----------
    counts
        Samples by genes.
    smallest_group
        Number of samples of the smaller condition; only 70 % of those beyond 10 count.
    """
    depths = counts.sum(axis=1, keepdims=True)
    needed = smallest_group if smallest_group <= 10 else 10 + (smallest_group - 10) * 0.7
    enough = counts / depths >= MIN_COUNT / np.median(depths)
    # The small number is also edgeR's: sums of 0.7 are not exact.
    is_seen = enough.sum(axis=0) >= needed - 1e-14
    return np.asarray(is_seen & (counts.sum(axis=0) >= MIN_TOTAL - 1e-14))


def pseudobulks(
    counts: Any, cells: AnnData, types: Mapping[str, TypeTest]
) -> dict[str, Pseudobulk]:
    """Sum counts by donor and condition, type by type, over the genes that are tested."""
    sums = {}
    for kind, chosen in types.items():
        bulk = aggregate(counts, cells.obs, [DONOR, CONDITION], chosen.cells)
        sums[kind] = Pseudobulk(bulk.counts[:, chosen.genes], bulk.samples)
    return sums


def corrected_pseudobulks(
    raw: Mapping[str, Pseudobulk], methods: Sequence[str] | None
) -> dict[str, dict[str, Pseudobulk]]:
    """Correct pseudobulks with each method made for that; skip those not installed."""
    corrected: dict[str, dict[str, Pseudobulk]] = {}
    for name, correct in PSEUDOBULK_METHODS.items():
        if methods is not None and name not in methods:
            continue
        try:
            found = correct(
                [(b.counts, b.samples.rename(columns={DONOR: "batch"})) for b in raw.values()]
            )
        except ModuleNotFoundError:
            continue
        corrected[name] = {
            kind: Pseudobulk(counts, bulk.samples)
            for (kind, bulk), counts in zip(raw.items(), found, strict=True)
        }
    return corrected


def p_values(
    bulks: Mapping[str, Mapping[str, Pseudobulk]], formulas: Iterable[str] = FORMULAS
) -> dict[tuple[str, str, str], np.ndarray]:
    """Return edgeR's p values by method, type and formula, one per tested gene."""
    jobs = [
        Job((method, kind, formula), bulk, TOOL, formula)
        for method, by_kind in bulks.items()
        for kind, bulk in by_kind.items()
        for formula in formulas
    ]
    return test_all(jobs)


def found(p: np.ndarray) -> np.ndarray:
    """Return which genes are significant at 5 % false discoveries."""
    return np.asarray(adjust(p) < ALPHA)


def log_rates(counts: np.ndarray) -> np.ndarray:
    """Return log2 counts per million of samples, plus half a count: ``(n_samples, n_genes)``."""
    depths = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.log2((counts + 0.5) / (depths + 1.0) * 1e6))


def fold_changes(bulk: Pseudobulk) -> np.ndarray:
    """Return log2 fold changes, last condition over first, averaged over the paired donors."""
    rates, samples = log_rates(bulk.counts), bulk.samples
    levels = sorted(samples[CONDITION].unique())
    first, last = (
        pd.DataFrame(rates[samples[CONDITION] == level])
        .groupby(samples[DONOR][samples[CONDITION] == level].to_numpy())
        .mean()
        for level in (levels[0], levels[-1])
    )
    return np.asarray((last - first).mean(axis=0))


def donor_variance(bulk: Pseudobulk) -> np.ndarray:
    """Return the variance over donors of log2 rates, averaged over conditions: ``(n_genes,)``."""
    rates = log_rates(bulk.counts)
    within = [
        rates[(bulk.samples[CONDITION] == level).to_numpy()].var(axis=0, ddof=1)
        for level in bulk.samples[CONDITION].unique()
    ]
    return np.asarray(np.mean(within, axis=0))
