"""Corrected counts: against a second implementation, upstream's draws, and their own promises."""

from __future__ import annotations

from inspect import signature

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
from anndata.tests.helpers import assert_equal
from count_requests import QUIET
from numpy.testing import assert_allclose, assert_array_equal
from upstream_draws import posterior_predictive

import scvibridge as sb
from conftest import differing

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:.*have no sample of at least"),
    pytest.mark.filterwarnings("ignore:there was nothing to correct"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


def assert_same_counts(ours, expected):
    """Compare where a uniform in double precision can tell; the tails have their own tests."""
    counts, comparable = expected
    assert comparable.mean() > 0.6
    # scvi-tools' softmax and our log-softmax differ in single precision.
    assert (ours.X.toarray() != counts)[comparable].mean() < 2e-4


# -- the mathematics -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "gene-batch", "gene-label"])
@pytest.mark.parametrize("effect", ["label", "global", "cell"])
def test_quantile_equals_a_second_implementation(models, name, effect):
    model = models[name]
    ours = sb.corrected_counts(
        model,
        transform_batch="V3",
        effect=effect,
        labels_key="cell_type",
        shrinkage=None if effect == "cell" else 0,
        seed=5,
        **QUIET,
    )
    labels = model.adata.obs["cell_type"].cat.codes.to_numpy()
    depth = oracle.scaled_depth(model, ["V3"])
    expected = oracle.quantile(model, [2], depth, effect, labels, seed=5)
    assert_allclose(ours.obs["scvibridge_depth_ratio"], depth, rtol=1e-12)
    assert_same_counts(ours, expected)
    assert (ours.layers["raw_counts"] != ours.X).nnz > 0.05 * ours.X.nnz


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("effect", ["label", "cell"])
def test_samples_keep_their_own_means(models, name, effect):
    model = models[name]
    obs = model.adata.obs
    rng = np.random.default_rng(0)
    obs["sample"] = rng.choice(["D1", "D2"], len(obs), p=[0.85, 0.15])  # some groups are too small
    obs.loc[obs.index[:20], "sample"] = np.nan
    keys = {"labels_key": "cell_type", "sample_key": "sample"}
    if effect == "cell":  # of "label", the conditions would weigh equally: see the test of that
        keys["condition_key"] = "condition"
    arguments = {**keys, **QUIET, **({} if effect == "cell" else {"shrinkage": 0})}
    ours = sb.corrected_counts(model, transform_batch="V3", effect=effect, **arguments)
    shared = obs[["batch", *keys.values()]].astype(object)
    samples = [
        None if pd.isna(row["sample"]) else tuple(row.values()) for row in shared.to_dict("records")
    ]
    labels = obs["cell_type"].cat.codes.to_numpy()
    depth = oracle.scaled_depth(model, ["V3"])
    expected = oracle.quantile(model, [2], depth, effect, labels, samples=samples)
    assert_same_counts(ours, expected)
    arguments.pop("sample_key")
    plain = sb.corrected_counts(model, transform_batch="V3", effect=effect, **arguments)
    assert (plain.X != ours.X).nnz > 0.005 * plain.X.nnz
    assert ours.uns["scvibridge"]["sample_key"] == "sample"


def test_samples_of_other_cells_are_found_by_name(models):
    """A subset takes the factors that were estimated on the model's own cells."""
    model = models["nb"]
    model.adata.obs["sample"] = np.where(np.arange(model.adata.n_obs) % 2, "odd", "even")
    some = model.adata[30:200].copy()
    keys = {"labels_key": "cell_type", "condition_key": "condition", "sample_key": "sample"}
    whole = sb.corrected_counts(model, transform_batch="V3", **keys, **QUIET)
    part = sb.corrected_counts(model, some, transform_batch="V3", **keys, **QUIET)
    assert differing(whole[part.obs_names].X, part.X) < 1e-5
    with pytest.raises(
        ValueError, match=r"sample_key='smple' is not a column.*did you mean 'sample'"
    ):
        sb.corrected_counts(model, transform_batch="V3", sample_key="smple", **QUIET)


@pytest.mark.parametrize("name", ["nb", "zinb", "gene-batch"])
def test_several_targets_equal_a_second_implementation(models, name):
    model = models[name]
    ours = sb.corrected_counts(
        model, transform_batch=["V1", "V3"], effect="cell", library_size="observed", **QUIET
    )
    expected = oracle.quantile(model, [0, 2], np.ones(ours.n_obs), "cell")
    assert_same_counts(ours, expected)


def test_gene_cell_dispersion_equals_a_second_implementation(models):
    # With effect="cell" and one target, theta' is the decoder's own under the target batch.
    model = models["gene-cell"]
    ours = sb.corrected_counts(
        model, transform_batch="V3", effect="cell", library_size="observed", **QUIET
    )
    expected = oracle.quantile(model, [2], np.ones(ours.n_obs), "cell")
    assert_same_counts(ours, expected)


# -- target cells, empty cells, genes hardly seen ------------------------------------------------


def test_cells_without_counts_stay_empty_and_are_flagged(data, models):
    for method in ("quantile", "sample"):
        result = sb.corrected_counts(
            models["nb"], data, transform_batch="V3", method=method, **QUIET
        )
        empty = np.asarray(data.X.sum(axis=1)).ravel() == 0
        assert empty.sum() == 1
        assert_array_equal(result.obs["scvibridge_empty"], empty)
        assert result.X[empty].nnz == 0


# -- draws ---------------------------------------------------------------------------------------


def test_samples_have_upstreams_moments(models):
    """Mean and variance of many draws against scvi-tools' own posterior predictive."""
    if "transform_batch" not in signature(models["nb"].posterior_predictive_sample).parameters:
        pytest.skip("this scvi-tools draws in the observed batch alone")
    for name in ("nb", "zinb", "poisson"):
        model = models[name]
        n_draws = 30
        ours = np.stack(
            [
                sb.corrected_counts(
                    model,
                    transform_batch="V2",
                    method="sample",
                    library_size="latent",
                    seed=s,
                    **QUIET,
                ).X.toarray()
                for s in range(n_draws)
            ]
        )
        theirs = _upstream_draws(model, n_draws)
        # Sums over cells, gene by gene: standard errors of both sides by the draws.
        a, b = ours.sum(axis=1), theirs.sum(axis=1)
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / n_draws)
        z = (a.mean(axis=0) - b.mean(axis=0)) / np.maximum(error, 1e-9)
        assert np.abs(z).max() < 4.5, name
        zeros = (ours == 0).mean() - (theirs == 0).mean()
        assert abs(zeros) < 0.01, name


