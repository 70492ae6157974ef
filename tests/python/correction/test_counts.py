"""Corrected counts: against a second implementation, upstream's draws, and their own promises."""

from __future__ import annotations

import tracemalloc

import anndata as ad
import numba
import numpy as np
import oracle
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata.tests.helpers import assert_equal
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from conftest import differing
from scvibridge.correction import corrected_counts as engine
from scvibridge.correction import count_blocks
from scvibridge.correction.estimates import estimate
from scvibridge.correction.reference import choose_reference
from scvibridge.correction.request import check_request
from scvibridge.correction.settings import CorrectionSettings
from scvibridge.correction.support import neighbours
from scvibridge.expression.records import Running
from scvibridge.likelihood.backends import DeviceDrawing
from scvibridge.models.adapters import adapter_for

QUIET = {"progress": False}

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:.*have no sample of at least"),
    pytest.mark.filterwarnings("ignore:nothing was to be corrected"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


@pytest.fixture(scope="module")
def data(simulate):
    adata = simulate(n_cells=330, n_genes=60)
    counts = adata.X.toarray()
    counts[adata.obs["batch"] == "V1", 5] = 0  # not seen in one batch
    counts[3] = 0  # a cell without counts
    counts[adata.obs["batch"] == "V2", 6] = 0
    adata.X = sp.csr_matrix(counts)
    rare = (adata.obs["batch"] == "V3") & (adata.obs["cell_type"] == "NK")
    drop = adata.obs_names[rare][8:]  # a group under 20 cells
    return adata[~adata.obs_names.isin(drop)].copy()


@pytest.fixture(scope="module")
def models(data, train):
    setups = {
        "nb": {},
        "zinb": {"gene_likelihood": "zinb"},
        "poisson": {"gene_likelihood": "poisson"},
        "gene-batch": {"dispersion": "gene-batch"},
        "gene-cell": {"dispersion": "gene-cell"},
        "gene-label": {"dispersion": "gene-label"},
    }
    full = data[np.asarray(data.X.sum(axis=1)).ravel() > 0]
    return {
        name: train(full.copy(), max_epochs=12, seed=4, **setup) for name, setup in setups.items()
    }


def scaled_depth(model, targets):
    """The depth ratio "scaled" by hand: within labels, weighted by n_own n_target / (sum)."""
    obs = model.adata.obs
    totals = np.asarray(model.adata.X.sum(axis=1), dtype=float).ravel()
    in_target = obs["batch"].isin(targets).to_numpy()
    ratio = np.ones(len(totals))
    for batch in obs["batch"].cat.categories:
        own = (obs["batch"] == batch).to_numpy()
        if (own == in_target).all():
            continue
        logs, weights = [], []
        for label in obs["cell_type"].cat.categories:
            a = totals[in_target & (obs["cell_type"] == label)]
            b = totals[own & (obs["cell_type"] == label)]
            if len(a) and len(b):
                logs.append(np.log(np.median(a) / np.median(b)))
                weights.append(len(a) * len(b) / (len(a) + len(b)))
        ratio[own] = np.exp(np.average(logs, weights=weights))
    return ratio


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
    depth = scaled_depth(model, ["V3"])
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
    depth = scaled_depth(model, ["V3"])
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


def test_conditions_weigh_equally(models):
    """With one more condition cell-rich than the other, D is the mean of the two means."""
    model = models["nb"]
    obs = model.adata.obs
    ours = sb.corrected_counts(
        model,
        transform_batch="V3",
        effect="global",
        condition_key="cell_type",
        library_size="observed",
        **QUIET,
    )
    own, target = (oracle.generative(model, b)["scale"] for b in (None, 2))
    ratio = np.log(target) - np.log(own)
    by_condition = [
        ratio[(obs["batch"] == "V1") & (obs["cell_type"] == c)].mean(axis=0)
        for c in obs["cell_type"].cat.categories
    ]
    cells = engine_groups(model, condition_key="cell_type")
    low = oracle.low_detection(model.adata.X.toarray(), obs["batch"].cat.codes.to_numpy(), [2])
    keep = low[(obs["batch"] == "V1").to_numpy().argmax()]
    assert_allclose(
        cells.shift.log_ratio[0], np.where(keep, 0, np.mean(by_condition, axis=0)), atol=1e-5
    )
    assert ours.uns["scvibridge"]["condition_key"] == "cell_type"


def engine_groups(model, **arguments):
    """The group effects that corrected_counts estimates."""
    adapter = adapter_for(model)
    request = make_request(model, effect="global", **arguments)
    reference = choose_reference(request)
    with adapter.on_device("cpu"):
        return estimate(request, reference, lambda _, compute: compute()).groups


def make_request(model, **arguments):
    settings = CorrectionSettings.of(**{"shrinkage": 0, **arguments})
    running = Running(batch_size=None, device="cpu", progress=False)
    return check_request(adapter_for(model), settings, running, transform_batch="V3")


# -- target cells, empty cells, genes hardly seen ------------------------------------------------


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "gene-batch", "gene-cell"])
@pytest.mark.parametrize("effect", ["label", "global", "cell"])
def test_target_cells_are_untouched_without_the_short_cut(models, name, effect):
    model = models[name]
    request = make_request(model, effect=effect, labels_key="cell_type")
    request.keep_unchanged = False
    result = engine.compute(request, choose_reference(request))
    target = (result.obs["batch"] == "V3").to_numpy()
    changed = (result.X[target] != result.layers["raw_counts"][target]).nnz
    assert changed <= 1e-6 * target.sum() * result.n_vars
    elsewhere = (result.X[~target] != result.layers["raw_counts"][~target]).nnz
    assert elsewhere > 0


