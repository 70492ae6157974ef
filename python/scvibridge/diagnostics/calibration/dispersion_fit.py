"""Refit inverse dispersions on held-out cells, with the model's means fixed.

The log-likelihood of each gene, summed over cells, is computed once on a grid of values of log
theta, for each batch and each half of the cells. The curves of batches, halves or all cells are
sums of these, and their maxima are found by interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.special import gammaln

from scvibridge._utils.grouped import members_of
from scvibridge._utils.torch_threads import share_rows

if TYPE_CHECKING:
    from collections.abc import Iterable


# From theta = .02 to 3,000, which cannot be distinguished from a Poisson. The steps are so small
# that the curve, which is smooth on the scale of 1, is a polynomial of degree four over them.
STEP = 0.4

LOG_THETA = np.linspace(-4.0, 8.0, 31)

_POINTS_OF_A_THREAD = 8

# Prior standard deviations of log theta: of a gene around the centre, and of a gene in a batch.
GENE_SD, BATCH_SD = 1.0, 0.5

# Shifts of the centre to try, nearest first, so that the shift is zero if there are no counts.
_SHIFTS = np.array(sorted(np.arange(-60, 61) * 0.05, key=abs))


@dataclass(frozen=True)
class CountBlock:
    """Counts of some cells and their means under the model.

    Attributes
    ----------
    counts
        CSR, shape ``(n, n_genes)``.
    mean
        Means of the count component, same shape, in double precision.
    zi_logits
        Logits of the dropout probability, or None.
    group, own_row
        Group of each cell, and its row of the model's own theta, shape ``(n,)``.
    """

    counts: sp.csr_matrix
    mean: np.ndarray
    zi_logits: np.ndarray | None
    group: np.ndarray
    own_row: np.ndarray

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows, columns and values of the counts above zero."""
        rows = np.repeat(np.arange(self.counts.shape[0]), np.diff(self.counts.indptr))
        return rows, self.counts.indices, self.counts.data.astype(float)


# -- log-likelihoods ---------------------------------------------------------------------------


def curves(blocks: Iterable[CountBlock], n_groups: int, n_genes: int) -> np.ndarray:
    """Compute the log-likelihood of each gene in each group on the grid of log theta.

    Constants that do not depend on theta are left out.

    Returns
    -------
    Array of shape ``(n_groups, n_genes, len(LOG_THETA))``.
    """
    sums = np.zeros((n_groups, n_genes, len(LOG_THETA)))
    for block in blocks:
        members = members_of(block.group, n_groups)
        rows, columns, values = block.entries()
        place = block.group[rows] * n_genes + columns
        means = block.mean[rows, columns]
        add = partial(_add_points, sums, block, members, (rows, columns, values), place, means)
        # Each thread takes memory for some matrices of the size of the block.
        share_rows(add, len(LOG_THETA), _POINTS_OF_A_THREAD)
    return sums


def _add_points(
    sums: np.ndarray,
    block: CountBlock,
    members: sp.csr_matrix,
    entries: tuple[np.ndarray, np.ndarray, np.ndarray],
    place: np.ndarray,
    means: np.ndarray,
    points: slice,
) -> None:
    """Add the log-likelihoods of a block at some points of the grid to the sums."""
    rows, columns, values = entries
    n_groups, n_genes, _ = sums.shape
    for k in range(points.start, points.stop):
        theta = np.exp(LOG_THETA[k])
        sums[:, :, k] += members @ _at_zero(block, theta, rows, columns)
        above = _above_zero(values, means, theta)
        counted = np.bincount(place, above, minlength=n_groups * n_genes)
        sums[:, :, k] += counted.reshape(n_groups, n_genes)


