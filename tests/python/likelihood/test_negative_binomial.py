"""Masses, tails, quantiles and transforms of a count against mpmath and scipy."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from kernels import callable_from_python
from scipy import special, stats

from scvibridge.likelihood.cpu import mass, negative_binomial, tails, zero_inflation
from scvibridge.likelihood.cpu.negative_binomial import LARGEST_QUANTILE

log_mass = callable_from_python(mass.log_mass)
stirling_error = callable_from_python(mass.stirling_error)
quantile = callable_from_python(negative_binomial.quantile)
randomised_transform = callable_from_python(negative_binomial.randomised_transform)
log_mass_and_tails = callable_from_python(tails.log_mass_and_tails)
count_of_uniform = callable_from_python(zero_inflation.count_of_uniform)
map_positive = callable_from_python(zero_inflation.map_positive)
map_zero = callable_from_python(zero_inflation.map_zero)
mixture_transform = callable_from_python(zero_inflation.mixture_transform)

POISSON = np.inf
SMALLEST_PART = mpmath.mpf(10) ** -24


@pytest.fixture(autouse=True)
def _thirty_digits():
    with mpmath.workdps(30):
        yield


def exact_log_mass(count, mean, theta):
    x, mu = mpmath.mpf(count), mpmath.mpf(mean)
    if theta == POISSON:
        return x * mpmath.log(mu) - mu - mpmath.loggamma(x + 1)
    size = mpmath.mpf(theta)
    return (
        mpmath.loggamma(x + size)
        - mpmath.loggamma(size)
        - mpmath.loggamma(x + 1)
        + size * mpmath.log(size / (size + mu))
        + x * mpmath.log(mu / (size + mu))
    )


def exact_ratio(count, mean, theta):
    """f(x + 1) / f(x)."""
    x, mu = mpmath.mpf(count), mpmath.mpf(mean)
    if theta == POISSON:
        return mu / (x + 1)
    size = mpmath.mpf(theta)
    return mu / (size + mu) * (size + x) / (x + 1)


def exact_tail(count, upper, mean, theta):
    """P(X > x) or P(X <= x), by adding up masses, or where that is long by mpmath's functions."""
    if count < 0:
        return mpmath.mpf(1) if upper else mpmath.mpf(0)
    odds = 0.0 if theta == POISSON else mean / theta
    n_terms = 80 * (1 + odds) + 20 * np.sqrt(mean * (1 + odds)) if upper else count
    if theta != POISSON and n_terms > 5000 and odds > 1:
        return exact_incomplete_beta(count, upper, mean, theta)
    here = int(count) + 1 if upper else int(count)
    term = total = mpmath.exp(exact_log_mass(here, mean, theta))
    while term > total * SMALLEST_PART:
        if upper:
            term *= exact_ratio(here, mean, theta)
            here += 1
        elif here == 0:
            break
        else:
            here -= 1
            term /= exact_ratio(here, mean, theta)
        total += term
    return total


def exact_incomplete_beta(count, upper, mean, theta):
    x, mu, size = mpmath.mpf(count), mpmath.mpf(mean), mpmath.mpf(theta)
    if upper:
        return mpmath.betainc(x + 1, size, 0, mu / (size + mu), regularized=True)
    return mpmath.betainc(size, x + 1, 0, size / (size + mu), regularized=True)


def is_quantile(count, log_tail, upper, mean, theta):
    """F(x - 1) < u <= F(x), decided with thirty digits."""
    probability = mpmath.exp(mpmath.mpf(log_tail))
    mass = mpmath.exp(exact_log_mass(count, mean, theta))
    # The smaller of the two tails, to which the mass is added, so that no digits are lost.
    if upper:
        here = exact_tail(count, upper, mean, theta)
        return here <= probability < here + mass
    before = exact_tail(count - 1, upper, mean, theta)
    return before < probability <= before + mass


def random_parameters(rng, n, poisson_share=0.15):
    mean = 10 ** rng.uniform(-6, 6, n)
    theta = 10 ** rng.uniform(-3, 6, n)
    theta[rng.random(n) < poisson_share] = POISSON
    return mean, theta


def test_stirling_error():
    sizes = np.concatenate([10 ** np.random.default_rng(0).uniform(-8, 8, 400), np.arange(1.0, 40)])
    for size in sizes:
        n = mpmath.mpf(size)
        half_log = mpmath.log(2 * mpmath.pi) / 2
        exact = mpmath.loggamma(n + 1) - (n + 0.5) * mpmath.log(n) + n - half_log
        assert abs(stirling_error(size) - exact) < 5e-16 * max(1, abs(exact))


