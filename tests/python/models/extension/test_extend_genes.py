"""Counts of extended models: own genes to the last bit, added genes by a second implementation."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from extension import N_GENES, N_OWN, QUIET, check_added_counts
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from scvibridge.expression.extended_model import Both

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


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


def test_genes_that_a_batch_does_not_show_at_all_are_flagged(model, full, added_names):
    panel = full.copy()
    counts = panel.X.toarray()
    own = (panel.obs["batch"] == "V1").to_numpy()
    counts[np.ix_(own, panel.var_names.isin(added_names))] = 0
    panel.X = sp.csr_matrix(counts)
    ext = sb.extend_genes(model, panel, max_epochs=3, ridge=0.1, **QUIET)
    ours = sb.corrected_counts(ext, transform_batch="V3", library_size="observed", **QUIET)
    seen = pd.DataFrame(counts > 0).groupby(panel.obs["batch"].to_numpy(), observed=True).sum()
    low = pd.Series((seen < 5).any().to_numpy(), panel.var_names)
    assert low[added_names].all()
    assert not low.all()
    assert_array_equal(ours.var["scvibridge_low_detection"], low[ours.var_names])
    assert ours[own, added_names].X.nnz == 0


def test_batches_that_the_genes_were_not_fitted_in_are_refused(model, full, own_names):
    two = full[full.obs["batch"] != "V3"].copy()
    with pytest.warns(UserWarning, match="no cells of 'V3' to fit: the batch effect of the added"):
        ext = sb.extend_genes(model, two, max_epochs=3, ridge=0.1, **QUIET)
    unknown = "were fitted on no cells of 'V3'.*extend_genes"
    with pytest.raises(ValueError, match=unknown):
        sb.corrected_counts(ext, full, transform_batch="V3", **QUIET)
    with pytest.raises(ValueError, match=unknown):
        sb.corrected_counts(ext, full, transform_batch="V1", method="sample", **QUIET)
    with pytest.raises(ValueError, match=unknown):
        sb.normalized_expression(ext, two, transform_batch=["V1", "V3"], **QUIET)
    with pytest.raises(ValueError, match=unknown):
        sb.denoised_expression(ext, full, **QUIET)
    # The model knows all batches, and the extension those that it was fitted in.
    given = {"transform_batch": "V3", "library_size": "observed", **QUIET}
    ours = sb.corrected_counts(ext, full, gene_list=list(own_names), **given)
    alone = sb.corrected_counts(model, **given)
    assert (ours.X != alone.X).nnz == 0
    some = sb.corrected_counts(ext, transform_batch="V1", **QUIET)
    assert some.n_obs == two.n_obs


def test_cells_without_added_or_without_any_counts(model, full, added_names):
    cells = full.copy()
    counts = cells.X.tolil()
    counts[0] = 0
    counts[1, cells.var_names.get_indexer(added_names)] = 0
    counts[2, ~cells.var_names.isin(added_names)] = 0
    cells.X = counts.tocsr()
    ext = sb.extend_genes(model, full, max_epochs=3, ridge=0.1, **QUIET)
    ours = sb.corrected_counts(ext, cells, transform_batch="V3", library_size=20000.0, **QUIET)
    assert ours.X[0].nnz == 0
    # A cell may show none of the added genes and be given some, where it is made deeper.
    assert ours[1, added_names].X.sum() > 0
    assert ours.X[2].nnz > 0
    assert list(ours.obs_names[ours.obs["scvibridge_empty"]]) == [cells.obs_names[0]]


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


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "max_epochs must be a whole number, 1 or more, got 0"),
        ({"ridge": -1}, ValueError, "ridge must be 'auto' or a number"),
        ({"ridge": "atuo"}, ValueError, "did you mean 'auto'"),
        ({"labels_key": "celltype"}, ValueError, "did you mean 'cell_type'"),
        ({"gene_list": ["gene_9"]}, ValueError, "the data lack 1 of the 1 genes in gene_list"),
        ({"seed": -1}, ValueError, "seed"),
        ({"device": "gpu"}, ValueError, "device must be"),
    ],
)
def test_arguments_out_of_range_are_refused(model, full, given, error, message):
    with pytest.raises(error, match=message):
        sb.extend_genes(model, full, **{**QUIET, **given})


def test_nothing_to_add_and_models_extended_already_are_refused(extended, model, full, own_names):
    with pytest.raises(ValueError, match=f"no genes to add: the model has all {N_OWN} genes"):
        sb.extend_genes(model, full[:, own_names].copy(), **QUIET)
    with pytest.raises(TypeError, match=r"already been extended: pass its \.model"):
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