def _upstream_draws(model, n_draws):
    """scvi-tools' draws as if from V2, shape (draws, cells, genes)."""
    draws = posterior_predictive(model, n_samples=n_draws, transform_batch="V2")
    return np.moveaxis(draws, -1, 0)


def test_zero_inflation_can_be_left_out_of_samples(models):
    arguments = {"transform_batch": "V2", "method": "sample", **QUIET}
    with_it = sb.corrected_counts(models["zinb"], **arguments)
    without = sb.corrected_counts(models["zinb"], zero_inflation=False, **arguments)
    assert without.X.nnz > with_it.X.nnz
    # The same uniforms: dropping the zero inflation can only raise a count.
    assert (without.X - with_it.X).data.min() >= 0


def test_sampled_depth_is_the_targets_median(models):
    model = models["nb"]
    results = [
        sb.corrected_counts(model, transform_batch="V2", method="sample", seed=s, **QUIET)
        for s in range(20)
    ]
    totals = np.asarray(model.adata.X.sum(axis=1)).ravel()
    median = np.median(totals[model.adata.obs["batch"] == "V2"])
    assert_allclose(results[0].obs["scvibridge_depth_ratio"] * totals, median, rtol=1e-6)
    assert_allclose(np.mean([r.X.sum(axis=1).mean() for r in results]), median, rtol=0.01)


# -- reproducibility -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["quantile", "sample"])
def test_same_seed_same_counts(models, method):
    model = models["zinb"]
    arguments = {"transform_batch": "V3", "method": method, "labels_key": "cell_type", **QUIET}
    whole = sb.corrected_counts(model, **arguments)
    for batch_size in (7, 128, 1000):
        again = sb.corrected_counts(model, batch_size=batch_size, **arguments)
        assert differing(whole.X, again.X) <= 1e-5
    rng = np.random.default_rng(1)
    order = rng.permutation(whole.n_obs)
    shuffled = sb.corrected_counts(model, model.adata[order].copy(), **arguments)
    assert differing(whole.X[order], shuffled.X) <= 1e-5
    genes = list(rng.permutation(whole.var_names)[:20])
    some = sb.corrected_counts(model, indices=order[:50], gene_list=genes, **arguments)
    assert differing(whole[order[:50], genes].X, some.X) <= 1e-5
    other = sb.corrected_counts(model, seed=1, **arguments)
    assert differing_share(whole.X, other.X) > 0.01


def differing_share(a, b):
    return (a != b).nnz / np.prod(a.shape)


# -- layout --------------------------------------------------------------------------------------


def test_layout_and_h5ad_round_trip(models, tmp_path):
    model = models["nb"]
    path = tmp_path / "corrected.h5ad"
    before = model.adata.copy()
    with pytest.warns(UserWarning, match="confounding was not checked"):
        result = sb.corrected_counts(
            model,
            transform_batch="V3",
            labels_key="cell_type",
            normalized=True,
            out=path,
            **QUIET,
        )
    result = result.to_memory()
    assert_equal(ad.read_h5ad(path), result)
    assert_equal(model.adata, before)  # the model's data are not written to
    assert (result.layers["raw_counts"] != before.X).nnz == 0
    expected = sb.normalized_expression(model, transform_batch="V3", **QUIET)
    assert_allclose(result.layers["normalized"], expected.X, rtol=1e-6)
    assert_allclose(result.obsm["X_scvi"], model.get_latent_representation(), rtol=1e-5, atol=1e-6)
    provenance = result.uns["scvibridge"]
    assert provenance["confounding"] == "not checked"
    assert provenance["method"] == "quantile"
    assert provenance["effect"] == "label"
    assert provenance["library_size"] == "scaled"
    assert provenance["estimated_on"] == "the model's data"
    assert list(provenance["transform_batch"]) == ["V3"]
    assert list(provenance["batches"]) == ["V1", "V2", "V3"]


def test_high_depth_warns(models):
    with pytest.warns(UserWarning, match="more than 2 times their own depth"):
        sb.corrected_counts(models["nb"], transform_batch="V3", library_size=1e5, **QUIET)
