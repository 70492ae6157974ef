"""Compute the figures of a report: what was changed, and what remains of the batch effect."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.diagnostics.report import measures
from scvibridge.expression.depth import HIGH_DEPTH_RATIO, LOW_DEPTH_RATIO

if TYPE_CHECKING:
    from scvibridge.diagnostics.report.reading import Result
    from scvibridge.diagnostics.report.tallies import Tallies


# Fewer cells are not laid out.
FEWEST_CELLS = 5

_MOST_ITERATIONS = 500

_PERPLEXITY = 30.0


@dataclass(frozen=True)
class Folds:
    """Natural log of each gene's rate in one batch over that in the target, within types.

    Shape ``(n_genes,)`` each, NaN for genes with too few counts: in the raw counts, in the
    corrected ones, and in the corrected ones after shuffling batches within types.
    """

    before: np.ndarray
    after: np.ndarray
    chance: np.ndarray


@dataclass(frozen=True)
class Spread:
    """Size of the log2 folds over genes.

    Attributes
    ----------
    before, after, chance
        Root mean squares; NaN if there are no genes.
    n_genes
        Number of folds.
    together
        Mean product of the folds before and after the correction.
    """

    before: float
    after: float
    chance: float
    n_genes: int
    together: float = float("nan")

    @property
    def left(self) -> float:
        """Root mean square after over that before, beyond chance; NaN if there is no effect."""
        return float(np.sqrt(np.maximum(0.0, 1.0 - self.gone)))

    @property
    def slope(self) -> float:
        """Slope of the folds after on those before, beyond chance; NaN if there is no effect.

        Errors whose sign differs between genes cancel. The noise of the raw counts is in both
        folds; its contribution is subtracted.
        """
        there = self.before**2 - self.chance**2
        if not there > 0.1 * self.chance**2:
            return float("nan")
        return (self.together - self.chance**2) / there

    @property
    def gone(self) -> float:
        """Share of the variance beyond chance that the correction removed; NaN if it is zero."""
        there = self.before**2 - self.chance**2
        if not there > 0.1 * self.chance**2:
            return float("nan")
        return 1.0 - max(0.0, self.after**2 - self.chance**2) / there


@dataclass(frozen=True)
class Plane:
    """Two-dimensional layout of the chosen cells, with measures of batch mixing and of types.

    Attributes
    ----------
    points
        Coordinates before and after, shape ``(n_chosen, 2)`` each.
    mixing
        Same-batch neighbours within types, divided by the number expected for mixed batches.
    silhouette
        Silhouette of the types.
    """

    points: tuple[np.ndarray, np.ndarray]
    mixing: tuple[float, float]
    silhouette: tuple[float, float]


# ---- counts ----------------------------------------------------------------------------------


def changed_share(tallies: Tallies, rows: np.ndarray) -> float:
    """Compute the share of entries above zero, before or after, that differ, in some cells."""
    seen = tallies.changes.seen[rows].sum()
    return float(tallies.changes.changed[rows].sum() / seen) if seen else float("nan")


def moved_share(tallies: Tallies, rows: np.ndarray) -> float:
    """Compute the sum of absolute differences over the sum of raw counts, in some cells."""
    total = tallies.cells[0].totals[rows].sum()
    return float(tallies.changes.moved[rows].sum() / total) if total else float("nan")


def in_target(result: Result) -> np.ndarray:
    """Return whether each cell belongs to a target batch, shape ``(n_cells,)``."""
    is_target = np.array([name in result.targets for name in result.batch.names])
    return is_target[result.batch.codes]


def low_depth_share(result: Result) -> float:
    """Return the share of cells scaled to less than half their depth; NaN if it is unknown."""
    ratio = result.flag("depth_ratio")
    return float("nan") if ratio is None else float((ratio < LOW_DEPTH_RATIO).mean())


def high_depth_share(result: Result) -> float:
    """Return the share of cells scaled to more than twice their depth; NaN if it is unknown."""
    ratio = result.flag("depth_ratio")
    return float("nan") if ratio is None else float((ratio > HIGH_DEPTH_RATIO).mean())


# ---- batch effect of genes -------------------------------------------------------------------


def batch_folds(result: Result, tallies: Tallies) -> dict[str, Folds]:
    """Compute each batch's folds over the targets; for a target, over the other targets."""
    names = result.batch.names
    targets = [number for number, name in enumerate(names) if name in result.targets]
    found = {}
    for number, name in enumerate(names):
        reference = [other for other in targets if other != number]
        if reference:
            found[name] = _folds_of(tallies, number, reference, result.types.is_known)
    return found


