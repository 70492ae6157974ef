"""Expressions against scvi-tools' public get_normalized_expression."""

from __future__ import annotations

import copy

import anndata as ad
import numpy as np
import oracle
import pytest
import scvi
from anndata.tests.helpers import assert_equal
from numpy.testing import assert_allclose

import scvibridge as sb
from scvibridge.expression.depth import Depth

# Single precision, and two orders of the same operations.
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def data(simulate):
    return simulate(n_cells=150, n_genes=80)


@pytest.fixture(scope="module")
def models(data, train):
    """Models of each likelihood, trained on the same data."""
    return {
        likelihood: train(data.copy(), gene_likelihood=likelihood, max_epochs=8)
        for likelihood in ("nb", "zinb", "poisson")
    }


def upstream(model, folder, **arguments):
    """scvi-tools' own expression at the posterior mean of z.

    Upstream draws z; on minified data with a latent variance of 1e-20 its z is the mean.
    """
    model.save(str(folder), save_anndata=False, overwrite=True)
    data = model.adata.copy()
    copy = scvi.model.SCVI.load(str(folder), adata=data)
    mean, _ = copy.get_latent_representation(return_dist=True)
    data.obsm["mean"], data.obsm["variance"] = mean, np.full_like(mean, 1e-20)
    copy.minify_adata(use_latent_qzm_key="mean", use_latent_qzv_key="variance")
    return copy.get_normalized_expression(return_numpy=True, **arguments)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("batch", [None, "V2", ["V1", "V3"]])
@pytest.mark.parametrize("library_size", [1e4, "latent"])
def test_equals_upstream(models, tmp_path, likelihood, batch, library_size):
    model = models[likelihood]
    arguments = {"transform_batch": batch, "library_size": library_size}
    ours = sb.normalized_expression(model, progress=False, **arguments)
    assert ours.X.dtype == np.float32
    assert_allclose(ours.X, upstream(model, tmp_path / "m", **arguments), rtol=TOLERANCE)


def test_denoised_is_upstreams_latent_library(models, tmp_path):
    ours = sb.denoised_expression(models["nb"], progress=False)
    theirs = upstream(models["nb"], tmp_path / "m", library_size="latent")
    assert_allclose(ours.X, theirs, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "setup",
    [
        {"gene_likelihood": "nb", "batch_representation": "embedding"},
        {"gene_likelihood": "nb", "latent_distribution": "ln"},
        {"gene_likelihood": "zinb", "n_layers": 2, "encode_covariates": True},
        {"gene_likelihood": "nb", "setup": {"size_factor_key": "size"}},
        {
            "gene_likelihood": "nb",
            "encode_covariates": True,
            "setup": {
                "categorical_covariate_keys": ["condition"],
                "continuous_covariate_keys": ["age"],
            },
        },
    ],
    ids=["embedding", "logistic-normal", "deep", "size-factor", "covariates"],
)
def test_other_set_ups_equal_upstream(data, train, tmp_path, setup):
    adata = data.copy()
    rng = np.random.default_rng(2)
    adata.obs["size"] = rng.uniform(0.5, 2, adata.n_obs)
    adata.obs["age"] = rng.normal(size=adata.n_obs)
    model = train(adata, max_epochs=3, **setup)
    arguments = {"transform_batch": "V2", "library_size": 1e4}
    ours = sb.normalized_expression(model, progress=False, **arguments)
    theirs = upstream(model, tmp_path / "m", **arguments)
    assert_allclose(ours.X, theirs, rtol=TOLERANCE, atol=1e-9)


def test_zero_inflated_mean_agrees_with_the_distribution(models):
    ours = sb.denoised_expression(models["zinb"], zero_inflation=True, progress=False)
    px = oracle.distribution_at_mean(models["zinb"])
    assert_allclose(ours.X, (px.mu * (1 - px.zi_probs)).numpy(), rtol=1e-5)


def test_latent_library_is_the_models_own(data, train):
    # Upstream cannot minify such a model, so its generative distribution is compared instead.
    model = train(data.copy(), use_observed_lib_size=False, max_epochs=3)
    px = oracle.distribution_at_mean(model)
    ours = sb.denoised_expression(model, progress=False)
    assert_allclose(ours.X, px.mu.numpy(), rtol=1e-5)
    at_depth = sb.normalized_expression(model, library_size=100, progress=False)
    assert_allclose(at_depth.X, 100 * px.scale.numpy(), rtol=1e-5)


