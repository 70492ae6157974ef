"""Compute the randomised probability integral transform of rows of counts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from scvibridge.likelihood.cpu.compilation import entry, kernel
from scvibridge.likelihood.cpu.mass import log_mass_of_zero
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
from scvibridge.likelihood.cpu.zero_inflation import mixture_transform

# -- back to uniforms ------------------------------------------------------------------------------


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
    theta = distribution.theta[distribution.theta_row[row]]
    for gene in range(theta.shape[0]):
        count, mean = int(work.observed[gene]), work.mean[gene]
        if mean == 0.0 and count > 0:
            out[gene] = 1.0
            continue
        if count == 0 and mean > 0.0 and not distribution.zero_inflated:
            # Most entries. As exact as u in double precision can be, in both tails.
            log_zero = log_mass_of_zero(mean, theta[gene])
            out[gene] = work.uniform[gene] * math.exp(log_zero)
            continue
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