def test_cells_without_counts_stay_empty_and_are_flagged(data, models):
    for method in ("quantile", "sample"):
        result = sb.corrected_counts(
            models["nb"], data, transform_batch="V3", method=method, **QUIET
        )
        empty = np.asarray(data.X.sum(axis=1)).ravel() == 0
        assert empty.sum() == 1
        assert_array_equal(result.obs["scvibridge_empty"], empty)
        assert result.X[empty].nnz == 0


def test_genes_hardly_seen_keep_their_frequency(models):
    model = models["nb"]
    result = sb.corrected_counts(
        model, transform_batch="V3", effect="cell", library_size="observed", **QUIET
    )
    low = result.var["scvibridge_low_detection"]
    seen = np.stack(
        [
            (model.adata.X.toarray()[model.adata.obs["batch"] == b] > 0).sum(axis=0)
            for b in ("V1", "V2", "V3")
        ],
        axis=1,
    )
    assert_array_equal(result.varm["scvibridge_detection"], seen)
    assert_array_equal(low, (seen < 5).any(axis=1))
    assert low.iloc[[5, 6]].all()
    unseen = np.flatnonzero(result.obs["batch"] == "V1")
    assert result.X[unseen, 5].sum() == 0  # nothing is invented


def test_small_groups_take_their_batchs_effect_and_are_flagged(models):
    result = sb.corrected_counts(
        models["nb"], transform_batch="V1", labels_key="cell_type", **QUIET
    )
    obs = result.obs
    small = (obs["batch"] == "V3") & (obs["cell_type"] == "NK")
    assert 0 < small.sum() < 20
    assert_array_equal(obs["scvibridge_effect_fallback"], small)
    assert set(obs["scvibridge_effect_group"][small]) == {"V3"}
    assert "V3 / B" in set(obs["scvibridge_effect_group"])


def test_missing_and_unknown_labels_fall_back(models):
    model = models["nb"]
    other = model.adata.copy()
    other.obs["cell_type"] = other.obs["cell_type"].cat.rename_categories({"B": "plasma"})
    other.obs.loc[other.obs_names[:4], "cell_type"] = np.nan
    with pytest.warns(UserWarning, match=r"the cells have 'plasma'"):
        result = sb.corrected_counts(
            model, other, transform_batch="V1", labels_key="cell_type", **QUIET
        )
    unknown = (other.obs["cell_type"] == "plasma") | other.obs["cell_type"].isna()
    elsewhere = result.obs["batch"] != "V1"
    assert_array_equal(result.obs["scvibridge_effect_fallback"][unknown], elsewhere[unknown])
    assert result.obs["cell_type"].isna().sum() == 4


