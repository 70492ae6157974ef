"""Kernels over blocks of cells: counts from uniforms, counts from counts, and back to uniforms.

Each entry is a function of its own parameters, names and seed alone, so that neither the number
of threads nor the way in which cells are split into blocks can change it. A strip of rows is held
dense while it is filled; `compress` drops its zeros.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from scvibridge.kernels.philox import uniform_pair
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
"""Status of a row in which a mean is negative, infinite or not a number, or a logit not a number."""
LARGEST_COUNT = 2**31 - 1

_COUNTS_STREAM = np.uint64(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _surely_zero(uniform, mean, theta):  # type: ignore[no-untyped-def]
    """Tell by arithmetic alone, for most entries, that u is below the probability of 0.

    f(0) >= exp(-mean) >= 1 - mean, and log(1 + y) <= y / sqrt(1 + y) gives the second bound.
    """
    if uniform <= 1.0 - mean:
        return True
    rate = mean / math.sqrt(1.0 + mean / theta)
    return uniform <= 1.0 - rate * (1.0 - 0.5 * rate * (1.0 - rate / 3.0))


@njit(cache=True, nogil=True, error_model="numpy")
def _is_valid(mean, logit):  # type: ignore[no-untyped-def]
    return 0.0 <= mean < np.inf and logit == logit


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def sample_rows(  # type: ignore[no-untyped-def]
    mean, theta, theta_row, zero_inflated, logit, cell_hashes, gene_hashes, seed, out, status
):
    """Fill `out` (n, G) with draws, and `status` (n,) with a code per row.

    `mean` is (n, G), `theta` (K, G), infinite for the Poisson, and `theta_row` (n,) the row of it
    for each cell; `logit` (n, G) is read only where `zero_inflated` says so.
    """
    for row in prange(cell_hashes.shape[0]):
        code = FINE
        dispersion = theta[theta_row[row]]
        for gene in range(gene_hashes.shape[0]):
            mu = np.float64(mean[row, gene])
            chance = np.float64(logit[row, gene]) if zero_inflated else -np.inf
            if not _is_valid(mu, chance):
                code = INVALID
                break
            uniform, _ = uniform_pair(cell_hashes[row], gene_hashes[gene], seed, _COUNTS_STREAM)
            count = 0
            if not _surely_zero(uniform, mu, dispersion[gene]):
                count = count_of_uniform(uniform, mu, dispersion[gene], chance)
            if count > LARGEST_COUNT:
                code = TOO_LARGE
                break
            out[row, gene] = count
        status[row] = code


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def map_rows(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    data,
    source_mean,
    source_theta,
    source_theta_row,
    source_inflated,
    source_logit,
    target_mean,
    target_theta,
    target_theta_row,
    target_inflated,
    target_logit,
    keep_unchanged,
    cell_hashes,
    gene_hashes,
    seed,
    out,
    status,
):
    """Fill `out` (n, G) with the counts of a CSR matrix mapped from their source to a target.

    The parameters of either are as in `sample_rows`; the indices of a row must be sorted.
    """
    n_genes = gene_hashes.shape[0]
    for row in prange(cell_hashes.shape[0]):
        code = FINE
        source_dispersion = source_theta[source_theta_row[row]]
        target_dispersion = target_theta[target_theta_row[row]]
        entry, end = indptr[row], indptr[row + 1]
        for gene in range(n_genes):
            count = np.int64(0)
            if entry < end and indices[entry] == gene:
                count = np.int64(data[entry])
                entry += 1
            mu, theta = np.float64(source_mean[row, gene]), source_dispersion[gene]
            new_mu, new_theta = np.float64(target_mean[row, gene]), target_dispersion[gene]
            chance = np.float64(source_logit[row, gene]) if source_inflated else -np.inf
            new_chance = np.float64(target_logit[row, gene]) if target_inflated else -np.inf
            if not (_is_valid(mu, chance) and _is_valid(new_mu, new_chance)):
                code = INVALID
                break
            if keep_unchanged and mu == new_mu and theta == new_theta and chance == new_chance:
                out[row, gene] = count
                continue
            # Zeros are at least as likely under the target, so that a zero stays one.
            if count == 0 and new_mu <= mu and new_theta <= theta and new_chance >= chance:
                out[row, gene] = 0
                continue
            _, uniform = uniform_pair(cell_hashes[row], gene_hashes[gene], seed, _COUNTS_STREAM)
            if count > 0:
                count = map_positive(
                    count, uniform, mu, theta, chance, new_mu, new_theta, new_chance
                )
            elif not _surely_zero(uniform, new_mu, new_theta):
                count = map_zero(uniform, mu, theta, chance, new_mu, new_theta, new_chance)
            if count > LARGEST_COUNT:
                code = TOO_LARGE
                break
            out[row, gene] = count
        status[row] = code


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def transform_rows(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    data,
    mean,
    theta,
    theta_row,
    zero_inflated,
    logit,
    cell_hashes,
    gene_hashes,
    seed,
    out,
    status,
):
    """Fill `out` (n, G) with the randomised probability integral transform of a CSR matrix."""
    for row in prange(cell_hashes.shape[0]):
        code = FINE
        dispersion = theta[theta_row[row]]
        entry, end = indptr[row], indptr[row + 1]
        for gene in range(gene_hashes.shape[0]):
            count = np.int64(0)
            if entry < end and indices[entry] == gene:
                count = np.int64(data[entry])
                entry += 1
            mu = np.float64(mean[row, gene])
            chance = np.float64(logit[row, gene]) if zero_inflated else -np.inf
            if not _is_valid(mu, chance):
                code = INVALID
                break
            _, uniform = uniform_pair(cell_hashes[row], gene_hashes[gene], seed, _COUNTS_STREAM)
            if mu == 0.0 and count > 0:
                out[row, gene] = 1.0
                continue
            log_tail, upper = mixture_transform(count, uniform, mu, dispersion[gene], chance)
            out[row, gene] = -math.expm1(log_tail) if upper else math.exp(log_tail)
        status[row] = code


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def count_nonzero(dense, per_row):  # type: ignore[no-untyped-def]
    """Fill `per_row` (n,) with the number of entries of `dense` (n, G) that are not 0."""
    for row in prange(dense.shape[0]):
        total = 0
        for column in range(dense.shape[1]):
            total += dense[row, column] != 0
        per_row[row] = total


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def compress(dense, indptr, indices, data):  # type: ignore[no-untyped-def]
    """Fill the `indices` and `data` of the CSR matrix of `dense`, whose `indptr` is known."""
    for row in prange(dense.shape[0]):
        entry = indptr[row]
        for column in range(dense.shape[1]):
            if dense[row, column] != 0:
                indices[entry] = column
                data[entry] = dense[row, column]
                entry += 1
