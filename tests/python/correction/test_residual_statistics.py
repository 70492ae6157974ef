"""Contrasts of samples, moderated variances, and how much of an estimate is removed."""

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose

from scvibridge.correction.residual_statistics import (
    Design,
    beyond_chance,
    effect_sd,
    moderate_variances,
)

BATCH = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
CONDITION = np.array([0, 1, 1, 0, 0, 1, 1, 0, 1, 0])


def indicators(condition):
    return (condition[:, None] == np.unique(condition)[1:]).astype(float)


@pytest.mark.parametrize("targets", [[2], [1, 2]])
def test_contrasts_and_variances_are_those_of_least_squares(targets):
    values = np.random.default_rng(0).normal(size=(len(BATCH), 5))
    design = Design.of(BATCH, indicators(CONDITION))
    contrast = design.contrast(0, targets)
    columns = [*(b == BATCH for b in range(3)), CONDITION == 1]
    matrix = np.stack(columns, axis=1).astype(float)
    wanted = np.array([-1.0, *(np.isin([1, 2], targets) / len(targets)), 0.0])
    for gene in range(values.shape[1]):
        fit = sm.OLS(values[:, gene], matrix).fit()
        test = fit.t_test(wanted)
        assert_allclose(contrast.weights @ values[:, gene], test.effect.item())
        assert_allclose(design.variances(values)[gene], fit.mse_resid)
        error = np.sqrt((contrast.weights**2).sum() * fit.mse_resid)
        assert_allclose(error, test.sd.item())
    assert design.df == fit.df_resid


def test_the_correlation_is_that_of_batch_and_condition():
    batch, condition = np.repeat([0, 1], 6), np.array([0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1])
    contrast = Design.of(batch, indicators(condition)).contrast(0, [1])
    assert_allclose(contrast.correlation, np.corrcoef(batch, condition)[0, 1])
    balanced = np.tile([0, 1], 6)
    assert Design.of(batch, indicators(balanced)).contrast(0, [1]).correlation < 1e-6


@pytest.mark.parametrize(
    ("batch", "condition"),
    [
        ([0, 1, 1, 1], [0, 0, 0, 0]),  # one sample of the batch
        ([0, 0, 0, 1], [0, 0, 0, 0]),  # one of the target
        ([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]),  # the batch is the condition
        ([0, 0, 1, 1], [0, 1, 1, 2]),  # no degree of freedom
    ],
)
def test_what_samples_do_not_tell_is_not_estimated(batch, condition):
    design = Design.of(np.array(batch), indicators(np.array(condition)))
    assert design.contrast(0, [1]) is None


def test_conditions_of_one_sample_are_averaged():
    """Samples that have both conditions, in equal parts, leave nothing to adjust for."""
    design = Design.of(np.array([0, 0, 1, 1]), np.full((4, 1), 0.5))
    assert design.df == 2
    assert_allclose(design.contrast(0, [1]).weights, [-0.5, -0.5, 0.5, 0.5])


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_moderated_variances_are_those_of_limma(run_r, tmp_path, spread):
    rng = np.random.default_rng(1)
    abundance = rng.normal(-9, 2, 400)
    true = np.exp(-0.4 * abundance + rng.normal(0, spread, 400)) / 50
    variances = true * rng.chisquare(7, 400) / 7
    np.savetxt(tmp_path / "given.csv", np.stack([variances, abundance], axis=1), delimiter=",")
    code = """
    folder <- commandArgs(trailingOnly = TRUE)
    given <- read.csv(file.path(folder, "given.csv"), header = FALSE)
    found <- limma::squeezeVar(given[[1L]], 7, covariate = given[[2L]])$var.post
    cat(format(found, digits = 15L), sep = "\\n")
    """
    found = [float(line) for line in run_r(code, tmp_path, needs=("limma",)).split()]
    assert_allclose(moderate_variances(variances, 7, abundance), found, rtol=1e-6)


def test_the_spread_of_effects_is_found():
    rng = np.random.default_rng(2)
    errors = rng.uniform(0.1, 0.3, 4000)
    for sd in (0.1, 0.5):
        estimates = rng.normal(0, np.hypot(sd, errors))
        assert abs(effect_sd(estimates, errors) / sd - 1) < 0.12
    assert effect_sd(rng.normal(0, 0.8 * errors), errors) == 0


def test_what_is_left_varies_as_chance_makes_it():
    rng = np.random.default_rng(3)
    errors = rng.uniform(0.1, 0.3, 20_000)
    estimates = rng.normal(0, np.hypot(0.5, errors))
    left = estimates - beyond_chance(estimates, errors, 0.5)
    assert abs(np.std(left / errors) - 1) < 0.02
    assert (beyond_chance(estimates, errors, 0.0) == 0).all()
    assert (beyond_chance(np.zeros(3), np.zeros(3), 0.0) == 0).all()