# -- draws ---------------------------------------------------------------------------------------


def test_samples_have_upstreams_moments(models):
    """Mean and variance of many draws against scvi-tools' own posterior predictive."""
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
    draws = model.posterior_predictive_sample(n_samples=n_draws, transform_batch="V2")
    return np.moveaxis(np.asarray(draws.todense()), -1, 0)


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


@pytest.mark.parametrize("method", ["quantile", "sample"])
def test_threads_do_not_matter(models, method):
    arguments = {"transform_batch": "V3", "method": method, **QUIET}
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = sb.corrected_counts(models["nb"], **arguments)
        numba.set_num_threads(min(2, threads))
        two = sb.corrected_counts(models["nb"], **arguments)
    finally:
        numba.set_num_threads(threads)
    assert (one.X != two.X).nnz == 0


@pytest.mark.parametrize("method", ["quantile", "sample"])
def test_counts_are_sorted_int32_csr(models, method):
    result = sb.corrected_counts(models["nb"], transform_batch="V3", method=method, **QUIET)
    for matrix in (result.X, result.layers["raw_counts"]):
        assert sp.isspmatrix_csr(matrix) or isinstance(matrix, sp.csr_array)
        assert matrix.dtype == np.int32
        assert matrix.data.min() > 0
        assert all(
            (np.diff(matrix.indices[a:b]) > 0).all()
            for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
        )


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


def test_other_data_use_the_effects_of_the_models_own(models):
    model = models["nb"]
    rows = np.arange(0, model.adata.n_obs, 3)
    whole = sb.corrected_counts(model, transform_batch="V3", labels_key="cell_type", **QUIET)
    part = model.adata[rows].copy()
    result = sb.corrected_counts(model, part, transform_batch="V3", labels_key="cell_type", **QUIET)
    assert differing(whole.X[rows], result.X) <= 1e-5


def test_columns_that_only_the_given_data_have_are_used(models):
    model = models["nb"]
    other = model.adata.copy()
    other.obs["my_types"] = other.obs["cell_type"]
    expected = sb.corrected_counts(model, transform_batch="V3", labels_key="cell_type", **QUIET)
    result = sb.corrected_counts(model, other, transform_batch="V3", labels_key="my_types", **QUIET)
    assert (result.X != expected.X).nnz == 0
    assert result.uns["scvibridge"]["estimated_on"] == "the data given"


def test_high_depth_warns(models):
    with pytest.warns(UserWarning, match="more than 2 times their own depth"):
        sb.corrected_counts(models["nb"], transform_batch="V3", library_size=1e5, **QUIET)


def test_no_dense_matrix_of_cells_by_genes_is_held(simulate, train):
    """Peak of numpy's memory, against a dense matrix of the result's type."""
    adata = simulate(n_cells=2500, n_genes=3000, mean_total=150)
    model = train(adata, max_epochs=1, n_hidden=16, batch_size=512)
    arguments = {"transform_batch": "V3", "batch_size": 48, **QUIET}
    for method in ("quantile", "sample"):
        sb.corrected_counts(model, indices=[0, 1], method=method, **arguments)  # compile
        tracemalloc.start()
        result = sb.corrected_counts(model, method=method, **arguments)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert result.X.nnz < 0.08 * np.prod(result.shape)
        assert peak < 0.5 * np.prod(result.shape) * 4, method


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        ({"method": "sample"}, False),
        ({"effect": "cell"}, False),
        ({"effect": "global"}, True),
    ],
)
def test_no_more_cells_are_encoded_than_estimates_need(models, monkeypatch, arguments, others):
    model = models["nb"]
    encoded = []
    original = type(adapter_for(model)).encode

    def counting(self, counts, covariates):
        encoded.append(counts.shape[0])
        return original(self, counts, covariates)

    whole = sb.corrected_counts(model, transform_batch="V3", **arguments, **QUIET)
    monkeypatch.setattr(neighbours, "MOST_REFERENCE_CELLS", 60)
    monkeypatch.setattr(type(adapter_for(model)), "encode", counting)
    some = sb.corrected_counts(model, transform_batch="V3", indices=[7, 3], **arguments, **QUIET)
    batch = model.adata.obs["batch"]
    compared, _ = neighbours.sample_cells(
        (batch == "V3").to_numpy(dtype=int), model.adata.obs_names.to_numpy()
    )
    assert 50 < len(compared) < 70
    needed = set()
    if others:  # effects are estimated from the other batches, and judged by all held-out cells
        needed = set(np.flatnonzero(batch != "V3")) | set(model.validation_indices)
    assert sum(encoded) == len(needed | {3, 7} | set(compared))  # each of them once
    assert differing(whole.X[[7, 3]], some.X) <= 1e-5