def test_log_mass():
    rng = np.random.default_rng(1)
    mean, theta = random_parameters(rng, 1500)
    mean[:300] = 10 ** rng.uniform(-8, -6, 300)
    count = np.floor(10 ** rng.uniform(0, 5, 1500)) - 1
    count[::3] = np.round(mean[::3] * rng.uniform(0.5, 2, 500))
    for arguments in zip(count, mean, theta, strict=True):
        exact = exact_log_mass(*arguments)
        assert abs(log_mass(*arguments) - exact) < 1e-14 * max(1, abs(exact)), arguments


def test_log_mass_of_impossible_and_certain_counts():
    assert log_mass(0.0, 0.0, 4.0) == 0.0
    assert log_mass(3.0, 0.0, 4.0) == -np.inf
    assert log_mass(0.0, 0.0, POISSON) == 0.0


@pytest.mark.parametrize("mean", [1e-8, 1e-3, 0.3, 5.0, 40.0, 900.0, 2e4])
@pytest.mark.parametrize("theta", [1e-3, 0.04, 0.7, 4.0, 300.0, 1e6, POISSON])
def test_tails(mean, theta):
    spread = np.sqrt(mean + (0.0 if theta == POISSON else mean**2 / theta))
    counts = {0, 1, 2, 17, 60}
    counts |= {int(max(mean + shift * spread, 0)) for shift in (-5, -2, -0.3, 0, 0.3, 2, 5, 30)}
    for count in counts:
        _, log_lower, log_upper = log_mass_and_tails(float(count), mean, theta)
        lower = exact_tail(count, False, mean, theta)
        upper = exact_tail(count, True, mean, theta)
        smaller, got = (upper, log_upper) if upper < lower else (lower, log_lower)
        # A double cannot hold the logarithm of a tail much better than this. Where theta is small
        # and a count below mean / theta, the upper tail is a difference from 1.
        tolerance = 1e-14 * max(1.0, abs(got)) + (2e-14 / theta if theta < 1 else 0)
        assert abs(got - mpmath.log(smaller)) < tolerance, (count, got)
        assert np.logaddexp(log_lower, log_upper) == pytest.approx(0.0, abs=1e-14)


def scipy_log_tail(count, upper, mean, theta):
    """Log of a tail by scipy's incomplete functions, each with the argument that is below 1/2."""
    poisson = np.isinf(theta)
    size = np.where(poisson, 1.0, theta)
    p, q = size / (size + mean), mean / (size + mean)
    beta_lower = np.where(
        p < 0.5, special.betainc(size, count + 1, p), special.betaincc(count + 1, size, q)
    )
    beta_upper = np.where(
        p < 0.5, special.betaincc(size, count + 1, p), special.betainc(count + 1, size, q)
    )
    lower = np.where(poisson, special.gammaincc(count + 1, mean), beta_lower)
    tail = np.where(upper, np.where(poisson, special.gammainc(count + 1, mean), beta_upper), lower)
    with np.errstate(divide="ignore"):
        return np.log(tail)


@pytest.mark.skipif(not hasattr(special, "betaincc"), reason="needs scipy >= 1.12")
def test_quantile_on_random_parameters_against_scipy():
    rng = np.random.default_rng(2)
    n = 100_000
    mean, theta = random_parameters(rng, n)
    log_tail = np.log(rng.random(n) / 2)
    far = rng.random(n) < 0.5
    log_tail[far] = -(10 ** rng.uniform(0, np.log10(500), far.sum())) + np.log(0.5)
    upper = rng.random(n) < 0.5
    count = np.array([quantile(*a) for a in zip(log_tail, upper, mean, theta, strict=True)], float)
    assert count.max() < LARGEST_QUANTILE

    here = scipy_log_tail(count, upper, mean, theta)
    before = np.full(n, -np.inf)
    before[upper] = 0.0
    positive = count > 0
    before[positive] = scipy_log_tail(
        count[positive] - 1, upper[positive], mean[positive], theta[positive]
    )
    holds = np.where(
        upper, (here <= log_tail) & (log_tail < before), (before < log_tail) & (log_tail <= here)
    )
    # scipy's own error is a few 1e-12; what is nearer to a boundary is not its to decide.
    margin = np.minimum(np.abs(here - log_tail), np.abs(before - log_tail))
    near = margin < 1e-11 * np.maximum(1.0, np.abs(log_tail))
    assert near.sum() < 100
    undecided = np.flatnonzero(near | ~holds)
    assert (~holds).sum() < 100
    for index in undecided:
        arguments = (count[index], log_tail[index], upper[index], mean[index], theta[index])
        assert is_quantile(*arguments), arguments


