"""The fit of the head for added genes: against scipy, torch and independent regressions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import scipy.stats
import torch
from extension import BATCHES, QUIET
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from scvibridge.models.extension import head_fit, head_parameters

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


def head_data(n_cells=120, n_features=3, n_genes=4, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_cells, n_features)).astype(np.float32)
    batch = rng.integers(2, size=n_cells)
    total = rng.lognormal(7, 0.3, n_cells)
    weights, shift = rng.normal(0, 0.5, (n_features, n_genes)), rng.normal(0, 0.7, (2, n_genes))
    rate = np.exp(features @ weights + shift[batch] + np.linspace(-7, -4.5, n_genes))
    counts = rng.negative_binomial(3, 3 / (3 + total[:, None] * rate))
    matrix = sp.csr_matrix(counts.astype(np.int32))
    return head_parameters.HeadData(
        torch.as_tensor(features),
        torch.as_tensor(batch),
        2,
        torch.as_tensor(np.log(total)).float(),
        lambda rows: matrix[rows],
        n_genes,
    ), counts


def pieces_of(data):
    return (
        data.features.numpy().astype(float),
        data.batch.numpy(),
        data.log_total.numpy().astype(float),
    )


def penalised_loss(counts, h, batch, log_total, weights, shift, theta, ridge):
    """Mean over cells of the loss of one gene by scipy; theta is None for Poisson, or by batch."""
    mean = np.exp(h @ weights + shift[batch] + log_total)
    if theta is None:
        law = scipy.stats.poisson.logpmf(counts, mean)
    else:
        own = theta[batch] if len(theta) > 1 else theta[0]
        law = scipy.stats.nbinom.logpmf(counts, own, own / (own + mean))
    return -law.mean() + ridge / 2 * (weights**2).sum()


@pytest.mark.parametrize("law", [("nb", "gene"), ("nb", "gene-batch"), ("poisson", "gene")])
def test_the_fit_is_the_optimum_that_scipy_finds(law):
    data, counts = head_data()
    ridge = 0.05
    fitted = head_fit.fit_head(data, data, *law, ridge, 1500, 0).parameters
    h, batch, log_total = pieces_of(data)
    n_theta = 0 if law[0] == "poisson" else (2 if law[1] == "gene-batch" else 1)
    for gene in range(counts.shape[1]):

        def loss(x, gene=gene):
            theta = np.exp(np.clip(x[5:], -5, 8)) if n_theta else None
            return penalised_loss(counts[:, gene], h, batch, log_total, x[:3], x[3:5], theta, ridge)

        first = np.concatenate([np.zeros(3), np.full(2, -5.0), np.ones(n_theta)])
        best = scipy.optimize.minimize(loss, first, method="BFGS")
        ours = np.concatenate(
            [
                fitted.weights[:, gene],
                fitted.intercept[gene] + fitted.batch[:, gene],
                [] if fitted.log_theta is None else fitted.log_theta[:, gene],
            ]
        )
        assert loss(ours) - best.fun < 1e-3
        assert_allclose(ours[:5], best.x[:5], atol=0.03)


@pytest.mark.parametrize("law", [("nb", "gene"), ("nb", "gene-batch"), ("poisson", "gene")])
def test_gradients_are_those_of_torchs_own_distributions(law):
    data, counts = head_data(seed=1)
    rng, rows, ridge = np.random.default_rng(2), np.arange(7, 60), 0.3
    given = head_fit.start(data, *law)
    for values in given.tensors():
        values.add_(torch.as_tensor(rng.normal(0, 0.4, values.shape)).float())
    ours = head_fit.gradients(given, data, rows, ridge)
    leaves = [values.double().clone().requires_grad_(True) for values in given.tensors()]
    weights, intercept, shift = leaves[:3]
    batch = data.batch[rows]
    log_mean = (
        data.features[rows].double() @ weights
        + intercept
        + shift[batch]
        + data.log_total[rows].double()[:, None]
    )
    x = torch.as_tensor(counts[rows]).double()
    if law[0] == "poisson":
        probability = torch.distributions.Poisson(log_mean.exp()).log_prob(x)
    else:
        log_theta = leaves[3] if len(leaves[3]) == 1 else leaves[3][batch]
        distribution = torch.distributions.NegativeBinomial(
            total_count=log_theta.exp(), logits=log_mean - log_theta
        )
        probability = distribution.log_prob(x)
    loss = -probability.sum() / len(rows) + ridge / 2 * (weights**2).sum()
    loss.backward()
    for found, leaf in zip(ours.tensors(), leaves, strict=True):
        assert_allclose(found.numpy(), leaf.grad.numpy(), rtol=2e-4, atol=2e-5)
    without = float((loss - ridge / 2 * (weights**2).sum()).detach())
    some = head_parameters.HeadData(
        data.features[rows], batch, 2, data.log_total[rows], lambda r: data.counts(rows[r]), 4
    )
    assert head_fit.mean_loss(given, some) == pytest.approx(without, rel=1e-5)


def batch_only_likelihood(counts, batch, total, fit, judge):
    """Held-out log-likelihood of one gene under a regression on [1, batch], by scipy."""

    def loss(x, cells):
        mean, theta = np.exp(x[:3])[batch[cells]] * total[cells], np.exp(np.clip(x[3], -6, 8))
        return -scipy.stats.nbinom.logpmf(counts[cells], theta, theta / (theta + mean)).sum()

    sums = [counts[fit][batch[fit] == b].sum() + 0.5 for b in range(3)]
    totals = [total[fit][batch[fit] == b].sum() for b in range(3)]
    first = np.append(np.log(np.divide(sums, totals)), 1.0)
    best = scipy.optimize.minimize(loss, first, args=(fit,), method="L-BFGS-B").x
    return -loss(best, judge)


def test_held_out_cells_are_likelier_than_under_batch_alone(extended, model, full, added_names):
    judge, fit = model.validation_indices, model.train_indices
    mean = sb.denoised_expression(extended, **QUIET)[:, added_names].X
    counts = full[:, added_names].X.toarray()
    theta = extended.quality.loc[added_names, "theta"].to_numpy()
    ours = scipy.stats.nbinom.logpmf(counts[judge], theta, theta / (theta + mean[judge])).sum()
    batch, total = full.obs["batch"].cat.codes.to_numpy(), full.X.toarray().sum(axis=1)
    alone = sum(batch_only_likelihood(x, batch, total, fit, judge) for x in counts.T)
    per_entry = (ours - alone) / counts[judge].size
    assert per_entry > 0.01
    # The table says so of most genes.
    assert (extended.quality["explained"] > 0).mean() > 0.7


def test_quality_is_the_share_of_deviance_that_is_explained(extended, model, full, added_names):
    judge, fit = model.validation_indices, model.train_indices
    x = full[judge, added_names].X.toarray()
    mean = sb.denoised_expression(extended, **QUIET)[judge, added_names].X
    batch, total = full.obs["batch"].cat.codes.to_numpy(), full.X.toarray().sum(axis=1)
    seen = full[fit, added_names].X.toarray()
    shares = np.stack(
        [seen[batch[fit] == b].sum(0) / total[fit][batch[fit] == b].sum() for b in range(3)]
    )
    theta = extended.quality["theta"].to_numpy()

    def deviance(mu):
        gain = scipy.special.xlogy(x, x / mu) - (x + theta) * np.log((x + theta) / (mu + theta))
        return 2 * gain.sum(axis=0)

    expected = 1 - deviance(mean) / deviance(shares[batch[judge]] * total[judge][:, None])
    assert_allclose(extended.quality["explained"], expected, atol=2e-3)
    assert_allclose(
        extended.quality["detection_rate"], (full[:, added_names].X.toarray() > 0).mean(axis=0)
    )


def test_batch_effects_are_kept_whatever_the_counts(simulate, train):
    # Without intercepts of batches that are free, the ridge takes those of genes with few counts.
    cells = simulate(n_cells=1200, n_genes=400, mean_total=2500, seed=11)
    trained = train(cells[:, :100].copy(), labels_key=None, max_epochs=15, kl_warmup=10)
    ext = sb.extend_genes(trained, cells, ridge=1.0, **QUIET)
    decoded = {
        batch: sb.normalized_expression(
            ext, transform_batch=batch, library_size="observed", **QUIET
        ).X[:, 100:]
        for batch in BATCHES
    }
    truth = cells.varm["batch_effect"][100:]
    sums = np.asarray(cells.X[:, 100:].sum(axis=0)).ravel()
    edges = np.quantile(sums, [0.25, 0.5, 0.75])
    bins = np.digitize(sums, edges)
    for number in range(4):
        x, y = [], []
        for a, b in (("V2", "V1"), ("V3", "V1"), ("V3", "V2")):
            of_bin = bins == number
            estimated = np.log(decoded[a][:, of_bin] / decoded[b][:, of_bin]).mean(axis=0)
            true = (truth[:, BATCHES.index(a)] - truth[:, BATCHES.index(b)])[of_bin]
            x.append(true - true.mean())
            y.append(estimated - estimated.mean())
        x, y = np.concatenate(x), np.concatenate(y)
        assert (x @ y) / (x @ x) > 0.9, number


def test_the_fit_does_not_depend_on_the_order_nor_change_random_numbers(model, full):
    torch.manual_seed(4)
    state = torch.get_rng_state()
    first = sb.extend_genes(model, full, max_epochs=3, ridge="auto", **QUIET)
    assert_array_equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    again = sb.extend_genes(model, full, max_epochs=3, ridge="auto", **QUIET)
    assert_array_equal(first.head.weights, again.head.weights)
    order = np.random.default_rng(0).permutation(full.n_obs)
    genes = np.random.default_rng(1).permutation(full.n_vars)
    shuffled = sb.extend_genes(model, full[order, genes].copy(), max_epochs=3, **QUIET)
    place = [list(shuffled.head.genes).index(gene) for gene in first.head.genes]
    assert_allclose(shuffled.head.weights[:, place], first.head.weights, atol=2e-3)
    assert_allclose(shuffled.head.batch[:, place], first.head.batch, atol=2e-3)
    other = sb.extend_genes(model, full, max_epochs=3, seed=1, **QUIET)
    assert np.abs(other.head.weights - first.head.weights).max() > 1e-3


def test_data_on_disk_are_fitted_alike(extended, model, full, tmp_path):
    path = tmp_path / "all.h5ad"
    full.write_h5ad(path)
    ours = sb.extend_genes(model, path, max_epochs=12, ridge=0.1, **QUIET)
    assert_allclose(ours.head.weights, extended.head.weights, atol=1e-5)
    assert ours.adata is None