def test_size_factors_that_were_changed_are_those_that_scvi_tools_uses(data, train, tmp_path):
    """scvi-tools registers no copy of them, unlike of covariates, so none can be compared."""
    adata = data.copy()
    adata.obs["size"] = np.random.default_rng(3).lognormal(0, 0.4, adata.n_obs)
    model = train(adata, setup={"size_factor_key": "size"}, max_epochs=2)
    path = tmp_path / "denoised.h5ad"
    first = sb.denoised_expression(model, out=path, progress=False).to_memory()
    model.adata.obs["size"] *= np.linspace(1, 3, adata.n_obs)
    expected = oracle.distribution_at_mean(model).mu.numpy()
    assert np.abs(first.X / expected - 1).max() > 0.5
    given = {"out": path, "resume": True, "overwrite": True, "progress": False}
    for found in (
        sb.denoised_expression(model, progress=False),
        sb.denoised_expression(model, **given).to_memory(),
    ):
        assert_allclose(found.X, expected, rtol=1e-5)


def test_gene_list_keeps_the_requested_order(models):
    genes = ["gene_0033", "gene_0002", "gene_0071"]
    everything = sb.normalized_expression(models["nb"], progress=False)
    some = sb.normalized_expression(models["nb"], gene_list=genes, progress=False)
    assert list(some.var_names) == genes
    assert_allclose(some.X, everything[:, genes].X, rtol=1e-6)


def test_unknown_genes_are_refused(models):
    with pytest.raises(ValueError, match=r"does not have 1 of the 2.*did you mean 'gene_0002'"):
        sb.normalized_expression(
            models["nb"], gene_list=["gene_0001", "gene_00002"], progress=False
        )


def test_depths(models):
    model = models["nb"]
    totals = np.asarray(model.adata.X.sum(axis=1)).ravel()
    batch = model.adata.obs["batch"]

    def depth(**arguments):
        return sb.normalized_expression(model, progress=False, **arguments).X.sum(axis=1)

    assert_allclose(depth(library_size=500), 500, rtol=1e-5)
    assert_allclose(depth(library_size="observed"), totals, rtol=1e-5)
    assert_allclose(depth(library_size="median"), np.median(totals), rtol=1e-5)
    median = depth(library_size="median", transform_batch=["V1", "V2"])
    assert_allclose(median, np.median(totals[batch.isin(["V1", "V2"])]), rtol=1e-5)
    scaled = depth(library_size="scaled", transform_batch="V2")
    assert_allclose(scaled, totals * oracle.scaled_depth(model, ["V2"], None), rtol=1e-5)
    scaled = depth(library_size="scaled", transform_batch=["V1", "V2"])
    assert_allclose(scaled, totals * oracle.scaled_depth(model, ["V1", "V2"], None), rtol=1e-5)


def test_depths_of_batches_that_the_models_data_lack_are_those_of_the_data_passed(models):
    """E.g. a model that was loaded with some of its batches."""
    model = models["nb"]
    whole = model.adata.copy()
    model_of_some = copy.copy(model)
    model_of_some.adata = whole[whole.obs["batch"] == "V2"].copy()
    for settings in (
        {"library_size": "scaled", "transform_batch": "V2"},
        {"library_size": "median", "transform_batch": ["V1", "V2"]},
        {"library_size": "median"},
    ):
        expected = sb.normalized_expression(model, whole, progress=False, **settings)
        found = sb.normalized_expression(model_of_some, whole, progress=False, **settings)
        assert_allclose(found.X, expected.X, rtol=1e-5)
        (note, *others) = found.uns["scvibridge"]["notes"]
        assert "the model's data have no cells of 'V1'" in note
        assert others == list(expected.uns["scvibridge"]["notes"])
        rows = np.flatnonzero(whole.obs["batch"] == "V2")
        some = sb.normalized_expression(
            model_of_some, whole, indices=rows, progress=False, **settings
        )
        assert_allclose(some.X, expected.X[rows], rtol=1e-5)