def test_results_share_no_memory_with_the_data(models):
    model = models["nb"]
    at_home = np.flatnonzero(model.adata.obs["batch"] == "V3")
    for indices in (None, slice(0, 40), at_home):
        result = sb.corrected_counts(model, transform_batch="V3", indices=indices, **QUIET)
        matrices = [result.X, result.layers["raw_counts"], model.adata.X]
        for position, matrix in enumerate(matrices):
            for other in matrices[position + 1 :]:
                assert not np.shares_memory(matrix.data, other.data)
                assert not np.shares_memory(matrix.indices, other.indices)


# -- the encoder ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setup",
    [
        {},
        {"n_layers": 2, "encode_covariates": True, "n_hidden": 20},
        {"batch_representation": "embedding", "encode_covariates": True},
        {"use_observed_lib_size": False, "latent_distribution": "ln"},
        {"log_variational": False},
        {"deeply_inject_covariates": True, "n_layers": 3, "encode_covariates": True},
    ],
)
def test_sparse_encoding_equals_scvi_tools_own(simulate, train, setup):
    adata = simulate(n_cells=130, n_genes=2200)  # more than one tile of genes
    adata.X[5, :7] = 4000.0  # beyond the table of logarithms
    adata.obs["donor"] = adata.obs["condition"]
    adata.obs["age"] = np.linspace(0, 1, adata.n_obs)
    keys = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    model = train(adata, max_epochs=1, setup=keys, **setup)
    adapter = adapter_for(model)
    covariates = adapter.covariates(model.adata)
    with adapter.on_device("cpu"):
        assert adapter._sparse_encoding is not None
        found = adapter.encode(model.adata.X.astype(np.int32), covariates)
        expected = adapter.encode(model.adata.X, covariates)  # floats go through all of inference
        layers = [m for m in model.module.z_encoder.modules() if isinstance(m, torch.nn.Linear)]
    assert {type(layer) for layer in layers} == {torch.nn.Linear}  # as it was before
    for name, values in expected.arrays().items():
        assert_allclose(found.arrays()[name], values, rtol=2e-5, atol=2e-5, err_msg=name)


# -- on a device -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "gene-batch", "gene-cell"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "sample"},
        {"labels_key": "cell_type"},
        {"effect": "cell", "gene_list": [7, 3, 11]},
    ],
)
def test_drawing_where_the_model_is_gives_the_same_counts(models, monkeypatch, name, arguments):
    """What a GPU runs, here on the CPU by plain torch, in several minibatches."""
    model = models[name]
    if "gene_list" in arguments:
        genes = model.adata.var_names[arguments["gene_list"]]
        arguments = {**arguments, "gene_list": list(genes)}
    arguments = {"transform_batch": "V3", "batch_size": 64, **arguments, **QUIET}
    expected = sb.corrected_counts(model, **arguments)
    monkeypatch.setattr(count_blocks, "drawing_on", DeviceDrawing)
    found = sb.corrected_counts(model, **arguments)
    assert differing(expected.X, found.X) <= 1e-5
    assert found.X.nnz > 0
    assert found.X.has_sorted_indices