def test_quantile_at_extremes_against_mpmath():
    rng = np.random.default_rng(3)
    cases = [
        (log_tail * rng.uniform(0.5, 1), upper, mean, theta)
        for mean in (1e-8, 1e-6, 1e-3, 30.0, 1e6)
        for theta in (1e-3, 0.1, 10.0, 1e6, POISSON)
        for log_tail in (-1e-9, -0.7, -20.0, -690.0)
        for upper in (False, True)
    ]
    assert len(cases) == 200
    for log_tail, upper, mean, theta in cases:
        count = quantile(log_tail, upper, mean, theta)
        assert is_quantile(count, log_tail, upper, mean, theta), (log_tail, upper, mean, theta)


def test_quantile_equals_scipy_where_that_is_well_behaved():
    rng = np.random.default_rng(4)
    mean, theta = 10 ** rng.uniform(-1, 3, 20_000), 10 ** rng.uniform(-1, 3, 20_000)
    uniform = rng.uniform(1e-6, 1 - 1e-6, 20_000)
    expected = stats.nbinom.ppf(uniform, theta, theta / (theta + mean))
    got = [
        count_of_uniform(u, mu, size, -np.inf)
        for u, mu, size in zip(uniform, mean, theta, strict=True)
    ]
    np.testing.assert_array_equal(got, expected)


def test_quantile_ends_where_no_int64_is_large_enough():
    assert quantile(-1e9, True, 1e6, 1e-3) == LARGEST_QUANTILE
    assert quantile(-1e9, False, 1e6, 1e-3) == 0
    assert quantile(-1e-300, False, 1e-8, 4.0) > 0
    assert quantile(0.0, False, 5.0, 4.0) == LARGEST_QUANTILE
    assert quantile(-np.inf, True, 5.0, 4.0) == LARGEST_QUANTILE
    assert quantile(-np.inf, False, 5.0, 4.0) == 0


def exact_transform(count, uniform, upper, mean, theta):
    mass = mpmath.exp(exact_log_mass(count, mean, theta))
    v = mpmath.mpf(uniform)
    if upper:
        return exact_tail(count, True, mean, theta) + (1 - v) * mass
    return exact_tail(count - 1, False, mean, theta) + v * mass


@pytest.mark.parametrize("theta", [0.05, 4.0, 1e6, POISSON])
def test_transform(theta):
    rng = np.random.default_rng(5)
    for mean in 10 ** rng.uniform(-6, 4, 60):
        for count in (0, 1, 3, 30, 33, int(mean), int(1.3 * mean) + 2, int(mean / 3)):
            uniform = float(rng.choice([rng.random(), 2.0**-53, 1 - 2.0**-53]))
            log_tail, upper = randomised_transform(count, uniform, mean, theta)
            exact = mpmath.log(exact_transform(count, uniform, upper, mean, theta))
            assert log_tail <= np.log(0.5) + 1e-12
            assert abs(log_tail - exact) < 1e-12 * max(1.0, abs(log_tail)), (count, uniform, mean)


@pytest.mark.parametrize("count", [60, 75, 100, 1000])
def test_upper_tail_where_u_rounds_to_one(count):
    # In double precision u is 1 here, and a quantile of it would be infinite.
    assert stats.nbinom.cdf(count - 1, 4.0, 0.8) == 1.0
    for uniform in (1e-9, 0.4, 1 - 1e-9):
        log_tail, upper = randomised_transform(count, uniform, 1.0, 4.0)
        assert upper
        exact = mpmath.log(exact_transform(count, uniform, True, 1.0, 4.0))
        assert abs(log_tail - exact) < 1e-14 * abs(exact)
        assert quantile(log_tail, upper, 1.0, 4.0) == count
        # A target of twice the mean asks for more, one of half the mean for less.
        assert is_quantile(quantile(log_tail, upper, 2.0, 4.0), log_tail, upper, 2.0, 4.0)
        assert quantile(log_tail, upper, 0.5, 4.0) < count < quantile(log_tail, upper, 2.0, 4.0)