def test_notes_on_the_depth_are_those_of_corrected_counts(models, tmp_path):
    given = {"transform_batch": "V2", "library_size": "scaled", "progress": False}
    counts = sb.corrected_counts(models["nb"], effect="global", **given)
    (expected,) = [n for n in counts.uns["scvibridge"]["notes"] if n.startswith("depth: ")]
    assert "without labels" in expected
    in_memory = sb.normalized_expression(models["nb"], **given)
    written = sb.normalized_expression(models["nb"], out=tmp_path / "scaled.h5ad", **given)
    for found in (in_memory, written):
        assert list(found.uns["scvibridge"]["notes"]) == [expected]
    for depth in ("median", "observed", 1e4):
        others = sb.normalized_expression(models["nb"], **{**given, "library_size": depth})
        assert len(others.uns["scvibridge"]["notes"]) == 0


def learnt(library, own, in_target, labels=None):
    """Log of the ratio that batch 1 gets."""
    found = Depth.of("scaled").learn(library, own.astype(int), in_target, labels, ["a", "b"])
    return np.log(found.batch_ratio[1])


def test_a_difference_of_depth_by_chance_is_hardly_corrected():
    """Between random halves, most ratios are one; a real difference stays as it is."""
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 5
    own = np.arange(1000) % 2 == 1
    halves, plain = [], []
    for _ in range(200):
        library = np.exp(rng.normal(labels / 2, 0.3))
        halves.append(learnt(library, own, ~own, labels))
        logs = [
            np.log(np.median(library[~own & (labels == c)]))
            - np.log(np.median(library[own & (labels == c)]))
            for c in range(5)
        ]
        plain.append(np.mean(logs))
    assert np.std(halves) < 0.7 * np.std(plain)
    # Beyond a standard error lie 32 % of the differences.
    assert 0.55 < np.mean(np.array(halves) == 0) < 0.8
    library[~own] *= 1.5
    real = plain[-1] + np.log(1.5)
    assert real - 0.002 < learnt(library, own, ~own, labels) < real


def test_the_error_of_a_depth_is_that_of_repeated_samples():
    """The standard error that shrinks a ratio is the one that repeated samples show."""
    rng = np.random.default_rng(1)
    own = np.arange(900) >= 500
    in_target = ~own
    plain, variances = [], []
    for _ in range(400):
        library = np.exp(rng.normal(0, 0.4, 900))
        library[own] *= 2  # so far that the shrunk ratio gives the variance away
        plain.append(np.log(np.median(library[in_target]) / np.median(library[own])))
        variances.append((plain[-1] - learnt(library, own, in_target)) * plain[-1])
    assert_allclose(np.sqrt(np.mean(variances)), np.std(plain), rtol=0.1)


def test_a_depth_from_single_cells_is_taken_as_it_is():
    library, own = np.array([4.0, 2.0]), np.array([False, True])
    assert_allclose(learnt(library, own, ~own), np.log(2))


def test_draws_average_to_the_mean_of_upstreams_draws(models):
    model = models["nb"]
    ours = sb.normalized_expression(model, n_samples=200, progress=False).X
    scvi.settings.seed = 3
    theirs = model.get_normalized_expression(library_size=1e4, n_samples=200, return_numpy=True)
    # Two Monte-Carlo means of 200 draws: compare summed over cells, where the error is small.
    assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), rtol=0.03)
    at_mean = sb.normalized_expression(model, progress=False).X
    assert np.abs(ours - at_mean).max() > 1e-3 * at_mean.max()


def test_draws_do_not_depend_on_blocks_or_order(models):
    model = models["nb"]
    draw = {"n_samples": 3, "progress": False}
    whole = sb.normalized_expression(model, **draw)
    order = np.random.default_rng(0).permutation(model.adata.n_obs)[:60]
    some = sb.normalized_expression(model, indices=order, batch_size=7, **draw)
    assert_allclose(some.X, whole.X[order], rtol=1e-5)


def test_layout_and_provenance(models, tmp_path):
    model = models["nb"]
    path = tmp_path / "expression.h5ad"
    result = sb.normalized_expression(model, transform_batch="V2", out=path, progress=False)
    result = result.to_memory()
    assert_allclose(result.obsm["X_scvi"], model.get_latent_representation(), rtol=1e-5, atol=1e-6)
    assert (result.layers["raw_counts"] != model.adata.X).nnz == 0
    provenance = result.uns["scvibridge"]
    assert provenance["kind"] == "normalized_expression"
    assert list(provenance["transform_batch"]) == ["V2"]
    assert not any(column.startswith("_scvi") for column in result.obs)
    back = ad.read_h5ad(path)
    assert_equal(back, result)
