"""Genes that a model never saw: the fit of their head, and their counts beside the model's own."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse as sp
import scipy.stats
import torch
from extension import BATCHES, QUIET, check_added_counts
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from scvibridge.cli.main import main
from scvibridge.expression.extended_model import Both
from scvibridge.models.extension import head_fit, head_parameters

N_GENES, N_OWN = 90, 50
pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


@pytest.fixture(scope="module")
def full(simulate):
    return simulate(n_cells=300, n_genes=N_GENES, seed=5)


@pytest.fixture(scope="module")
def own_names(full):
    chosen = np.sort(np.random.default_rng(0).permutation(N_GENES)[:N_OWN])
    return full.var_names[chosen]


@pytest.fixture(scope="module")
def added_names(full, own_names):
    return full.var_names[~full.var_names.isin(own_names)]


@pytest.fixture(scope="module")
def model(full, own_names, train):
    return train(full[:, own_names].copy(), labels_key=None)


@pytest.fixture(scope="module")
def extended(model, full):
    return sb.extend_genes(model, full, max_epochs=12, ridge=0.1, **QUIET)


# -- the head: against independent regressions ---------------------------------------------------


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


# -- counts of the own genes: the model's, to the last bit ---------------------------------------


@pytest.mark.parametrize("library_size", ["observed", "scaled"])
@pytest.mark.parametrize(
    "how",
    [
        {"effect": "label", "labels_key": "cell_type"},
        {"effect": "label", "labels_key": "cell_type", "shrinkage": "auto", "batch_size": 70},
        {"effect": "global", "sample_key": "condition"},
        {"effect": "cell"},
        {"method": "sample"},
    ],
    ids=["label", "minibatches", "global", "cell", "sample"],
)
def test_own_genes_are_bit_identical(extended, model, own_names, how, library_size):
    given = {**how, "transform_batch": "V3", "library_size": library_size, "seed": 3, **QUIET}
    alone = sb.corrected_counts(model, normalized=True, **given)
    ours = sb.corrected_counts(extended, normalized=True, **given)
    assert list(ours.var_names[:N_OWN]) == list(own_names)
    assert ours.n_vars == N_GENES
    assert_array_equal(ours.X[:, :N_OWN].toarray(), alone.X.toarray())
    assert_array_equal(ours.obsm["X_scvi"], alone.obsm["X_scvi"])
    for name in ("scvibridge_depth_ratio", "scvibridge_support"):
        assert_array_equal(ours.obs[name], alone.obs[name])
    for name, value in alone.uns["scvibridge"].items():
        assert repr(ours.uns["scvibridge"][name]) == repr(value), name


@pytest.mark.parametrize("effect", ["label", "cell"])
def test_cells_elsewhere_are_as_the_model_alone_gives_them(extended, model, full, effect):
    other = full[np.arange(250, 40, -3)].copy()
    given = {
        "transform_batch": ["V1", "V3"],
        "effect": effect,
        "labels_key": "cell_type",
        "library_size": "observed",
        **QUIET,
    }
    alone = sb.corrected_counts(model, other[:, model.adata.var_names].copy(), **given)
    ours = sb.corrected_counts(extended, other, **given)
    assert_array_equal(ours.X[:, :N_OWN].toarray(), alone.X.toarray())


@pytest.mark.parametrize("library_size", ["observed", "scaled", "latent"])
def test_own_expression_is_bit_identical(extended, model, library_size):
    given = {"transform_batch": "V2", "library_size": library_size, **QUIET}
    alone = sb.normalized_expression(model, **given)
    ours = sb.normalized_expression(extended, **given)
    assert_array_equal(ours.X[:, :N_OWN], alone.X)


# -- counts of the added genes: a second implementation ------------------------------------------


@pytest.mark.parametrize("effect", ["label", "global", "cell"])
def test_added_counts_equal_a_second_implementation(extended, full, effect):
    check_added_counts(extended, full, effect)


def test_added_effects_are_shrunk_as_far_as_those_of_own_genes(extended, full):
    check_added_counts(extended, full, "label", kappas=True)


def test_added_counts_of_several_targets(extended, full):
    check_added_counts(extended, full, "label", targets=("V1", "V3"))


def test_added_counts_keep_what_samples_show(extended, full):
    keys = zip(full.obs["batch"], full.obs["cell_type"], full.obs["condition"], strict=True)
    check_added_counts(extended, full, "label", samples=list(keys))


@pytest.mark.parametrize(
    "kind",
    [
        {"gene_likelihood": "poisson"},
        {"gene_likelihood": "zinb", "dispersion": "gene-batch"},
        {"gene_likelihood": "nb", "use_observed_lib_size": False},
    ],
    ids=["poisson", "gene-batch", "latent library"],
)
def test_kinds_of_likelihood(full, own_names, train, kind):
    model = train(full[:, own_names].copy(), labels_key=None, max_epochs=5, **kind)
    ext = sb.extend_genes(model, full, max_epochs=5, ridge=0.1, **QUIET)
    is_poisson = kind["gene_likelihood"] == "poisson"
    assert (ext.head.log_theta is None) == is_poisson
    assert is_poisson or len(ext.head.log_theta) == (3 if "dispersion" in kind else 1)
    for effect in ("label", "cell"):
        check_added_counts(ext, full, effect)
    for how in ({"effect": "global"}, {"method": "sample"}):
        given = {"transform_batch": "V2", "library_size": "scaled", **how, **QUIET}
        alone, ours = sb.corrected_counts(model, **given), sb.corrected_counts(ext, **given)
        assert_array_equal(ours.X[:, :N_OWN].toarray(), alone.X.toarray())


@pytest.fixture(scope="module")
def of_covariates(full, own_names, train):
    cells, rng = full.copy(), np.random.default_rng(0)
    cells.obs["donor"] = pd.Categorical(rng.choice(["D1", "D2"], cells.n_obs))
    cells.obs["mito"] = rng.uniform(0, 0.1, cells.n_obs)
    keys = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["mito"]}
    model = train(cells[:, own_names].copy(), labels_key=None, max_epochs=4, setup=keys)
    return model, sb.extend_genes(model, cells, max_epochs=3, ridge=0.1, **QUIET)


@pytest.mark.parametrize(
    "how",
    [
        {"transform_covariates": {"donor": "D1"}, "labels_key": "cell_type"},
        {"transform_batch": "V2", "transform_covariates": {"donor": "D1"}},
        {"transform_batch": "V2", "transform_covariates": {"mito": 0.05}, "effect": "cell"},
    ],
    ids=["donor", "batch and donor", "continuous"],
)
def test_other_covariates_are_changed_for_added_genes_too(of_covariates, how):
    model, extended = of_covariates
    given = {**how, "library_size": "observed", **QUIET}
    alone, ours = sb.corrected_counts(model, **given), sb.corrected_counts(extended, **given)
    assert_array_equal(ours.X[:, :N_OWN].toarray(), alone.X.toarray())
    added = ours[:, N_OWN:]
    changed = (added.layers["raw_counts"] != added.X).toarray().any(axis=1)
    # Only cells of other donors or batches differ, unless what is set differs for all.
    at_home = ours.obs["donor"] == "D1"
    if "transform_batch" in how:
        at_home &= ours.obs["batch"] == "V2"
    if "mito" in how["transform_covariates"]:
        assert changed.mean() > 0.6
    else:
        assert not changed[at_home].any()
        assert changed[~at_home].mean() > 0.2


def test_given_dispersions_are_those_of_own_genes(extended, model):
    theta = pd.Series(2.0, index=model.adata.var_names)
    given = {"transform_batch": "V2", "library_size": "observed", **QUIET}
    ours = sb.corrected_counts(extended, dispersion=theta, **given).X
    alone = sb.corrected_counts(model, dispersion=theta, **given).X
    assert_array_equal(ours[:, :N_OWN].toarray(), alone.toarray())
    as_fitted = sb.corrected_counts(extended, **given).X
    assert_array_equal(ours[:, N_OWN:].toarray(), as_fitted[:, N_OWN:].toarray())
    assert (ours[:, :N_OWN] != as_fitted[:, :N_OWN]).nnz > 0


def test_workers_are_sent_what_makes_both_parts(extended, monkeypatch):
    given = {"transform_batch": "V2", "effect": "global", **QUIET}
    expected = sb.corrected_counts(extended, **given).X
    made = Both.pieces
    monkeypatch.setattr(
        Both, "pieces", lambda job, cells: made(pickle.loads(pickle.dumps(job)), cells)
    )
    assert_array_equal(sb.corrected_counts(extended, **given).X.toarray(), expected.toarray())


def test_samples_have_the_means_of_the_head(extended, added_names):
    drawn = np.mean(
        [
            sb.corrected_counts(
                extended,
                transform_batch="V2",
                method="sample",
                library_size="observed",
                seed=seed,
                gene_list=list(added_names),
                **QUIET,
            ).X.toarray()
            for seed in range(30)
        ],
        axis=0,
    ).mean(axis=0)
    mean = sb.normalized_expression(
        extended,
        transform_batch="V2",
        library_size="observed",
        n_samples=30,
        gene_list=list(added_names),
        **QUIET,
    ).X.mean(axis=0)
    assert_allclose(drawn, mean, rtol=0.12, atol=0.02)
    assert np.abs(np.log(drawn / mean)).mean() < 0.03


def test_a_given_depth_is_counted_from_all_genes(extended, model, full, added_names):
    total = full.X.toarray().sum(axis=1)
    given = {"transform_batch": "V3", "effect": "global", "library_size": 2000.0, **QUIET}
    ours = sb.corrected_counts(extended, **given)
    assert_allclose(ours.obs["scvibridge_depth_ratio"], 2000 / total)
    home = total[(full.obs["batch"] == "V3").to_numpy()]
    median = sb.corrected_counts(extended, **{**given, "library_size": "median"})
    assert_allclose(median.obs["scvibridge_depth_ratio"], np.median(home) / total)
    shares = sb.normalized_expression(extended, library_size=1.0, **QUIET)
    own = sb.denoised_expression(model, library_size=1.0, **QUIET).X
    own_total = full[:, model.adata.var_names].X.toarray().sum(axis=1)
    assert_allclose(shares.X[:, :N_OWN], own * (own_total / total)[:, None], rtol=1e-5)
    means = sb.denoised_expression(extended, **QUIET)[:, added_names].X
    assert_allclose(shares[:, added_names].X, means / total[:, None], rtol=1e-5)


# -- results -------------------------------------------------------------------------------------


def test_genes_come_in_the_order_that_was_asked_for(extended, full, own_names, added_names):
    given = {"transform_batch": "V3", "effect": "global", "normalized": True, **QUIET}
    whole = sb.corrected_counts(extended, **given)
    asked = [added_names[3], own_names[7], added_names[0], own_names[2]]
    for genes in (asked, list(added_names[:2]), list(own_names[4:6])):
        ours = sb.corrected_counts(extended, gene_list=genes, **given)
        assert list(ours.var_names) == genes
        assert_array_equal(ours.X.toarray(), whole[:, genes].X.toarray())
        assert ours.X.has_sorted_indices
        assert_array_equal(ours.layers["raw_counts"].toarray(), full[:, genes].X.toarray())
        assert_allclose(ours.layers["normalized"], whole[:, genes].layers["normalized"], rtol=1e-5)
        assert_array_equal(
            ours.varm["scvibridge_detection"], whole[:, genes].varm["scvibridge_detection"]
        )
        means = sb.normalized_expression(extended, gene_list=genes, **QUIET)
        assert list(means.var_names) == genes


def test_results_carry_the_quality_of_added_genes(extended, added_names):
    ours = sb.corrected_counts(extended, transform_batch="V3", **QUIET)
    assert_array_equal(ours.var["scvibridge_added"], ours.var_names.isin(added_names))
    for name in ("explained", "theta", "detection_rate"):
        assert_allclose(ours.var.loc[added_names, f"scvibridge_{name}"], extended.quality[name])
        assert ours.var.loc[~ours.var["scvibridge_added"], f"scvibridge_{name}"].isna().all()
    assert set(ours.var["scvibridge_flag"]) <= {"", "no gain", "few cells"}
    means = sb.denoised_expression(extended, **QUIET)
    assert_array_equal(means.var["scvibridge_added"], ours.var["scvibridge_added"])


def test_genes_hardly_seen_are_left_alone(model, full, added_names):
    rare = full.copy()
    counts = rare.X.tolil()
    gene = rare.var_names.get_loc(added_names[0])
    cells = np.flatnonzero(rare.obs["batch"] != "V2")
    counts[cells[3:], gene] = 0
    rare.X = counts.tocsr()
    ext = sb.extend_genes(model, rare, max_epochs=3, ridge=0.1, **QUIET)
    ours = sb.corrected_counts(
        ext, transform_batch="V3", effect="global", library_size="observed", **QUIET
    )
    assert ours.var.loc[added_names[0], "scvibridge_low_detection"]
    assert_array_equal(ours[:, added_names[0]].X.toarray(), rare[:, added_names[0]].X.toarray())


def test_cells_without_added_or_without_any_counts(model, full, added_names):
    cells = full.copy()
    counts = cells.X.tolil()
    counts[0] = 0
    counts[1, cells.var_names.get_indexer(added_names)] = 0
    cells.X = counts.tocsr()
    ext = sb.extend_genes(model, full, max_epochs=3, ridge=0.1, **QUIET)
    ours = sb.corrected_counts(ext, cells, transform_batch="V3", library_size=20000.0, **QUIET)
    assert ours.X[0].nnz == 0
    # A cell may show none of the added genes and be given some, where it is made deeper.
    assert ours[1, added_names].X.sum() > 0


def test_support_and_streamed_counts(extended, model, full, tmp_path):
    ours = sb.batch_support(extended, transform_batch="V3", **QUIET).cells
    alone = sb.batch_support(model, transform_batch="V3", **QUIET).cells
    assert_allclose(ours["share"], alone["share"], atol=1e-6)
    given = {"transform_batch": "V3", "effect": "global", "unsupported": "mask", **QUIET}
    expected = sb.corrected_counts(extended, **given)
    path = tmp_path / "all.h5ad"
    full.write_h5ad(path)
    streamed = sb.corrected_counts(extended, path, out=tmp_path / "counts.h5ad", **given)
    difference = streamed.to_memory().X - expected.X
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-4
    masked = ~expected.obs["scvibridge_supported"].to_numpy()
    assert expected.X[masked].nnz == 0


def test_data_on_disk_are_fitted_alike(extended, model, full, tmp_path):
    path = tmp_path / "all.h5ad"
    full.write_h5ad(path)
    ours = sb.extend_genes(model, path, max_epochs=12, ridge=0.1, **QUIET)
    assert_allclose(ours.head.weights, extended.head.weights, atol=1e-5)
    assert ours.adata is None


# -- saving and loading --------------------------------------------------------------------------


@pytest.fixture
def folder(extended, tmp_path):
    extended.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_makes_the_same_counts(extended, folder, full):
    given = {"transform_batch": "V3", "labels_key": "cell_type", **QUIET}
    expected = sb.corrected_counts(extended, **given)
    loaded = sb.load(folder, adata=full, device="cpu")
    assert repr(loaded) == repr(extended)
    assert list(loaded.genes) == list(extended.genes)
    assert loaded.quality.equals(extended.quality)
    ours = sb.corrected_counts(loaded, **given)
    assert_array_equal(ours.X.toarray(), expected.X.toarray())
    alone = sb.load(folder, adata=False, device="cpu")
    with pytest.raises(ValueError, match="loaded without data"):
        sb.corrected_counts(alone, **given)
    assert sb.corrected_counts(alone, full, **given).shape == expected.shape


def test_the_file_holds_plain_numbers_and_texts(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["extension.npz", "model.pt"]
    with np.load(folder / "extension.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} <= set("fU")
        assert json.loads(str(file["description"]))["version"] == 1


def changed(folder, **changes):
    """Write the extension anew, with other arrays."""
    path = folder / "extension.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **{**arrays, **changes})


def description(folder, **changes):
    with np.load(folder / "extension.npz", allow_pickle=False) as file:
        return np.array(json.dumps({**json.loads(str(file["description"])), **changes}))


def test_other_models_versions_and_damage_are_refused(folder, full, own_names, train):
    given = {"adata": full, "device": "cpu"}
    kept = (folder / "extension.npz").read_bytes()
    changed(folder, description=description(folder, version=2))
    with pytest.raises(ValueError, match="of version 2, and this scvibridge reads version 1"):
        sb.load(folder, **given)
    (folder / "extension.npz").write_bytes(kept)
    changed(folder, weights=np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(ValueError, match=r"is damaged: its arrays do not fit each other \(weights"):
        sb.load(folder, **given)
    changed(folder, weights=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="could not be read as an extension"):
        sb.load(folder, **given)
    (folder / "extension.npz").write_bytes(kept[:500])
    with pytest.raises(ValueError, match="could not be read as an extension"):
        sb.load(folder, **given)
    (folder / "extension.npz").write_bytes(kept)
    other = train(full[:, own_names].copy(), labels_key=None, max_epochs=1)
    other.save(str(folder), overwrite=True)
    (folder / "extension.npz").write_bytes(kept)
    with pytest.raises(ValueError, match="extends another model than the one beside it"):
        sb.load(folder, **given)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saving_does_not_overwrite_unasked(extended, folder):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        extended.save(folder)
    before = contents(folder)
    other = replace(extended, quality=extended.quality.assign(explained=0.5))
    other.save(folder, overwrite=True)
    assert contents(folder).keys() == before.keys()
    assert contents(folder)["extension.npz"] != before["extension.npz"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failure_leaves_the_older_folder_or_nothing(extended, folder, tmp_path):
    before = contents(folder)
    # The model has been written when the extension turns out not to be plain.
    broken = replace(extended, settings={**extended.settings, "ridge": {1, 2}})
    with pytest.raises(TypeError, match="not JSON serializable"):
        broken.save(folder, overwrite=True)
    assert contents(folder) == before
    with pytest.raises(TypeError, match="not JSON serializable"):
        broken.save(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_holds_more_than_a_model_is_not_replaced(extended, folder):
    (folder / "adata.h5ad").write_bytes(b"counts")
    with pytest.raises(FileExistsError, match=r"holds more than a model \(adata.h5ad\)"):
        extended.save(folder, overwrite=True)
    assert (folder / "adata.h5ad").read_bytes() == b"counts"
    with pytest.raises(NotADirectoryError, match=r"adata.h5ad is a file, a folder was expected"):
        extended.save(folder / "adata.h5ad", overwrite=True)


def test_data_that_lack_a_gene_are_refused(extended, folder, full, added_names):
    lacking = full[:, full.var_names != added_names[5]].copy()
    with pytest.raises(
        ValueError, match=f"lack 1 of the model's {N_GENES} genes: .*{added_names[5]}"
    ):
        sb.corrected_counts(extended, lacking, transform_batch="V3", **QUIET)
    with pytest.raises(ValueError, match=f"lack 1 of the model's {N_GENES} genes"):
        sb.load(folder, adata=lacking, device="cpu")


def test_the_command_line_takes_extended_models(extended, folder, full, tmp_path):
    path, out = tmp_path / "all.h5ad", tmp_path / "counts.h5ad"
    full.write_h5ad(path)
    arguments = ["--transform-batch", "V3", "--device", "cpu", "--quiet", "--out", str(out)]
    assert main(["correct", str(folder), "--adata", str(path), *arguments]) == 0
    ours = sb.corrected_counts(extended, full, transform_batch="V3", **QUIET)
    written = ad.read_h5ad(out)
    assert_array_equal(written.X.toarray(), ours.X.toarray())


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "max_epochs must be a whole number, 1 or more, got 0"),
        ({"ridge": -1}, ValueError, "ridge must be 'auto' or a number"),
        ({"ridge": "atuo"}, ValueError, "did you mean 'auto'"),
        ({"labels_key": "celltype"}, ValueError, "did you mean 'cell_type'"),
        ({"gene_list": ["gene_9"]}, ValueError, "the data lack 1 of the 1 genes asked for"),
        ({"seed": -1}, ValueError, "seed"),
        ({"device": "gpu"}, ValueError, "device must be"),
    ],
)
def test_arguments_out_of_range_are_refused(model, full, given, error, message):
    with pytest.raises(error, match=message):
        sb.extend_genes(model, full, **{**QUIET, **given})


def test_nothing_to_add_and_models_extended_already_are_refused(extended, model, full, own_names):
    with pytest.raises(ValueError, match=f"nothing to add: the model knows all {N_OWN} genes"):
        sb.extend_genes(model, full[:, own_names].copy(), **QUIET)
    with pytest.raises(TypeError, match=r"extended already: extend its \.model"):
        sb.extend_genes(extended, full, **QUIET)


def test_some_genes_and_labels(model, full, added_names):
    ext = sb.extend_genes(
        model,
        full,
        gene_list=[added_names[2], added_names[0]],
        labels_key="cell_type",
        max_epochs=2,
        ridge=1.0,
        **QUIET,
    )
    assert list(ext.head.genes) == [added_names[2], added_names[0]]
    assert "extended by 2 genes" in repr(ext)
    assert len(ext.genes) == N_OWN + 2