def cell_log_likelihood(block: CountBlock, theta: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Compute the log-likelihood of each cell over all genes, shape ``(n,)``.

    `row` is the row of `theta` for each cell. Constants that do not depend on theta are left out.
    """
    rows, columns, values = block.entries()
    own = theta[row]
    sums: np.ndarray = _at_zero(block, own, rows, columns).sum(axis=1)
    above = _above_zero(values, block.mean[rows, columns], own[rows, columns])
    return sums + np.bincount(rows, above, minlength=len(sums))


def _at_zero(
    block: CountBlock, theta: np.ndarray | float, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return the log-probability of zero for entries that are zero, and 0 for others."""
    log_zero: np.ndarray = -theta * np.log1p(block.mean / theta)
    if block.zi_logits is not None:
        softplus = np.logaddexp(0.0, block.zi_logits)
        log_zero = np.logaddexp(block.zi_logits, log_zero) - softplus
    log_zero[rows, columns] = 0.0
    return log_zero


def _above_zero(counts: np.ndarray, mean: np.ndarray, theta: np.ndarray | float) -> np.ndarray:
    """Return the log-probability of counts above zero, without terms independent of theta."""
    return (
        gammaln(counts + theta)
        - gammaln(theta)
        - counts * np.log(theta)
        - (counts + theta) * np.log1p(mean / theta)
    )


# -- maxima ------------------------------------------------------------------------------------


def refit(curve: np.ndarray, centre: np.ndarray, sd: float) -> np.ndarray:
    """Find each gene's most probable log theta, given its counts and a normal prior.

    Parameters
    ----------
    curve
        Log-likelihoods along the grid, shape ``(n_genes, len(LOG_THETA))``.
    centre
        Mean of the prior, shape ``(n_genes,)``.
    sd
        Standard deviation of the prior; infinite to maximise the likelihood.

    Returns
    -------
    Array of shape ``(n_genes,)``, within the grid.
    """
    posterior = curve - 0.5 * ((LOG_THETA - centre[:, None]) / sd) ** 2
    best = posterior.argmax(axis=1)
    first = np.clip(best - 2, 0, len(LOG_THETA) - 5)
    window = first[:, None] + np.arange(5)
    values = np.take_along_axis(posterior, window, axis=1)
    # The polynomial through five points, in grid steps from the middle one.
    powers = np.linalg.inv(np.vander(np.arange(-2.0, 3.0), increasing=True))
    coefficients = (values - values.max(axis=1, keepdims=True)) @ powers.T
    at = _maximise(coefficients, (best - first - 2).astype(float))
    return np.clip(LOG_THETA[first + 2] + STEP * at, LOG_THETA[0], LOG_THETA[-1])


def _maximise(coefficients: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Move from the best grid point to the maximum of the polynomial, by at most one step."""
    fine = start[:, None] + np.linspace(-1.0, 1.0, 201)
    values = np.zeros_like(fine)
    for power in reversed(range(coefficients.shape[1])):
        values = values * fine + coefficients[:, power, None]
    return np.take_along_axis(fine, values.argmax(axis=1)[:, None], axis=1)[:, 0]


def shift_of(curve: np.ndarray, centre: np.ndarray) -> float:
    """Return a shift shared by all genes' log theta: the most probable under a N(0, 1) prior."""
    genes = np.arange(len(curve))
    best, most = 0.0, -np.inf
    for shift in _SHIFTS:
        place = np.clip((centre + shift - LOG_THETA[0]) / STEP, 0, len(LOG_THETA) - 1.0)
        below = np.minimum(place.astype(int), len(LOG_THETA) - 2)
        weight = place - below
        value = ((1 - weight) * curve[genes, below] + weight * curve[genes, below + 1]).sum()
        value -= 0.5 * shift**2
        if value > most:
            best, most = float(shift), float(value)
    return best


@dataclass(frozen=True)
class Refitted:
    """Log theta of each gene, shape ``(n_genes,)``, and by batch, ``(n_batches, n_genes)``."""

    gene: np.ndarray
    batch: np.ndarray


def refit_levels(curve: np.ndarray, own: np.ndarray, own_by_batch: bool) -> Refitted:
    """Refit log theta by gene, and by gene and batch.

    Without information from counts, a gene gets the model's own log theta, and a gene in a batch
    that of the gene (or the model's own, if it has one for each batch), shifted by what all genes
    have in common.

    Parameters
    ----------
    curve
        Shape ``(n_batches, n_genes, len(LOG_THETA))``.
    own
        The model's own log theta, shape ``(n_rows, n_genes)``.
    own_by_batch
        Whether the rows of `own` are batches.
    """
    total = curve.sum(axis=0)
    centre = own.mean(axis=0)
    gene = refit(total, centre + shift_of(total, centre), GENE_SD)
    batch = np.empty(curve.shape[:2])
    for number, part in enumerate(curve):
        middle, sd = (own[number], GENE_SD) if own_by_batch else (gene, BATCH_SD)
        batch[number] = refit(part, middle + shift_of(part, middle), sd)
    return Refitted(gene, batch)
