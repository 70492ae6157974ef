"""Rows of cells by genes: parameters for kernels, and which entries need any work.

Pure arithmetic in vector loops determines that most entries are zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scvibridge.likelihood.cpu.compilation import kernel
from scvibridge.likelihood.cpu.philox import open_uniform
from scvibridge.likelihood.cpu.short_walk import TOLERANCE, Entries, Scratch, new_scratch
from scvibridge.likelihood.cpu.vectors import Floats, sigmoid

_LARGEST_BOUND = 64.0


class Distribution(NamedTuple):
    """Parameters of the counts of n cells and G genes, in the form required by kernels."""

    rate: npt.NDArray[np.floating[Any]]
    """Shape (n, G); the mean is rate * factor, or rate * ratio * factor."""
    factor: npt.NDArray[np.float64]
    """Shape (n,)."""
    theta: npt.NDArray[np.float64]
    """Inverse dispersion, shape (K, G); infinity is the Poisson."""
    phi: npt.NDArray[np.float64]
    """Its reciprocal."""
    theta_row: npt.NDArray[np.intp]
    """Row of `theta` for each cell, shape (n,)."""
    zero_inflated: bool
    """Whether `zi_logits` is used."""
    zi_logits: npt.NDArray[np.floating[Any]]
    """Logit of the dropout probability, shape (n, G)."""
    shifted: bool
    """Whether `ratio` and `zi_shift` are used."""
    ratio: npt.NDArray[np.float64]
    """Shape (R, G)."""
    zi_shift: npt.NDArray[np.float64]
    """Added to `zi_logits`, shape (R, G)."""
    shift_row: npt.NDArray[np.intp]
    """Row of `ratio` and `zi_shift` for each cell, shape (n,)."""


class Row(NamedTuple):
    """Arrays for one row of G genes."""

    words: npt.NDArray[np.uint64]
    uniform: Floats
    mean: Floats
    new_mean: Floats
    logit: Floats
    new_logit: Floats
    bound: Floats
    chosen: npt.NDArray[np.int32]
    """One element longer than the row: see `choose`."""
    observed: npt.NDArray[np.int32]
    """All 0 between rows."""
    entries: Entries
    new_entries: Entries
    entry_uniform: Floats
    entry_observed: npt.NDArray[np.int64]
    entry_count: npt.NDArray[np.int64]
    dropped: Floats
    mass: Floats
    short: npt.NDArray[np.bool_]
    new_dropped: Floats
    new_mass: Floats
    new_short: npt.NDArray[np.bool_]
    scratch: Scratch


@kernel
def new_row(n_genes: int) -> Row:
    """Return arrays for rows of `n_genes`."""
    floats = np.empty((17, n_genes))
    flags = np.empty((2, n_genes), dtype=np.bool_)
    numbers = np.empty((2, n_genes), dtype=np.int64)
    return Row(
        np.empty(n_genes, dtype=np.uint64),
        floats[0],
        floats[1],
        floats[2],
        floats[3],
        floats[4],
        floats[5],
        np.empty(n_genes + 1, dtype=np.int32),
        np.zeros(n_genes, dtype=np.int32),
        Entries(floats[6], floats[7], floats[8]),
        Entries(floats[9], floats[10], floats[11]),
        floats[12],
        numbers[0],
        numbers[1],
        floats[13],
        floats[14],
        flags[0],
        floats[15],
        floats[16],
        flags[1],
        new_scratch(n_genes),
    )


# -- steps over all genes of a row -----------------------------------------------------------------


@kernel
def fill_uniforms(words: npt.NDArray[np.uint64], uniform: Floats) -> None:
    """Fill `uniform` from random bits."""
    for gene in range(words.shape[0]):
        uniform[gene] = open_uniform(words[gene])


@kernel
def fill_means(distribution: Distribution, row: int, mean: Floats) -> None:
    """Fill `mean` with the means of a row."""
    rate, factor = distribution.rate[row], distribution.factor[row]
    if distribution.shifted:
        ratio = distribution.ratio[distribution.shift_row[row]]
        for gene in range(rate.shape[0]):
            mean[gene] = np.float64(rate[gene]) * ratio[gene] * factor
    else:
        for gene in range(rate.shape[0]):
            mean[gene] = np.float64(rate[gene]) * factor


@kernel
def fill_logits(distribution: Distribution, row: int, out: Floats) -> None:
    """Fill `out` with the logits of a row, if there is zero inflation."""
    if not distribution.zero_inflated:
        return
    logit = distribution.zi_logits[row]
    if distribution.shifted:
        shift = distribution.zi_shift[distribution.shift_row[row]]
        for gene in range(logit.shape[0]):
            out[gene] = np.float64(logit[gene]) + shift[gene]
    else:
        for gene in range(logit.shape[0]):
            out[gene] = np.float64(logit[gene])


@kernel
def are_valid(mean: Floats, zero_inflated: bool, logit: Floats) -> bool:
    """Return whether all means are finite and not negative, and no logit is NaN."""
    invalid = 0
    for gene in range(mean.shape[0]):
        invalid += 0 if 0.0 <= mean[gene] < np.inf else 1
    if zero_inflated:
        for gene in range(logit.shape[0]):
            invalid += 0 if logit[gene] == logit[gene] else 1
    return invalid == 0


@kernel
def bound_zero(mean: Floats, phi: Floats, bound: Floats) -> None:
    """Fill `bound` with a lower bound of P(0).

    log(1 + t) <= t (6 + t) / (6 + 4 t), the Pade approximant, and exp(-x) >= (1 - x / 64)**64.
    """
    for gene in range(mean.shape[0]):
        t = mean[gene] * phi[gene]
        x = mean[gene] * (6.0 + t) / (6.0 + 4.0 * t)
        y = 1.0 - (min(_LARGEST_BOUND, x)) * (1.0 / 64.0)
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        bound[gene] = y * y


@kernel
def bound_zero_inflated(logit: Floats, bound: Floats, row: Row) -> None:
    """Replace a lower bound of f(0) by one of pi + (1 - pi) f(0)."""
    sigmoid(logit, logit.shape[0], row.mass, row.dropped)
    dropped = row.dropped
    for gene in range(logit.shape[0]):
        bound[gene] = dropped[gene] + (1.0 - dropped[gene]) * bound[gene]


@kernel
def _bound_rise(mean: Floats, phi: Floats, new_mean: Floats, new_phi: Floats, rise: Floats) -> None:
    """Fill `rise` with an upper bound of log f(0) - log f'(0).

    With equal dispersion, it is from the slope of the concave theta log(1 + m / theta) at the
    source; otherwise from log(1 + t) >= 2 t / (2 + t) and the bound in `bound_zero`.
    """
    n_changed = 0
    for gene in range(mean.shape[0]):
        rise[gene] = (new_mean[gene] - mean[gene]) / (1.0 + mean[gene] * phi[gene])
        n_changed += phi[gene] != new_phi[gene]
    if n_changed == 0:
        return
    for gene in range(mean.shape[0]):
        m, new_m = mean[gene], new_mean[gene]
        t, new_t = m * phi[gene], new_m * new_phi[gene]
        apart = new_m * (6.0 + new_t) / (6.0 + 4.0 * new_t) - 2.0 * m / (2.0 + t)
        rise[gene] = rise[gene] if phi[gene] == new_phi[gene] else apart


@kernel
def _exp_minus_bound(rise: Floats) -> None:
    """Replace x by (1 - x / 64)**64, a lower bound of exp(-x) for x <= 64."""
    for gene in range(rise.shape[0]):
        x = rise[gene]
        x = max(-_LARGEST_BOUND, x)
        y = 1.0 - (min(_LARGEST_BOUND, x)) * (1.0 / 64.0)
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        rise[gene] = y * y


@kernel
def choose(uniform: Floats, bound: Floats, chosen: npt.NDArray[np.int32]) -> int:
    """List the genes whose uniform may not be below the bound; return their number.

    Every gene is written, and the position advanced or not, because branches would be mispredicted.
    """
    n = 0
    for gene in range(uniform.shape[0]):
        chosen[n] = gene
        n += uniform[gene] > bound[gene] - TOLERANCE
    return n


@kernel
def choose_observed(
    uniform: Floats,
    bound: Floats,
    observed: npt.NDArray[np.int32],
    chosen: npt.NDArray[np.int32],
) -> int:
    """List the genes that `choose` lists, and those with a count."""
    n = 0
    for gene in range(uniform.shape[0]):
        chosen[n] = gene
        n += (uniform[gene] > bound[gene] - TOLERANCE) | (observed[gene] > 0)
    return n


@kernel
def gather(
    mean: Floats,
    phi: Floats,
    logit: Floats,
    zero_inflated: bool,
    chosen: npt.NDArray[np.int32],
    n: int,
    entries: Entries,
) -> None:
    """Copy the parameters of the chosen genes, the first `n` of `chosen`, to `entries`."""
    for i in range(n):
        gene = chosen[i]
        entries.mean[i] = mean[gene]
        entries.phi[i] = phi[gene]
    for i in range(n):
        entries.logit[i] = logit[chosen[i]] if zero_inflated else -np.inf


@kernel
def bound_zero_of_target(
    source: Distribution, target: Distribution, phi: Floats, new_phi: Floats, work: Row
) -> None:
    """Fill `work.bound` with a lower bound of F'(0) / F(0), below which v leaves a zero.

    A mixture with at least the same dropout is no further from 1 than its component. If the dropout
    is lower, only F'(0) >= f'(0) is used.
    """
    _bound_rise(work.mean, phi, work.new_mean, new_phi, work.bound)
    _exp_minus_bound(work.bound)
    if not (source.zero_inflated or target.zero_inflated):
        return
    component = work.mass
    bound_zero(work.new_mean, new_phi, component)
    for gene in range(component.shape[0]):
        old = work.logit[gene] if source.zero_inflated else -np.inf
        new = work.new_logit[gene] if target.zero_inflated else -np.inf
        work.bound[gene] = work.bound[gene] if new >= old else component[gene]
