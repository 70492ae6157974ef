"""Kernels over blocks of cells: counts from uniforms, counts from counts, and back to uniforms.

Each entry is a function of its own parameters, names and seed alone, so that neither the number
of threads nor the way in which cells are split into blocks can change it. A strip of rows is held
dense while it is filled; `compress` drops its zeros.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange

from scvibridge.kernels.compilation import kernel, parallel_kernel
from scvibridge.kernels.philox import COUNTS_STREAM, fill_words, open_uniform
from scvibridge.kernels.zero_inflation import (
    count_of_uniform,
    map_positive,
    map_zero,
    mixture_transform,
)

FINE = 0
TOO_LARGE = 1
"""Status of a row in which a count is above `LARGEST_COUNT`."""
INVALID = 2
"""Status of a row in which a mean is negative or not finite, or a logit not a number."""
LARGEST_COUNT = 2**31 - 1


class Distribution(NamedTuple):
    """Parameters of the counts of n cells and G genes, as kernels take them."""

    mean: npt.NDArray[np.floating[Any]]
    """Shape (n, G)."""
    theta: npt.NDArray[np.float64]
    """Inverse dispersion, shape (K, G); infinity is the Poisson."""
    theta_row: npt.NDArray[np.intp]
    """Row of `theta` for each cell, shape (n,)."""
    zero_inflated: bool
    """Whether `logit` is to be read."""
    logit: npt.NDArray[np.floating[Any]]
    """Logit of the dropout probability, shape (n, G)."""


class CompressedRows(NamedTuple):
    """Counts of n cells in CSR format, the indices of each row sorted."""

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    data: npt.NDArray[np.int64]


@kernel
def _surely_zero(uniform: float, mean: float, theta: float) -> bool:
    """Tell by arithmetic alone, for most entries, that u is below the probability of 0.

    f(0) >= exp(-mean) >= 1 - mean, and log(1 + y) <= y / sqrt(1 + y) gives the second bound.
    """
    if uniform <= 1.0 - mean:
        return True
    rate = mean / math.sqrt(1.0 + mean / theta)
    return uniform <= 1.0 - rate * (1.0 - 0.5 * rate * (1.0 - rate / 3.0))


@kernel
def _is_valid(mean: float, logit: float) -> bool:
    return 0.0 <= mean < np.inf and logit == logit  # noqa: PLR0124


@kernel
def _entry(distribution: Distribution, row: int, gene: int) -> tuple[float, float, float]:
    """Mean, inverse dispersion and logit of the dropout of an entry."""
    logit = np.float64(distribution.logit[row, gene]) if distribution.zero_inflated else -np.inf
    theta = distribution.theta[distribution.theta_row[row], gene]
    return np.float64(distribution.mean[row, gene]), theta, logit


@kernel
def _sample_row(
    distribution: Distribution, row: int, words: npt.NDArray[np.uint64], out: npt.NDArray[np.int32]
) -> int:
    for gene in range(words.shape[0]):
        mean, theta, logit = _entry(distribution, row, gene)
        if not _is_valid(mean, logit):
            return INVALID
        uniform = open_uniform(words[gene])
        count = 0
        if not _surely_zero(uniform, mean, theta):
            count = count_of_uniform(uniform, mean, theta, logit)
        if count > LARGEST_COUNT:
            return TOO_LARGE
        out[gene] = count
    return FINE


@parallel_kernel
def sample_rows(
    distribution: Distribution,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: np.uint64,
    out: npt.NDArray[np.int32],
    status: npt.NDArray[np.int8],
) -> None:
    """Fill `out` (n, G) with draws, and `status` (n,) with a code for each row."""
    for row in prange(cell_hashes.shape[0]):
        words = np.empty(gene_hashes.shape[0], dtype=np.uint64)
        fill_words(cell_hashes[row], gene_hashes, seed, COUNTS_STREAM, False, words)
        status[row] = _sample_row(distribution, row, words, out[row])


@kernel
def _map_entry(
    count: int,
    bits: np.uint64,
    source: tuple[float, float, float],
    target: tuple[float, float, float],
    keep_unchanged: bool,
) -> int:
    mean, theta, logit = source
    new_mean, new_theta, new_logit = target
    if keep_unchanged and mean == new_mean and theta == new_theta and logit == new_logit:
        return count
    if count > 0:
        return map_positive(
            count, open_uniform(bits), mean, theta, logit, new_mean, new_theta, new_logit
        )
    # Where zeros are at least as likely under the target, a zero stays one.
    if new_mean <= mean and new_theta <= theta and new_logit >= logit:
        return 0
    uniform = open_uniform(bits)
    if _surely_zero(uniform, new_mean, new_theta):
        return 0
    return map_zero(uniform, mean, theta, logit, new_mean, new_theta, new_logit)


@kernel
def _map_row(
    counts: CompressedRows,
    source: Distribution,
    target: Distribution,
    keep_unchanged: bool,
    row: int,
    words: npt.NDArray[np.uint64],
    out: npt.NDArray[np.int32],
) -> int:
    stored, end = counts.indptr[row], counts.indptr[row + 1]
    for gene in range(words.shape[0]):
        count = 0
        if stored < end and counts.indices[stored] == gene:
            count = int(counts.data[stored])
            stored += 1
        old, new = _entry(source, row, gene), _entry(target, row, gene)
        if not (_is_valid(old[0], old[2]) and _is_valid(new[0], new[2])):
            return INVALID
        count = _map_entry(count, words[gene], old, new, keep_unchanged)
        if count > LARGEST_COUNT:
            return TOO_LARGE
        out[gene] = count
    return FINE


@parallel_kernel
def map_rows(
    counts: CompressedRows,
    source: Distribution,
    target: Distribution,
    keep_unchanged: bool,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: np.uint64,
    out: npt.NDArray[np.int32],
    status: npt.NDArray[np.int8],
) -> None:
    """Fill `out` (n, G) with counts mapped from their source to a target, as `sample_rows` does."""
    for row in prange(cell_hashes.shape[0]):
        words = np.empty(gene_hashes.shape[0], dtype=np.uint64)
        fill_words(cell_hashes[row], gene_hashes, seed, COUNTS_STREAM, True, words)
        status[row] = _map_row(counts, source, target, keep_unchanged, row, words, out[row])


@kernel
def _transform_row(
    counts: CompressedRows,
    distribution: Distribution,
    row: int,
    words: npt.NDArray[np.uint64],
    out: npt.NDArray[np.float64],
) -> int:
    stored, end = counts.indptr[row], counts.indptr[row + 1]
    for gene in range(words.shape[0]):
        count = 0
        if stored < end and counts.indices[stored] == gene:
            count = int(counts.data[stored])
            stored += 1
        mean, theta, logit = _entry(distribution, row, gene)
        if not _is_valid(mean, logit):
            return INVALID
        if mean == 0.0 and count > 0:
            out[gene] = 1.0
            continue
        uniform = open_uniform(words[gene])
        log_tail, upper = mixture_transform(count, uniform, mean, theta, logit)
        out[gene] = -math.expm1(log_tail) if upper else math.exp(log_tail)
    return FINE


@parallel_kernel
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
    for row in prange(cell_hashes.shape[0]):
        words = np.empty(gene_hashes.shape[0], dtype=np.uint64)
        fill_words(cell_hashes[row], gene_hashes, seed, COUNTS_STREAM, True, words)
        status[row] = _transform_row(counts, distribution, row, words, out[row])


@parallel_kernel
def count_nonzero(dense: npt.NDArray[np.int32], per_row: npt.NDArray[np.int64]) -> None:
    """Fill `per_row` (n,) with the number of entries of `dense` (n, G) that are not 0."""
    for row in prange(dense.shape[0]):
        total = 0
        for column in range(dense.shape[1]):
            total += dense[row, column] != 0
        per_row[row] = total


@parallel_kernel
def compress(
    dense: npt.NDArray[np.int32],
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    data: npt.NDArray[np.int32],
) -> None:
    """Fill the `indices` and `data` of the CSR matrix of `dense`, whose `indptr` is known."""
    for row in prange(dense.shape[0]):
        stored = indptr[row]
        for column in range(dense.shape[1]):
            if dense[row, column] != 0:
                indices[stored] = column
                data[stored] = dense[row, column]
                stored += 1
