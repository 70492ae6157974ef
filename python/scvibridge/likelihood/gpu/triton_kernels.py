"""The Triton kernels: screening of entries, and the exact solution of the remaining ones."""

from __future__ import annotations

import triton
import triton.language as tl

from scvibridge.likelihood.gpu import strips

_PENDING = tl.constexpr(strips.PENDING)

_ROUNDING = tl.constexpr(strips.ROUNDING)

_FEWEST_ROUNDINGS = tl.constexpr(strips.FEWEST_ROUNDINGS)

_SHRINKAGE = tl.constexpr(strips.SHRINKAGE)

_LOG_SHRINKAGE = tl.constexpr(strips.LOG_SHRINKAGE)

_LARGEST_SUM = tl.constexpr(strips.LARGEST_SUM)

_SMALLEST_UNIFORM = tl.constexpr(strips.SMALLEST_UNIFORM)

_INFINITY = tl.constexpr(float("inf"))


# -- parameters, probabilities and random numbers of entries --------------------------------------


@triton.jit
def _log1p(x: tl.tensor) -> tl.tensor:
    # The log of the rounded 1 + x, corrected for the rounding (W. Kahan).
    rounded = 1.0 + x
    change = rounded - 1.0
    is_lost = change == 0.0
    return tl.where(is_lost, x, tl.log(rounded) * (x / tl.where(is_lost, 1.0, change)))


@triton.jit
def _log_zero(mean: tl.tensor, theta: tl.tensor) -> tl.tensor:
    """Return the log probability of 0 under the count component."""
    is_poisson = theta == _INFINITY
    size = tl.where(is_poisson, 1.0, theta)
    return tl.where(is_poisson, -mean, -size * _log1p(mean / size))


@triton.jit
def _dropout(logit: tl.tensor) -> tl.tuple:
    """Return pi and 1 - pi, neither computed by subtraction from 1."""
    return 1.0 / (1.0 + tl.exp(-logit)), 1.0 / (1.0 + tl.exp(logit))


@triton.jit
def _probability_of_zero(log_zero: tl.tensor, logit: tl.tensor) -> tl.tensor:
    dropped, kept = _dropout(logit)
    return dropped + kept * tl.exp(log_zero)


@triton.jit
def _entries(
    parameters: tl.tuple, row: tl.tensor, gene: tl.tensor, mask: tl.tensor, n_genes: tl.tensor
) -> tl.tuple:
    """Return mean, inverse dispersion and logit of the dropout, in double precision.

    `row` is a single int64 for all entries, or one for each entry.
    """
    place = row * n_genes + gene
    mean = tl.load(parameters.rate + place, mask=mask, other=0.0).to(tl.float64)
    mean = mean * tl.load(parameters.factor + row)
    if parameters.shift_row is not None:
        shift_place = tl.load(parameters.shift_row + row) * n_genes + gene
        mean = mean * tl.load(parameters.ratio + shift_place, mask=mask, other=1.0)
    theta = tl.full(mean.shape, _INFINITY, tl.float64)
    if parameters.theta is not None:
        theta_place = tl.load(parameters.theta_row + row) * n_genes + gene
        theta = tl.load(parameters.theta + theta_place, mask=mask, other=1.0)
    logit = tl.full(mean.shape, -_INFINITY, tl.float64)
    if parameters.zi_logits is not None:
        logit = tl.load(parameters.zi_logits + place, mask=mask, other=0.0).to(tl.float64)
        if parameters.zi_shift is not None:
            logit = logit + tl.load(parameters.zi_shift + shift_place, mask=mask, other=0.0)
    return mean, theta, logit


@triton.jit
def _is_valid(mean: tl.tensor, logit: tl.tensor) -> tl.tensor:
    return (mean >= 0.0) & (mean < _INFINITY) & (logit == logit)  # noqa: PLR0124