def _folds_of(tallies: Tallies, batch: int, reference: list[int], known: np.ndarray) -> Folds:
    """Compute folds over the reference batches, within known types."""
    sizes = tallies.sizes[batch][known], tallies.sizes[reference].sum(axis=0)[known]
    before, after, chance = (
        measures.log_fold_within_types(
            (sums[batch][known], sums[reference].sum(axis=0)[known]), sizes
        )
        for sums in (tallies.sums[0].counts, tallies.sums[1].counts, tallies.shuffled)
    )
    unknown = np.isnan(before) | np.isnan(after) | np.isnan(chance)
    return Folds(*(np.where(unknown, np.nan, folds) for folds in (before, after, chance)))


def pooled(folds: dict[str, Folds]) -> Folds:
    """Concatenate the folds of all batches."""
    parts = list(folds.values())
    if not parts:
        return Folds(*(np.empty(0) for _ in range(3)))
    return Folds(*(np.concatenate([getattr(f, n) for f in parts]) for n in Folds.__annotations__))


def spread(folds: Folds) -> Spread:
    """Compute the size of folds, in log2."""
    known = ~np.isnan(folds.before)
    products = folds.before[known] * folds.after[known] / np.log(2) ** 2
    return Spread(
        _root_mean_square(folds.before / np.log(2)),
        _root_mean_square(folds.after / np.log(2)),
        _root_mean_square(folds.chance / np.log(2)),
        int(known.sum()),
        float(products.mean()) if len(products) else float("nan"),
    )


def _root_mean_square(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.sqrt((known**2).mean())) if len(known) else float("nan")


# ---- cells -----------------------------------------------------------------------------------


def lay_out(result: Result, seed: int) -> Plane | None:
    """Lay out the chosen cells, before and after; None if there are too few.

    Both layouts are t-SNE of principal components of log-normalised counts. They start from the
    same positions, so that groups end up in similar places.
    """
    if len(result.chosen) < FEWEST_CELLS or result.raw.shape[1] < FEWEST_CELLS:
        return None
    components = [
        measures.principal_components(counts, seed=seed) for counts in result.counts_of_chosen
    ]
    known = result.types.is_known[result.types.codes[result.chosen]]
    batch, label = (groups.of(result.chosen[known]) for groups in (result.batch, result.types))
    points = _both_in_the_plane(result, components, seed)
    mixing = [measures.same_batch_neighbours(some[known], batch, label) for some in components]
    silhouette = [measures.silhouette_of_types(some[known], label) for some in components]
    return Plane(points, (mixing[0], mixing[1]), (silhouette[0], silhouette[1]))


def layouts(result: Result, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return only the coordinates of :func:`lay_out`, before and after."""
    components = [
        measures.principal_components(counts, seed=seed) for counts in result.counts_of_chosen
    ]
    return _both_in_the_plane(result, components, seed)


def _both_in_the_plane(
    result: Result, components: list[np.ndarray], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    start = _start(result.latent_of_chosen(), components[0], seed)
    before, after = (_in_the_plane(some, start, seed) for some in components)
    return before, after


def _start(latent: np.ndarray | None, components: np.ndarray, seed: int) -> np.ndarray:
    """Return two principal components of the latent means or of the raw counts, scaled down."""
    from sklearn.decomposition import PCA

    start = components[:, :2]
    if latent is not None and latent.shape[1] >= 2:
        start = PCA(2, svd_solver="full", random_state=seed).fit_transform(latent)
    scale = start[:, 0].std()
    return np.ascontiguousarray(start / (scale or 1.0) * 1e-4, dtype=np.float32)


def _in_the_plane(components: np.ndarray, start: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    # scikit-learn before 1.5 has another name for it.
    limit = "max_iter" if "max_iter" in signature(TSNE).parameters else "n_iter"
    layout = TSNE(
        perplexity=min(_PERPLEXITY, (len(components) - 1) / 3),
        init=start,
        random_state=seed,
        n_jobs=1,
        **{limit: _MOST_ITERATIONS},
    )
    return np.asarray(layout.fit_transform(components))
