"""Compute the randomised probability integral transform of rows of counts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from scvibridge.likelihood.cpu.compilation import entry, kernel
from scvibridge.likelihood.cpu.philox import COUNTS_STREAM, fill_words
from scvibridge.likelihood.cpu.rows import (
    Distribution,
    Row,
    are_valid,
    fill_logits,
    fill_means,
    fill_uniforms,
    new_row,
)
from scvibridge.likelihood.cpu.rows_of_counts import (
    FINE,
    INVALID,
    CompressedRows,
    clear,
    scatter,
)
from scvibridge.likelihood.cpu.short_walk import LONGEST, masses_of_zero, uniforms_of_counts
from scvibridge.likelihood.cpu.zero_inflation import mixture_transform

# Sums from zero are exact to 1e-13, which is not enough where the probability of zero is tiny.
_LEAST_MASS = 1e-6


@kernel
def _walk(distribution: Distribution, row: int, work: Row) -> None:
    """Replace v in `work.uniform` by u where short sums suffice, which `work.short` marks."""
    n, entries = work.mean.shape[0], work.entries
    phi = distribution.phi[distribution.theta_row[row]]
    for i in range(n):
        entries.mean[i] = work.mean[i]
        entries.phi[i] = phi[i]
    inflated = distribution.zero_inflated
    for i in range(n):
        entries.logit[i] = work.logit[i] if inflated else -np.inf
    masses_of_zero(entries, n, inflated, work.scratch, work.dropped, work.mass, work.short)
    for i in range(n):
        observed = work.observed[i]
        is_exact = observed == 0 or (work.mass[i] >= _LEAST_MASS and work.mean[i] > 0.0)
        work.short[i] = work.short[i] and is_exact and observed < LONGEST
        work.entry_observed[i] = observed
    uniforms_of_counts(
        entries,
        n,
        work.entry_observed,
        work.uniform,
        work.dropped,
        work.mass,
        work.short,
        work.scratch,
    )


@kernel
def _transform_row(
    distribution: Distribution,
    row: int,
    work: Row,
    out: npt.NDArray[np.float64],
) -> int:
    fill_uniforms(work.words, work.uniform)
    fill_means(distribution, row, work.mean)
    fill_logits(distribution, row, work.logit)
    if not are_valid(work.mean, distribution.zero_inflated, work.logit):
        return INVALID
    _walk(distribution, row, work)
    theta = distribution.theta[distribution.theta_row[row]]
    for gene in range(theta.shape[0]):
        count, mean = int(work.observed[gene]), work.mean[gene]
        if work.short[gene]:
            out[gene] = work.uniform[gene]
        elif mean == 0.0 and count > 0:
            out[gene] = 1.0
        else:
            logit = work.logit[gene] if distribution.zero_inflated else -np.inf
            log_tail, upper = mixture_transform(count, work.uniform[gene], mean, theta[gene], logit)
            out[gene] = -math.expm1(log_tail) if upper else math.exp(log_tail)
    return FINE


@entry
def transform_rows(
    counts: CompressedRows,
    distribution: Distribution,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: np.uint64,
    out: npt.NDArray[np.float64],
    status: npt.NDArray[np.int8],
) -> None:
    """Fill `out` (n, G) with the randomised probability integral transform of counts."""
    n_rows, n_genes = cell_hashes.shape[0], gene_hashes.shape[0]
    work = new_row(n_genes)
    for row in range(n_rows):
        fill_words(cell_hashes[row], gene_hashes, seed, COUNTS_STREAM, True, work.words)
        scatter(counts, row, work.observed)
        status[row] = _transform_row(distribution, row, work, out[row])
        clear(counts, row, work.observed)