@pytest.mark.parametrize("theta", [1e-3, 4.0, POISSON])
@pytest.mark.parametrize("count", [1, 10, 1000, 100_000])
def test_counts_far_beyond_a_tiny_mean_stay_finite(count, theta):
    log_tail, upper = randomised_transform(count, 0.3, 1e-8, theta)
    exact = mpmath.log(exact_transform(count, 0.3, True, 1e-8, theta))
    assert upper
    assert np.isfinite(log_tail)
    assert abs(log_tail - exact) < 1e-14 * abs(exact) + 1e-13
    assert quantile(log_tail, upper, 1e-8, theta) == count
    more = quantile(log_tail, upper, 1e-6, theta)
    assert is_quantile(more, log_tail, upper, 1e-6, theta)
    assert more > count or count == 1


def test_transform_is_monotone_across_changes_of_method():
    # The sum ends at 32, the walk at 63, and the fraction changes sides near the mean.
    for mean, theta in ((20.0, 3.0), (20.0, 1e5), (60.0, POISSON), (5.0, 0.05)):
        transforms = [randomised_transform(count, 0.5, mean, theta) for count in range(150)]
        sides = [upper for _, upper in transforms]
        # Lower tails rise, then upper tails fall.
        assert sides == sorted(sides)
        assert np.all(np.diff([log_tail for log_tail, upper in transforms if not upper]) > 0)
        assert np.all(np.diff([log_tail for log_tail, upper in transforms if upper]) < 0)


@pytest.mark.parametrize("logit", [-40.0, -2.0, 0.0, 3.0])
def test_mixture_transform(logit):
    dropped = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
    rng = np.random.default_rng(6)
    for mean in (1e-4, 0.5, 30.0, 3000.0):
        for count in (0, 1, 2, 25, 40):
            uniform = rng.random()
            log_tail, upper = mixture_transform(count, uniform, mean, 4.0, logit)
            part = exact_transform(count, uniform, upper, mean, 4.0)
            if count == 0:
                zero = dropped + (1 - dropped) * mpmath.exp(exact_log_mass(0, mean, 4.0))
                exact = 1 - mpmath.mpf(uniform) * zero if upper else mpmath.mpf(uniform) * zero
            else:
                exact = (1 - dropped) * part if upper else dropped + (1 - dropped) * part
            exact = mpmath.log(exact)
            assert abs(log_tail - exact) < 1e-12 * max(1.0, abs(log_tail)), (mean, count)


def exact_mixture_count(lower, mean, theta, logit):
    """Quantile of the mixture by adding up masses."""
    dropped = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
    count, mass = 0, mpmath.exp(exact_log_mass(0, mean, theta))
    total = dropped + (1 - dropped) * mass
    while total < lower:
        mass *= exact_ratio(count, mean, theta)
        count += 1
        total += (1 - dropped) * mass
    return count


def test_mixtures_map_to_each_other_by_the_written_rules():
    rng = np.random.default_rng(7)
    for _ in range(400):
        mean, new_mean = 10 ** rng.uniform(-2, 1.5, 2)
        theta, new_theta = 10 ** rng.uniform(-1, 2, 2)
        logit, new_logit = rng.uniform(-5, 3, 2)
        uniform, count = rng.random(), int(rng.integers(0, 12))
        dropped = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
        v, mass = mpmath.mpf(uniform), mpmath.exp(exact_log_mass(count, mean, theta))
        if count == 0:
            lower = v * (dropped + (1 - dropped) * mass)
            got = map_zero(uniform, mean, theta, logit, new_mean, new_theta, new_logit)
        else:
            below = exact_tail(count - 1, False, mean, theta)
            lower = dropped + (1 - dropped) * (below + v * mass)
            got = map_positive(count, uniform, mean, theta, logit, new_mean, new_theta, new_logit)
        assert got == exact_mixture_count(lower, new_mean, new_theta, new_logit)


def test_equal_dropout_keeps_a_small_probability_beside_it():
    # u = .3 + 7e-28: as a double it would be .3, and the count a dropout.
    logit = float(np.log(0.3 / 0.7))
    assert map_positive(5, 0.5, 100.0, 100.0, logit, 100.0, 100.0, logit) == 5


def test_counts_of_a_mean_of_zero():
    assert map_positive(7, 0.5, 0.0, 4.0, -np.inf, 3.0, 4.0, -np.inf) == 7
    assert map_positive(7, 0.5, 3.0, 4.0, -np.inf, 0.0, 4.0, -np.inf) == 0
    assert map_zero(0.9999, 3.0, 4.0, -np.inf, 0.0, 4.0, -np.inf) == 0
    assert count_of_uniform(1 - 2.0**-53, 0.0, 4.0, -np.inf) == 0
    # The smallest mean that there is: finite, and not below the count at the same mean.
    assert map_positive(7, 0.5, 5e-324, 4.0, -np.inf, 5e-324, 4.0, -np.inf) == 7