@triton.jit
def open_uniforms(
    cell: tl.tensor, gene: tl.tensor, seed: tl.tensor, second: tl.constexpr
) -> tl.tensor:
    """Return uniforms in (0, 1) from the hashes of cells and genes; see `cpu.philox`.

    The key of `tl.philox` is the low and the high word of its seed: (seed, stream 0).
    """
    word_0, word_1, word_2, word_3 = tl.philox(
        seed,
        (cell & 0xFFFFFFFF).to(tl.uint32),
        (cell >> 32).to(tl.uint32),
        (gene & 0xFFFFFFFF).to(tl.uint32),
        (gene >> 32).to(tl.uint32),
    )
    if second:
        high, low = word_2, word_3
    else:
        high, low = word_0, word_1
    bits = (high.to(tl.int64) << 21) | (low >> 11).to(tl.int64) | 1
    return bits.to(tl.float64) * 1.1102230246251565e-16  # 2**-53


# -- the first pass: which entries may be above 0 -------------------------------------------------


@triton.jit(do_not_specialize=("seed",))
def screen_kernel(
    source: tl.tuple,
    target: tl.tuple,
    cells: tl.tensor,
    genes: tl.tensor,
    seed: tl.tensor,
    flags: tl.tensor,
    invalid: tl.tensor,
    n_genes: tl.tensor,
    block: tl.constexpr,
) -> None:
    """Flag the entries of a row whose count may be above 0, assuming observed counts of 0."""
    row = tl.program_id(0).to(tl.int64)
    gene = tl.program_id(1) * block + tl.arange(0, block)
    mask = gene < n_genes
    mean, theta, logit = _entries(target, row, gene, mask, n_genes)
    uniform = open_uniforms(
        tl.load(cells + row), tl.load(genes + gene, mask=mask, other=0), seed, source is not None
    )
    valid = _is_valid(mean, logit)
    log_zero = _log_zero(mean, theta)
    roundings = _FEWEST_ROUNDINGS - log_zero
    stays = mean < 0.0
    if source is not None:
        own_mean, own_theta, own_logit = _entries(source, row, gene, mask, n_genes)
        valid = valid & _is_valid(own_mean, own_logit)
        own_log_zero = _log_zero(own_mean, own_theta)
        uniform = uniform * _probability_of_zero(own_log_zero, own_logit)
        roundings = roundings - own_log_zero
        # If zeros are at least as likely under the target, a zero stays zero.
        stays = (mean <= own_mean) & (theta <= own_theta) & (logit >= own_logit)
    zero = _probability_of_zero(log_zero, logit)
    below = uniform <= zero * (1.0 - _ROUNDING * roundings)
    surely_zero = stays | (below & (zero > _SMALLEST_UNIFORM))
    place = row * n_genes + gene
    tl.store(flags + place, tl.where(surely_zero, 0, 1).to(tl.uint8), mask=mask)
    n_invalid = tl.sum(tl.where(mask & ~valid, 1, 0), axis=0)
    tl.store(invalid + row, (n_invalid > 0).to(tl.uint8), mask=n_invalid > 0)


# -- the second pass: the counts of a list of entries ---------------------------------------------


@triton.jit
def _at_zero(log_zero: tl.tensor) -> tl.tuple:
    """Start a walk: F(-1), f(0), and how often to scale both down."""
    level = tl.floor(-log_zero / _LOG_SHRINKAGE)
    mass = tl.exp(log_zero + level * _LOG_SHRINKAGE)
    return tl.zeros_like(mass), mass, level


@triton.jit
def _advance(
    below: tl.tensor,
    mass: tl.tensor,
    level: tl.tensor,
    count: tl.tensor,
    mean: tl.tensor,
    phi: tl.tensor,
) -> tl.tuple:
    """Advance from `count` to the next one."""
    below = below + mass
    ratio = mean * (1.0 + count * phi) / ((1.0 + mean * phi) * (count + 1.0))
    is_large = below > _LARGEST_SUM
    scale = tl.where(is_large, _SHRINKAGE, 1.0)
    return below * scale, mass * ratio * scale, tl.where(is_large, level - 1.0, level)


