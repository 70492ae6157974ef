"""Kernels for blocks of cells: sample counts from uniforms, and map observed counts.

Each entry depends only on its parameters, names and seed, so neither the number of threads nor the
way in which cells are split into blocks can change it. Among the entries of a row that may be
nonzero, most are solved by short sums in vector loops; the rest are solved by the functions for
single entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvibridge.likelihood.cpu.compilation import entry, kernel
from scvibridge.likelihood.cpu.philox import COUNTS_STREAM, fill_words
from scvibridge.likelihood.cpu.rows import (
    Distribution,
    Row,
    are_valid,
    bound_zero,
    bound_zero_inflated,
    bound_zero_of_target,
    choose,
    choose_observed,
    fill_logits,
    fill_means,
    fill_uniforms,
    gather,
    new_row,
)
from scvibridge.likelihood.cpu.rows_of_counts import (
    FINE,
    INVALID,
    LARGEST_COUNT,
    TOO_LARGE,
    CompressedRows,
    DrawnRows,
    clear,
    scatter,
)
from scvibridge.likelihood.cpu.short_walk import (
    LONGEST,
    UNDECIDED,
    counts_of_uniforms,
    masses_of_zero,
    uniforms_of_counts,
)
from scvibridge.likelihood.cpu.zero_inflation import count_of_uniform, map_positive, map_zero

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


# -- sampling --------------------------------------------------------------------------------------


@kernel
def _sample_row(distribution: Distribution, row: int, work: Row, out: DrawnRows, start: int) -> int:
    """Sample the counts of a row, and write them from `start` on."""
    index = distribution.theta_row[row]
    theta, phi = distribution.theta[index], distribution.phi[index]
    inflated = distribution.zero_inflated
    fill_uniforms(work.words, work.uniform)
    fill_means(distribution, row, work.mean)
    fill_logits(distribution, row, work.logit)
    if not are_valid(work.mean, inflated, work.logit):
        return INVALID
    bound_zero(work.mean, phi, work.bound)
    if inflated:
        bound_zero_inflated(work.logit, work.bound, work)
    n = choose(work.uniform, work.bound, work.chosen)
    gather(work.mean, phi, work.logit, inflated, work.chosen, n, work.entries)
    for i in range(n):
        work.entry_uniform[i] = work.uniform[work.chosen[i]]
        work.entry_count[i] = UNDECIDED
    masses_of_zero(work.entries, n, inflated, work.scratch, work.dropped, work.mass, work.short)
    counts_of_uniforms(
        work.entries,
        n,
        work.entry_uniform,
        work.dropped,
        work.mass,
        work.short,
        work.scratch,
        work.entry_count,
    )
    length = 0
    for i in range(n):
        count = work.entry_count[i]
        if count == UNDECIDED:
            entries = work.entries
            theta_i = theta[work.chosen[i]]
            count = count_of_uniform(
                work.entry_uniform[i], entries.mean[i], theta_i, entries.logit[i]
            )
            if count > LARGEST_COUNT:
                return TOO_LARGE
        out.indices[start + length] = work.chosen[i]
        out.data[start + length] = count
        length += count > 0
    out.length[row] = length
    return FINE


@entry
def sample_rows(
    distribution: Distribution,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: np.uint64,
    out: DrawnRows,
    status: npt.NDArray[np.int8],
) -> None:
    """Fill `out` with samples for n rows, and `status` (n,) with a code for each row."""
    n_rows, n_genes = cell_hashes.shape[0], gene_hashes.shape[0]
    work = new_row(n_genes)
    out.length[:] = 0
    end = 0
    for row in range(n_rows):
        fill_words(cell_hashes[row], gene_hashes, seed, COUNTS_STREAM, False, work.words)
        status[row] = _sample_row(distribution, row, work, out, end)
        end += out.length[row]


# -- mapping ---------------------------------------------------------------------------------------


@kernel
def _map_entry(
    count: int,
    uniform: float,
    source: tuple[float, float, float],
    target: tuple[float, float, float],
) -> int:
    mean, theta, logit = source
    new_mean, new_theta, new_logit = target
    if count > 0:
        return map_positive(count, uniform, mean, theta, logit, new_mean, new_theta, new_logit)
    # If zeros are at least as likely under the target, a zero stays zero.
    if new_mean <= mean and new_theta <= theta and new_logit >= logit:
        return 0
    return map_zero(uniform, mean, theta, logit, new_mean, new_theta, new_logit)


@kernel
def _settle(work: Row, n: int, keep_unchanged: bool) -> None:
    """Compute the counts that need no walk, and set `work.short` for those that may need one.

    All other counts are set to `UNDECIDED`.
    """
    old, new = work.entries, work.new_entries
    for i in range(n):
        observed = work.observed[work.chosen[i]]
        same = old.mean[i] == new.mean[i] and old.phi[i] == new.phi[i]
        same = same and old.logit[i] == new.logit[i]
        impossible = observed > 0 and (old.mean[i] == 0.0 or new.mean[i] == 0.0)
        may = work.short[i] and work.new_short[i] and observed < LONGEST and not impossible
        settled = keep_unchanged and same
        work.entry_count[i] = observed if settled else UNDECIDED
        work.short[i] = may and not settled


@kernel
def _walk_both(
    source: Distribution, target: Distribution, work: Row, n: int, keep_unchanged: bool
) -> None:
    """Fill `work.entry_count` with mapped counts, or `UNDECIDED`."""
    scratch, uniform = work.scratch, work.entry_uniform
    masses_of_zero(
        work.entries, n, source.zero_inflated, scratch, work.dropped, work.mass, work.short
    )
    masses_of_zero(
        work.new_entries,
        n,
        target.zero_inflated,
        scratch,
        work.new_dropped,
        work.new_mass,
        work.new_short,
    )
    _settle(work, n, keep_unchanged)
    for i in range(n):
        uniform[i] = work.uniform[work.chosen[i]]
        work.entry_observed[i] = work.observed[work.chosen[i]]
    uniforms_of_counts(
        work.entries,
        n,
        work.entry_observed,
        uniform,
        work.dropped,
        work.mass,
        work.short,
        scratch,
    )
    counts_of_uniforms(
        work.new_entries,
        n,
        uniform,
        work.new_dropped,
        work.new_mass,
        work.short,
        scratch,
        work.entry_count,
    )


@kernel
def _map_chosen(
    source: Distribution, target: Distribution, row: int, work: Row, n: int, keep_unchanged: bool
) -> None:
    """Fill `work.entry_count` with the mapped counts of the first `n` of `work.chosen`."""
    index, new_index = source.theta_row[row], target.theta_row[row]
    old, new, chosen = work.entries, work.new_entries, work.chosen
    gather(work.mean, source.phi[index], work.logit, source.zero_inflated, chosen, n, old)
    gather(
        work.new_mean, target.phi[new_index], work.new_logit, target.zero_inflated, chosen, n, new
    )
    _walk_both(source, target, work, n, keep_unchanged)
    theta, new_theta = source.theta[index], target.theta[new_index]
    for i in range(n):
        if work.entry_count[i] == UNDECIDED:
            gene = chosen[i]
            work.entry_count[i] = _map_entry(
                int(work.observed[gene]),
                work.uniform[gene],
                (old.mean[i], theta[gene], old.logit[i]),
                (new.mean[i], new_theta[gene], new.logit[i]),
            )


@kernel
def _map_row(
    source: Distribution,
    target: Distribution,
    keep_unchanged: bool,
    row: int,
    work: Row,
    out: DrawnRows,
    start: int,
) -> int:
    """Map the counts of a row, which are in `work.observed`, and write them from `start` on."""
    fill_uniforms(work.words, work.uniform)
    fill_means(source, row, work.mean)
    fill_means(target, row, work.new_mean)
    fill_logits(source, row, work.logit)
    fill_logits(target, row, work.new_logit)
    if not (
        are_valid(work.mean, source.zero_inflated, work.logit)
        and are_valid(work.new_mean, target.zero_inflated, work.new_logit)
    ):
        return INVALID
    phi, new_phi = source.phi[source.theta_row[row]], target.phi[target.theta_row[row]]
    bound_zero_of_target(source, target, phi, new_phi, work)
    n = choose_observed(work.uniform, work.bound, work.observed, work.chosen)
    _map_chosen(source, target, row, work, n, keep_unchanged)
    length = 0
    for i in range(n):
        count = work.entry_count[i]
        if count > LARGEST_COUNT:
            return TOO_LARGE
        out.indices[start + length] = work.chosen[i]
        out.data[start + length] = count
        length += count > 0
    out.length[row] = length
    return FINE


@entry
def map_rows(
    counts: CompressedRows,
    source: Distribution,
    target: Distribution,
    keep_unchanged: bool,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: np.uint64,
    out: DrawnRows,
    status: npt.NDArray[np.int8],
) -> None:
    """Fill `out` with counts of n rows mapped from source to target; see `sample_rows`."""
    n_rows, n_genes = cell_hashes.shape[0], gene_hashes.shape[0]
    work = new_row(n_genes)
    out.length[:] = 0
    end = 0
    for row in range(n_rows):
        fill_words(cell_hashes[row], gene_hashes, seed, COUNTS_STREAM, True, work.words)
        scatter(counts, row, work.observed)
        status[row] = _map_row(source, target, keep_unchanged, row, work, out, end)
        end += out.length[row]
        clear(counts, row, work.observed)
