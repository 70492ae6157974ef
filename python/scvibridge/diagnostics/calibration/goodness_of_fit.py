"""Assess how well the counts of held-out cells follow a model's likelihood, batch by batch.

If the model's distribution of a count is right, the randomised probability integral transform u of
the count is uniform and its normal score qnorm(u) has variance 1. Since a cell is encoded from its
own counts, neither holds exactly, even for counts sampled from the model. Both are therefore
compared with reference data: counts sampled from the model for the same cells and encoded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy import special, stats

from scvibridge._utils.torch_threads import in_order
from scvibridge.correction.own_parameters import expected_counts, own_parameters
from scvibridge.correction.parameters import sampled_parameters
from scvibridge.likelihood.cpu.philox import hash_genes
from scvibridge.likelihood.on_cpu import randomised_pit, sample_counts
from scvibridge.models.encoder import Cells, draw_latent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scvibridge.likelihood.parameters import BlockParameters
    from scvibridge.models.adapters import Adapter


# A batch with fewer cells is not assessed.
MIN_CELLS = 20

# Genes with a smaller mean are uninformative for the Kolmogorov-Smirnov test and the variance,
# because their u is almost entirely the random v. If too few genes reach it, the highest are used.
KS_MEAN, LEAST_KS_GENES = 0.1, 20

VARIANCE_MEAN, LEAST_VARIANCE_GENES = 2.0, 10

KS_LEVEL = 0.05

# Significance level of a misfit, over both figures of each batch and of all together.
FLAG_LEVEL = 0.01

# Real counts never follow a model exactly, and enough cells show it. Misfits up to these sizes
# hardly change corrected counts (docs/diagnostics.md); larger ones are flagged. The ratio applies
# to the variance relative to the references, and between two batches: a misfit shared by all
# batches mostly cancels, because counts are mapped from one distribution to another.
MOST_DISPLACEMENT, MOST_VARIANCE_RATIO = 0.1, 1.5

NO_MISFIT, SMALL_MISFIT, LARGE_MISFIT = "none", "small", "large"

# Normal scores are limited to what u can resolve in double precision.
_SMALLEST_U = 2.0**-53


@dataclass(frozen=True)
class Figures:
    """Figures of a batch.

    Attributes
    ----------
    ks_rejection
        Share of genes rejected by the test.
    variance
        Variance of qnorm(u).
    distance
        Squared distance between the distribution functions of u and the uniform, mean over genes.
    """

    ks_rejection: float
    variance: float
    distance: float


@dataclass(frozen=True)
class BatchFit:
    """The fit in one batch.

    Attributes
    ----------
    n_cells, n_ks_genes, n_variance_genes
        Numbers of held-out cells, and of genes used for the figures.
    observed, references
        Figures of the cells and of each reference data set.
    mean, variance
        Mean count of each gene, and variance of its normal scores, shape ``(n_genes,)``.
    """

    n_cells: int
    n_ks_genes: int
    n_variance_genes: int
    observed: Figures
    references: tuple[Figures, ...]
    mean: np.ndarray
    variance: np.ndarray

    @property
    def enough(self) -> bool:
        """Whether there are enough cells for a conclusion."""
        return self.n_cells >= MIN_CELLS

    def range_of(self, name: str) -> tuple[float, float]:
        """Return the smallest and largest value of a figure among the references."""
        values = [getattr(figures, name) for figures in self.references]
        return min(values), max(values)

    @property
    def displacement(self) -> float:
        """By how much a count's quantile in its distribution is off: root mean square of u.

        The references' distance is subtracted, which is due to chance and to encoding a cell from
        its own counts.
        """
        expected = float(np.mean([figures.distance for figures in self.references]))
        return float(np.sqrt(max(0.0, self.observed.distance - expected)))

    @property
    def variance_ratio(self) -> float:
        """Variance of the normal scores divided by that of the references."""
        return self.observed.variance / float(
            np.mean([figures.variance for figures in self.references])
        )

    def p_values(self) -> tuple[float, float]:
        """Compute the p-values of both figures against the references.

        They are from Student's t of one observation against a sample, one-sided for the rejections
        and two-sided for the variance. The share of rejections is transformed by the arcsine of its
        root, so that its spread does not depend on its mean. The references' standard deviation is
        at least that of independent genes.
        """
        rejections = [figures.ks_rejection for figures in (self.observed, *self.references)]
        variances = [figures.variance for figures in (self.observed, *self.references)]
        ks = _student(np.arcsin(np.sqrt(rejections)), 0.5 / np.sqrt(self.n_ks_genes))
        floor = np.sqrt(2 / (self.n_cells - 1) / self.n_variance_genes)
        variance = _student(np.array(variances), floor)
        degrees = len(self.references) - 1
        return float(stats.t.sf(ks, degrees)), float(2 * stats.t.sf(abs(variance), degrees))


def _student(values: np.ndarray, floor: float) -> float:
    """Return Student's t of the first value against the others."""
    others = values[1:]
    spread = max(float(others.std(ddof=1)), floor) * np.sqrt(1 + 1 / len(others))
    return float((values[0] - others.mean()) / spread)