@triton.jit
def _transform(
    observed: tl.tensor,
    uniform: tl.tensor,
    mean: tl.tensor,
    theta: tl.tensor,
    logit: tl.tensor,
    log_zero: tl.tensor,
    is_open: tl.tensor,
) -> tl.tensor:
    """Compute the randomised probability integral transform of the mixture; tiny masses are 0."""
    below, mass, level = _at_zero(log_zero)
    phi = 1.0 / theta
    farthest = tl.max(tl.where(is_open, observed, 0), axis=0)
    count = tl.zeros_like(farthest)
    while count < farthest:
        new_below, new_mass, new_level = _advance(
            below, mass, level, count.to(tl.float64), mean, phi
        )
        goes_on = count < observed
        below = tl.where(goes_on, new_below, below)
        mass = tl.where(goes_on, new_mass, mass)
        level = tl.where(goes_on, new_level, level)
        count += 1
    dropped, kept = _dropout(logit)
    kept = tl.where(level > 0.0, 0.0, kept)
    # For a count above 0 all of the dropout is below it, for a count of 0 a share.
    dropped = tl.where(observed > 0, dropped, uniform * dropped)
    return dropped + kept * (below + uniform * mass)


@triton.jit
def _quantile(
    uniform: tl.tensor,
    roundings: tl.tensor,
    mean: tl.tensor,
    theta: tl.tensor,
    logit: tl.tensor,
    log_zero: tl.tensor,
    is_open: tl.tensor,
    longest: tl.tensor,
) -> tl.tensor:
    """Return the quantile of the mixture where `is_open`, or `PENDING` if it is uncertain."""
    below, mass, level = _at_zero(log_zero)
    phi = 1.0 / theta
    dropped, kept = _dropout(logit)
    answer = tl.full(mean.shape, _PENDING, tl.int32)
    n_open = tl.sum(is_open.to(tl.int32), axis=0)
    count = tl.zeros_like(n_open)
    while (n_open > 0) & (count < longest):
        slack = uniform * _ROUNDING * (roundings + count.to(tl.float64))
        cumulative = dropped + kept * tl.where(level > 0.0, 0.0, below + mass)
        reached = is_open & (cumulative >= uniform - slack)
        answer = tl.where(reached & (cumulative > uniform + slack), count, answer)
        is_open = is_open & ~reached
        n_open = tl.sum(is_open.to(tl.int32), axis=0)
        below, mass, level = _advance(below, mass, level, count.to(tl.float64), mean, phi)
        count += 1
    return answer


@triton.jit(do_not_specialize=("seed", "n_entries", "longest"))
def solve_kernel(
    source: tl.tuple,
    target: tl.tuple,
    cells: tl.tensor,
    genes: tl.tensor,
    seed: tl.tensor,
    positions: tl.tensor,
    observed: tl.tensor,
    counts: tl.tensor,
    n_entries: tl.tensor,
    n_genes: tl.tensor,
    longest: tl.tensor,
    keep_unchanged: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Sample or map the counts of a list of entries."""
    item = tl.program_id(0) * block + tl.arange(0, block)
    mask = item < n_entries
    position = tl.load(positions + item, mask=mask, other=0)
    row = position // n_genes
    gene = position - row * n_genes
    mean, theta, logit = _entries(target, row, gene, mask, n_genes)
    uniform = open_uniforms(tl.load(cells + row), tl.load(genes + gene), seed, source is not None)
    log_zero = _log_zero(mean, theta)
    roundings = _FEWEST_ROUNDINGS - log_zero
    known = tl.where(mean == 0.0, 0, _PENDING)
    is_open = mask
    if source is not None:
        own_mean, own_theta, own_logit = _entries(source, row, gene, mask, n_genes)
        own_log_zero = _log_zero(own_mean, own_theta)
        before = tl.load(observed + item, mask=mask, other=0)
        # A count that is impossible under the source has no probability to map.
        is_kept = own_mean == 0.0
        if keep_unchanged:
            is_equal = (own_mean == mean) & (own_theta == theta) & (own_logit == logit)
            is_kept = is_kept | is_equal
        known = tl.where((before > 0) & is_kept, before, known)
        is_open = is_open & (before <= longest) & (known == _PENDING)
        roundings = roundings - own_log_zero + before.to(tl.float64)
        uniform = _transform(before, uniform, own_mean, own_theta, own_logit, own_log_zero, is_open)
    is_open = is_open & (known == _PENDING)
    is_open = is_open & (uniform > _SMALLEST_UNIFORM) & (mean < longest)
    answer = _quantile(uniform, roundings, mean, theta, logit, log_zero, is_open, longest)
    tl.store(counts + item, tl.where(known == _PENDING, answer, known), mask=mask)
