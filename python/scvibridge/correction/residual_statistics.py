"""Statistics of the residual batch effects: contrasts, moderated variances, and shrinkage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, polygamma

# A batch or target with fewer samples gets no residual effect.
MIN_SAMPLES = 2

# Candidate standard deviations on a natural-log scale, starting with zero.
_SDS = np.concatenate([[0.0], 10.0 ** np.linspace(-3.0, 1.0, 161)])

# Interior knots of the variance trend, as in limma, and the fewest genes for which it is fitted.
_INTERIOR_KNOTS, _FEWEST_FOR_TREND = 2, 20

# As in limma, variances below this share of their median are raised to it, since log 0 is infinite.
_LEAST_VARIANCE = 1e-5


@dataclass(frozen=True)
class Contrast:
    """The difference between the target batches and a batch.

    Attributes
    ----------
    weights
        Weight of each sample in the estimate, shape ``(n_samples,)``.
    correlation
        Multiple correlation of the batch with the adjusted columns: 0 if the adjustment does not
        inflate the variance of the estimate.
    """

    weights: np.ndarray
    correlation: float


@dataclass(frozen=True)
class Design:
    """Least squares over samples, by batch and adjusted columns (conditions, or the donor).

    Attributes
    ----------
    batch
        Batch of each sample, shape ``(n_samples,)``.
    matrix, inverse
        The design and its pseudoinverse. The first columns are indicators of the batches that
        occur, in the order of their codes.
    df
        Residual degrees of freedom.
    """

    batch: np.ndarray
    matrix: np.ndarray
    inverse: np.ndarray
    df: int

    @staticmethod
    def of(batch: np.ndarray, adjusted: np.ndarray) -> Design:
        """Build the design from the batches and the columns to adjust for, one row per sample."""
        indicators = (batch[:, None] == np.unique(batch)).astype(float)
        matrix = np.concatenate([indicators, adjusted], axis=1)
        inverse = np.linalg.pinv(matrix)
        # numpy 1 has no rank of an empty matrix.
        rank = int(np.linalg.matrix_rank(matrix)) if matrix.size else 0
        return Design(batch, matrix, inverse, len(batch) - rank)

    def contrast(self, source: int, targets: list[int]) -> Contrast | None:
        """Return the contrast of the target batches, weighted equally, with a batch.

        None if there are fewer than `MIN_SAMPLES` on either side, the contrast cannot be
        estimated, or no degree of freedom is left.
        """
        present = np.unique(self.batch)
        in_target = np.isin(present, targets)
        sizes = (self.batch == source).sum(), np.isin(self.batch, targets).sum()
        if min(sizes) < MIN_SAMPLES or self.df < 1:
            return None
        wanted = np.zeros(self.matrix.shape[1])
        wanted[: len(present)] = in_target / in_target.sum() - (present == source)
        weights = wanted @ self.inverse
        if not np.allclose(weights @ self.matrix, wanted, atol=1e-8):
            return None
        n_samples = (self.batch[:, None] == present).sum(axis=0)
        alone = (wanted[: len(present)] ** 2 / n_samples).sum()
        explained = 1.0 - alone / (weights @ weights)
        return Contrast(weights, float(np.sqrt(max(explained, 0.0))))

    def variances(self, values: np.ndarray) -> np.ndarray:
        """Return the residual variances of values, ``(n_samples, n_genes)``."""
        residuals = values - self.matrix @ (self.inverse @ values)
        return np.asarray((residuals**2).sum(axis=0) / self.df)


def moderate_variances(variances: np.ndarray, df: int, abundance: np.ndarray) -> np.ndarray:
    """Shrink the variances of genes towards their trend over abundance.

    This is limma's empirical Bayes method (Smyth, 2004; ``squeezeVar(covariate=)``).

    Parameters
    ----------
    variances
        Residual variances, shape ``(n_genes,)``.
    df
        Their degrees of freedom.
    abundance
        Mean log frequency of each gene, shape ``(n_genes,)``.
    """
    least = _LEAST_VARIANCE * float(np.median(variances))
    if len(variances) < 2 or least <= 0:
        return variances
    raised = np.maximum(variances, least)
    log_variance = np.log(raised) - digamma(df / 2) + np.log(df / 2)
    basis = _trend_basis(abundance)
    coefficients, _, rank, _ = np.linalg.lstsq(basis, log_variance, rcond=None)
    trend = basis @ coefficients
    spread = ((log_variance - trend) ** 2).sum() / (len(trend) - rank) - polygamma(1, df / 2)
    if spread <= 0:
        return np.asarray(np.exp(trend))
    prior_df = 2.0 * _inverse_trigamma(float(spread))
    prior = np.exp(trend + digamma(prior_df / 2) - np.log(prior_df / 2))
    return np.asarray((prior_df * prior + df * raised) / (prior_df + df))


def _trend_basis(abundance: np.ndarray) -> np.ndarray:
    """Return natural cubic splines with two interior knots, or a constant for few genes."""
    constant = np.ones((len(abundance), 1))
    knots = np.unique(np.quantile(abundance, np.linspace(0.0, 1.0, _INTERIOR_KNOTS + 2)))
    if len(abundance) < _FEWEST_FOR_TREND or len(knots) < 2:
        return constant
    x = (abundance - knots[0]) / (knots[-1] - knots[0])
    knots = (knots - knots[0]) / (knots[-1] - knots[0])
    beyond = np.maximum(x[:, None] - knots, 0.0) ** 3
    slopes = (beyond[:, :-1] - beyond[:, -1:]) / (knots[-1] - knots[:-1])
    return np.concatenate([constant, x[:, None], slopes[:, :-1] - slopes[:, -1:]], axis=1)


def _inverse_trigamma(value: float) -> float:
    """Solve trigamma(y) = value by Newton's method, from below."""
    if value > 1e7:
        return float(1 / np.sqrt(value))
    if value < 1e-6:
        return 1 / value
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y


def effect_sd(estimates: np.ndarray, errors: np.ndarray) -> float:
    """Estimate the standard deviation of the true effects, given estimates with known errors.

    Effects and errors are assumed normal with mean zero. The likelihood is maximised on a grid.
    """
    total = _SDS[:, None] ** 2 + errors**2
    distance = (np.log(total) + estimates**2 / total).sum(axis=1)
    return float(_SDS[int(np.argmin(distance))])


def beyond_chance(estimates: np.ndarray, errors: np.ndarray, sd: float) -> np.ndarray:
    """Return the portion of each estimate to remove, so that the rest is as large as by chance.

    Estimates have variance sd^2 + se^2. The remainder has variance se^2, like estimates for
    batches that do not differ.
    """
    total = np.sqrt(sd**2 + errors**2)
    kept = np.divide(errors, total, out=np.ones_like(total), where=total > 0)
    return np.asarray(estimates * (1.0 - kept))