@dataclass(frozen=True)
class _Chosen:
    """Sorted positions of the cells of a batch, and of the genes used for its figures."""

    rows: np.ndarray
    tested: np.ndarray
    varied: np.ndarray

    @staticmethod
    def of(rows: np.ndarray, expected: np.ndarray) -> _Chosen:
        mean = expected[rows].mean(axis=0, dtype=float)
        tested = informative(mean, KS_MEAN, LEAST_KS_GENES)
        return _Chosen(rows, tested, informative(mean, VARIANCE_MEAN, LEAST_VARIANCE_GENES))

    def columns(self) -> np.ndarray:
        """Genes used for any figure."""
        return np.union1d(self.tested, self.varied)

    def figures(self, uniforms: np.ndarray, columns: np.ndarray) -> Figures:
        """Compute the figures from u of the given columns, for all cells."""
        tested, varied = (np.searchsorted(columns, g) for g in (self.tested, self.varied))
        return figures(uniforms[self.rows], tested, varied)


class GoodnessOfFit:
    """Assess batches of held-out cells.

    Parameters
    ----------
    adapter
        The model.
    n_references
        Number of reference data sets.
    seed
        Seed, 0 to 2**32 - 1.
    """

    def __init__(self, adapter: Adapter, n_references: int, seed: int) -> None:
        self._adapter = adapter
        self._gene_hashes = hash_genes(adapter.genes)
        self.n_references, self.seed = n_references, seed
        # One stream for the cells; for each reference, one to sample and one to transform.
        seeds = np.random.SeedSequence(seed).generate_state(1 + 2 * n_references)
        self._seed, self._pairs = int(seeds[0]), seeds[1:].reshape(-1, 2)

    @torch.inference_mode()
    def of_batches(self, pieces: list[Cells], steps: Iterable[object]) -> dict[int, BatchFit]:
        """Assess the batches that some cells belong to.

        Parameters
        ----------
        pieces
            Encoded held-out cells with their counts, in blocks.
        steps
            One is taken for each finished reference data set, to show progress.

        Returns
        -------
        The fit by batch code. A batch with too few cells has no references.
        """
        batch = np.concatenate([cells.covariates.batch for cells in pieces])
        expected, counts, uniforms = self._observed(pieces)
        chosen = {
            int(code): _Chosen.of(np.flatnonzero(batch == code), expected)
            for code in np.unique(batch)
        }
        judged = {code: some for code, some in chosen.items() if len(some.rows) >= MIN_CELLS}
        columns = np.unique(np.concatenate([some.columns() for some in chosen.values()]))

        def figures_of(number: int) -> dict[int, Figures]:
            reference = self._reference(pieces, columns, number)
            return {code: some.figures(reference, columns) for code, some in judged.items()}

        references = in_order(figures_of, range(self.n_references), self._adapter.device)
        drawn: dict[int, list[Figures]] = {code: [] for code in chosen}
        for of_reference, _ in zip(references, steps, strict=False):
            for code, found in of_reference.items():
                drawn[code].append(found)
        return {
            code: BatchFit(
                len(some.rows),
                len(some.tested),
                len(some.varied),
                some.figures(uniforms[:, columns], columns),
                tuple(drawn[code]),
                np.asarray(counts[some.rows].mean(axis=0)).ravel(),
                normal_scores(uniforms[some.rows]).var(axis=0),
            )
            for code, some in chosen.items()
        }

    def _observed(self, pieces: list[Cells]) -> tuple[np.ndarray, sp.csr_matrix, np.ndarray]:
        """Return means under the model, counts, and u, each of shape (cells, genes)."""
        expected, counts, uniforms = [], [], []
        for cells in pieces:
            parameters = own_parameters(self._adapter, cells)
            expected.append(expected_counts(parameters).astype(np.float32))
            counts.append(cells.selected_counts(None))
            uniforms.append(self._transform(cells, parameters, None, self._seed))
        return np.concatenate(expected), sp.vstack(counts).tocsr(), np.concatenate(uniforms)

    @torch.inference_mode()
    def _reference(self, pieces: list[Cells], columns: np.ndarray, number: int) -> np.ndarray:
        """Transform the counts of a reference data set, for some of its genes."""
        draw_seed, seed = (int(value) for value in self._pairs[number])
        parts = []
        for cells in pieces:
            drawn = self.drawn(cells, draw_seed)
            parameters = own_parameters(self._adapter, drawn)
            parts.append(self._transform(drawn, parameters, columns, seed))
        return np.concatenate(parts)

    def drawn(self, cells: Cells, seed: int) -> Cells:
        """Sample latent variables and counts of a block from the model, and encode the counts."""
        counts = self._counts_at(cells, *draw_latent(cells, seed), seed)
        latent = self._adapter.encode(counts, cells.covariates)
        return Cells(cells.names, counts, cells.covariates, latent)

    def _counts_at(
        self, cells: Cells, z: np.ndarray, log_library: np.ndarray, seed: int
    ) -> sp.csr_matrix:
        """Sample counts of a block from the model at given latent variables."""
        adapter = self._adapter
        parameters = sampled_parameters(
            adapter, cells, z, log_library, np.ones(cells.n_cells), adapter.theta(), True
        )
        return sample_counts(parameters.numpy(), cells.hashes, self._gene_hashes, seed)

    def _transform(
        self, cells: Cells, parameters: BlockParameters, columns: np.ndarray | None, seed: int
    ) -> np.ndarray:
        counts = cells.selected_counts(columns)
        hashes = self._gene_hashes if columns is None else self._gene_hashes[columns]
        given = parameters.of_genes(columns).numpy()
        return randomised_pit(counts, given, cells.hashes, hashes, seed)


# -- figures -----------------------------------------------------------------------------------


def informative(mean: np.ndarray, threshold: float, least: int) -> np.ndarray:
    """Return sorted positions of genes with at least this mean, or of the highest `least`."""
    genes = np.flatnonzero(mean >= threshold)
    if len(genes) >= least:
        return genes
    return np.sort(np.argsort(-mean, kind="stable")[:least])


def figures(uniforms: np.ndarray, tested: np.ndarray, varied: np.ndarray) -> Figures:
    """Compute both figures from u, shape ``(n_cells, n_genes)``, over the genes used for each."""
    n_cells = len(uniforms)
    if n_cells < MIN_CELLS:
        return Figures(float("nan"), float("nan"), float("nan"))
    ordered = np.sort(uniforms[:, tested], axis=0)
    rejected = ks_distances(ordered) > _critical_distance(n_cells)
    variance = normal_scores(uniforms[:, varied]).var(axis=0, ddof=1)
    distance = squared_distances(ordered)
    return Figures(float(rejected.mean()), float(variance.mean()), float(distance.mean()))


@lru_cache(maxsize=1024)
def _critical_distance(n_cells: int) -> float:
    """Return the distance above which the test rejects, from the exact distribution."""
    return float(stats.kstwo.isf(KS_LEVEL, n_cells))


def ks_distances(ordered: np.ndarray) -> np.ndarray:
    """Return each sorted column's largest distance from the uniform distribution function."""
    n_cells = len(ordered)
    steps = np.arange(n_cells + 1)[:, None] / n_cells
    return np.maximum((steps[1:] - ordered).max(axis=0), (ordered - steps[:-1]).max(axis=0))


def squared_distances(ordered: np.ndarray) -> np.ndarray:
    """Return each sorted column's squared distance from the uniform distribution function.

    The integral from 0 to 1 (Cramér and von Mises), shape ``(n_genes,)``.
    """
    n_cells = len(ordered)
    middles = (np.arange(n_cells)[:, None] + 0.5) / n_cells
    squares: np.ndarray = ((ordered - middles) ** 2).mean(axis=0) + 1 / (12 * n_cells**2)
    return squares


def normal_scores(uniforms: np.ndarray) -> np.ndarray:
    """Return quantiles of the standard normal distribution, in the same shape."""
    scores: np.ndarray = special.ndtri(np.clip(uniforms, _SMALLEST_U, 1 - _SMALLEST_U))
    return scores


def judged_fits(fits: list[BatchFit | None]) -> list[BatchFit]:
    """Return the fits of batches that have enough cells."""
    return [fit for fit in fits if fit is not None and fit.enough]


def test_level(fits: list[BatchFit | None]) -> float:
    """Return the level of each test, given two figures for each batch and for all together."""
    return FLAG_LEVEL / (2 * (len(judged_fits(fits)) + 1))


def reference_range(row: dict[str, Any], name: str, form: str) -> str:
    """Return the range of a statistic in the reference data sets as text."""
    return f"{row[f'{name}_reference_low']:{form}} to {row[f'{name}_reference_high']:{form}}"
