"""Bad input: each a clear error before any work, and nothing written."""

from __future__ import annotations

import re

import anndata as ad
import lazy
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scvibridge as sb
from scvibridge._utils import arguments
from scvibridge.correction import confounding
from scvibridge.models import adapters
from scvibridge.models.adapters.private_module import check_weights

pytestmark = pytest.mark.filterwarnings("ignore:confounding was not checked")


@pytest.fixture
def refused(trained_model, tmp_path, monkeypatch):
    """Call corrected_counts with bad input: it must raise before encoding and write nothing."""

    def encode(*_arguments, **_keywords):
        pytest.fail("work was started before the input was checked")

    def call(error, match, model=trained_model, **arguments):
        arguments = {"transform_batch": "V3", "out": tmp_path / "out.h5ad", **arguments}
        with monkeypatch.context() as patched:
            patched.setattr(adapters.Adapter, "encode", encode)
            with pytest.raises(error, match=match):
                sb.corrected_counts(model, progress=False, **arguments)
        assert list(tmp_path.iterdir()) == []

    return call


# -- batches -------------------------------------------------------------------------------------


def test_unknown_batch_lists_the_known_ones(refused):
    refused(ValueError, r"batch 'V9' is not among 'V1', 'V2', 'V3'", transform_batch="V9")


def test_misspelt_batch_is_suggested(refused):
    refused(ValueError, r"'v2' is not among .*did you mean 'V2'\?", transform_batch="v2")


def test_missing_batch_lists_the_batches(refused):
    refused(ValueError, r"transform_batch is required.*'V1', 'V2', 'V3'", transform_batch=None)


def test_repeated_batch(refused):
    refused(ValueError, "contains a batch twice", transform_batch=["V1", "V1"])


def test_internal_code_for_a_name(refused):
    refused(ValueError, r"internal code \(1 is the code of 'V2'\)", transform_batch=1)


def test_batch_name_as_batch_size(refused):
    refused(ValueError, r"cells in a minibatch.*transform_batch='V3'", batch_size="V3")


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.5])
def test_bad_batch_size(refused, batch_size):
    refused(ValueError, "batch_size", batch_size=batch_size)


def test_batches_that_are_numbers():
    assert arguments.resolve_targets(2, [1, 2], required=True) == [1]
    assert arguments.resolve_targets("2", [1, 2], required=True) == [1]
    with pytest.raises(ValueError, match=r"1015 is not among.*did you mean '1015'"):
        arguments.resolve_targets(1015, ["1015", "1016"], required=True)
    assert arguments.resolve_targets(True, [False, True], required=True) == [1]
    with pytest.raises(ValueError, match="True is not among"):
        arguments.resolve_targets(True, [1, 2], required=True)


# -- genes ---------------------------------------------------------------------------------------


def test_missing_genes_are_counted_and_listed(refused, simulated):
    refused(
        ValueError,
        r"lack 2 of the model's 120 genes: 'gene_0000', 'gene_0001'",
        adata=simulated[:, 2:].copy(),
    )


def test_names_of_another_kind_are_shown(refused, simulated):
    renamed = simulated.copy()
    renamed.var_names = [f"ENSG{g}" for g in range(120)]
    refused(
        ValueError,
        r"lack 120 of the model's 120 genes: .*; the data have names such as 'ENSG0', 'ENSG1'",
        adata=renamed,
    )


def test_duplicate_genes(refused, simulated):
    doubled = simulated[:, [0, *range(120)]].copy()
    refused(ValueError, r"gene names occur more than once: 'gene_0000'", adata=doubled)


def test_duplicate_cells(refused, simulated):
    doubled = simulated[[0, 0, 1]].copy()
    refused(ValueError, r"cell names occur more than once.*obs_names_make_unique", adata=doubled)


def test_unknown_genes_asked_for(refused):
    refused(ValueError, "does not have 1 of the 1 genes in gene_list: 'GAPDH'", gene_list=["GAPDH"])


def test_gene_list_must_be_a_list(refused):
    refused(TypeError, "single name 'gene_0001'", gene_list="gene_0001")


def test_shuffled_genes_and_superset_are_realigned_by_name(trained_model, simulated):
    order = np.random.default_rng(0).permutation(simulated.n_vars)
    shuffled = simulated[:, order].copy()
    extra = sp.csr_matrix(np.ones((simulated.n_obs, 2), dtype=np.float32))
    superset = ad.AnnData(
        sp.hstack([extra, shuffled.X], format="csr"),
        obs=shuffled.obs,
        var=pd.DataFrame(index=["extra_a", "extra_b", *shuffled.var_names]),
    )
    arguments = {"transform_batch": "V3", "progress": False}
    expected = sb.corrected_counts(trained_model, **arguments)
    for adata in (shuffled, superset):
        result = sb.corrected_counts(trained_model, adata, **arguments)
        assert list(result.var_names) == list(expected.var_names)
        assert (result.X != expected.X).nnz == 0


# -- counts --------------------------------------------------------------------------------------


def with_values(simulated, change):
    adata = simulated.copy()
    adata.X = adata.X.astype(np.float32)
    change(adata.X.data)
    return adata


def test_masked_values_are_missing(refused, simulated):
    adata = simulated.copy()
    counts = adata.X.toarray()
    adata.X = np.ma.masked_array(counts, mask=counts == 3)
    refused(ValueError, r"adata\.X must hold raw counts, but holds masked .* values", adata=adata)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_of_more_than_32_bits(refused, simulated, dtype):
    adata = with_values(simulated, lambda x: x)
    adata.X = adata.X.astype(dtype)
    adata.X.data[7] = 2.0**31
    refused(ValueError, r"counts must be below 2\*\*31", adata=adata)


def test_log_normalised_values(refused, simulated):
    adata = with_values(simulated, lambda x: np.log1p(x, out=x))
    adata.layers["counts"] = simulated.X
    refused(ValueError, r"not whole numbers.*layers\['counts'\] holds whole numbers", adata=adata)


@pytest.mark.parametrize(("value", "match"), [(-1, "negative"), (np.nan, "NaN"), (np.inf, "NaN")])
def test_values_that_are_no_counts(refused, simulated, value, match):
    refused(ValueError, match, adata=with_values(simulated, lambda x: x.__setitem__(3, value)))


def test_dense_integer_and_backed_counts_give_the_same(
    trained_model, simulated, data_file, tmp_path
):
    arguments = {"transform_batch": "V3", "progress": False}
    expected = sb.corrected_counts(trained_model, simulated, **arguments)
    dense, integers, columns = simulated.copy(), simulated.copy(), simulated.copy()
    dense.X = simulated.X.toarray()
    integers.X = simulated.X.astype(np.int64)
    columns.X = simulated.X.tocsc()
    stored_zeros = simulated.copy()
    rows, genes = np.indices(simulated.shape)
    values = simulated.X.toarray().ravel()
    stored_zeros.X = sp.csr_matrix((values, (rows.ravel(), genes.ravel())), simulated.shape)
    assert stored_zeros.X.nnz == values.size > simulated.X.nnz
    backed = ad.read_h5ad(data_file, backed="r")
    columns.write_h5ad(tmp_path / "columns.h5ad")
    backed_columns = ad.read_h5ad(tmp_path / "columns.h5ad", backed="r")
    for adata in (dense, integers, columns, stored_zeros, simulated[:], backed, backed_columns):
        result = sb.corrected_counts(trained_model, adata, **arguments)
        assert (result.X != expected.X).nnz == 0
        assert result.layers["raw_counts"].nnz == simulated.X.nnz


def test_quantile_without_counts(simulated, train, refused):
    model = train(simulated.copy(), max_epochs=2)
    mean, variance = model.get_latent_representation(return_dist=True)
    model.adata.obsm["m"], model.adata.obsm["v"] = mean, variance
    expected = sb.normalized_expression(model, transform_batch="V2", progress=False)
    counts = sb.corrected_counts(model, transform_batch="V2", progress=False)
    model.minify_adata(use_latent_qzm_key="m", use_latent_qzv_key="v")
    refused(ValueError, "minified", model=model)
    given = sb.corrected_counts(model, simulated, transform_batch="V2", progress=False)
    assert (given.X != counts.X).nnz == 0
    result = sb.normalized_expression(model, transform_batch="V2", progress=False)
    np.testing.assert_allclose(result.X, expected.X, rtol=1e-5)


# -- cells and columns ---------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [[], np.zeros(300, dtype=bool), slice(5, 5)])
def test_empty_selection(refused, indices):
    refused(ValueError, "selects no cells", indices=indices)


@pytest.mark.parametrize(
    ("indices", "match"),
    [
        ([0, 300], "within the 300"),
        ([1, 1], "more than once"),
        ([0.5], "positions"),
        (["nobody"], "the data lack"),
        (np.ones(5, dtype=bool), "mask of 5 values for 300"),
    ],
)
def test_bad_indices(refused, indices, match):
    refused(ValueError, match, indices=indices)


def test_data_without_cells(refused, simulated):
    refused(ValueError, "^the data have no cells$", adata=simulated[:0].copy())


def test_cells_by_name_mask_and_position_agree(trained_model):
    names = trained_model.adata.obs_names
    mask = np.zeros(300, dtype=bool)
    mask[[4, 9]] = True
    arguments = {"transform_batch": "V3", "progress": False}
    results = [
        sb.corrected_counts(trained_model, indices=i, **arguments)
        for i in ([4, 9], mask, list(names[[4, 9]]), slice(4, 10, 5), [4, -291])
    ]
    for result in results:
        assert list(result.obs_names) == list(names[[4, 9]])
        assert (result.X != results[0].X).nnz == 0


def test_unknown_column_is_suggested(refused):
    refused(ValueError, "did you mean 'cell_type'", labels_key="cell_typ")
    refused(ValueError, "condition_key='sex' is not a column", condition_key="sex")


def test_labels_that_are_the_batch_or_the_condition(refused):
    refused(ValueError, "pass the column with cell types", labels_key="batch")
    refused(ValueError, "cell types", labels_key="condition", condition_key="condition")


def test_batch_column_missing_or_unknown_in_new_data(refused, simulated):
    without = simulated.copy()
    del without.obs["batch"]
    refused(
        ValueError, r"set up with obs\['batch'\], which is missing from the data", adata=without
    )
    new = simulated.copy()
    new.obs["batch"] = new.obs["batch"].cat.rename_categories({"V1": "V7"})
    refused(ValueError, "values unknown to the model: 'V7'", adata=new)
    missing = simulated.copy()
    missing.obs.loc[missing.obs_names[:3], "batch"] = np.nan
    refused(ValueError, "missing for 3 cells", adata=missing)


@pytest.mark.parametrize(
    ("column", "match"),
    [
        (None, r"set up with obs\['batch'\], which is missing from the data"),
        (["V7", "V2", "V3"], "values unknown to the model: 'V7'"),
        ([None, "V2", "V3"], "obs.'batch'. is missing for"),
    ],
)
def test_load_says_which_column_does_not_fit(model_folder, simulated, column, match):
    data = simulated.copy()
    if column is None:
        del data.obs["batch"]
    else:
        codes = simulated.obs["batch"].cat.codes
        data.obs["batch"] = np.array(column, dtype=object)[codes]
    with pytest.raises(ValueError, match=match):
        sb.load(model_folder, adata=data)


# -- scalars and choices -------------------------------------------------------------------------


@pytest.mark.parametrize("library_size", [0, -5, np.inf, np.nan])
def test_bad_library_size(refused, library_size):
    refused(ValueError, "library_size must be positive and finite", library_size=library_size)


@pytest.mark.parametrize("library_size", [True, [1e4]])
def test_library_size_of_a_wrong_type(refused, library_size):
    refused(TypeError, "library_size must be a number, a single string", library_size=library_size)


def test_misspelt_choices(refused):
    refused(ValueError, "did you mean 'median'", library_size="mediam")
    refused(ValueError, "did you mean 'quantile'", method="quantiles")
    refused(ValueError, "did you mean 'global'", effect="globale")
    refused(ValueError, "needs labels_key", effect="label")
    refused(ValueError, "requires method='quantile'", method="sample", effect="cell")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_bad_seed(refused, seed):
    refused(ValueError, "seed", seed=seed)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", ""])
def test_bad_device(refused, device):
    refused(ValueError, "device", device=device)


# -- models and files ----------------------------------------------------------------------------


def test_weights_of_a_training_that_diverged(simulated, train, refused):
    model = train(simulated.copy(), max_epochs=1)
    model.module.decoder.px_scale_decoder[0].weight.data[2, 1] = np.nan
    match = r"weights decoder.px_scale_decoder.0.weight have missing or infinite values"
    refused(ValueError, match, model=model)


def test_only_weights_that_are_not_finite_are_refused():
    layer = torch.nn.Linear(2, 1)
    layer.weight.data[:] = 3e38  # the sum is infinite
    check_weights(layer)
    for values in ([[torch.inf, -torch.inf]], [[torch.nan, 0.0]], [[torch.inf, 0.0]]):
        layer.weight.data[:] = torch.tensor(values)
        with pytest.raises(ValueError, match="weights weight have missing or infinite values"):
            check_weights(layer)


def test_untrained_model(simulated, train, refused):
    refused(ValueError, "not been trained", model=train(simulated.copy(), max_epochs=0))


def test_what_is_no_model(refused):
    refused(TypeError, "trained scvi-tools model, got dict", model={})


def test_unsupported_class_is_named(simulated, refused):
    import scvi

    adata = simulated.copy()
    scvi.model.AmortizedLDA.setup_anndata(adata)
    model = scvi.model.AmortizedLDA(adata, n_topics=3, n_hidden=8)
    model.is_trained_ = True
    refused(TypeError, "AmortizedLDA are not supported: its topics", model=model)


def test_gaussian_model_has_no_counts(simulated, train, refused):
    model = train(simulated.copy(), gene_likelihood="normal", max_epochs=1)
    refused(ValueError, "'normal', which is not a likelihood of counts", model=model)


def test_output_is_checked_first(refused, tmp_path):
    refused(FileNotFoundError, "does not exist", out=tmp_path / "nowhere" / "x.h5ad")
    refused(ValueError, "ends in .csv", out=tmp_path / "x.csv")


def test_columns_that_no_file_can_hold(refused, simulated):
    for values in ([1, "x"] * 150, [[1], [2]] * 150):
        odd = simulated.copy()
        odd.obs["odd"] = pd.Series(values, index=odd.obs_names, dtype=object)
        refused(ValueError, r"obs\['odd'\] cannot be written to an h5ad file", adata=odd)


def test_data_path_that_is_none(refused, tmp_path):
    refused(FileNotFoundError, "there is no file", adata=tmp_path / "nowhere.h5ad")
    refused(TypeError, "AnnData or a path", adata=3)


# -- loading -------------------------------------------------------------------------------------


def test_load_realigns_genes_and_gives_the_same_counts(
    model_folder, simulated, trained_model, tmp_path
):
    order = np.random.default_rng(0).permutation(simulated.n_vars)
    path = tmp_path / "shuffled.h5ad"
    simulated[:, order].copy().write_h5ad(path)
    model = sb.load(model_folder, adata=path)
    # A model that was saved without its data does not know which cells were held out.
    arguments = {"transform_batch": "V3", "shrinkage": 10, "progress": False}
    result = sb.corrected_counts(model, **arguments)
    expected = sb.corrected_counts(trained_model, **arguments)
    assert (result.X != expected.X).nnz == 0


@pytest.mark.parametrize("given", ["obs", b"data.h5ad", 3, {"a": 1}])
def test_load_refuses_what_is_no_data(model_folder, simulated, given):
    given = simulated.obs if isinstance(given, str) else given
    with pytest.raises(TypeError, match=r"adata must be an AnnData, a path, .* got "):
        sb.load(model_folder, adata=given)


def test_load_takes_more_genes_that_are_on_disk(model_folder, simulated, trained_model, tmp_path):
    more = ad.AnnData(
        sp.hstack([simulated.X[:, :2], simulated.X], format="csr"),
        obs=simulated.obs,
        var=pd.DataFrame(index=["extra_a", "extra_b", *simulated.var_names]),
    )
    more.write_h5ad(tmp_path / "more.h5ad")
    arguments = {"transform_batch": "V3", "shrinkage": 10, "progress": False}
    expected = sb.corrected_counts(trained_model, **arguments)
    path = tmp_path / "more.h5ad"
    opened = ad.read_h5ad(path, backed="r")
    for adata in (opened, opened[:300], *lazy.if_possible(path)):
        model = sb.load(model_folder, adata=adata)
        assert (sb.corrected_counts(model, **arguments).X != expected.X).nnz == 0


@pytest.mark.parametrize("form", ["memory", "backed", "lazy"])
def test_load_takes_some_of_the_cells(model_folder, simulated, data_file, form):
    adata = simulated
    if form != "memory":
        adata = ad.read_h5ad(data_file, backed="r") if form == "backed" else lazy.read(data_file)
    model = sb.load(model_folder, adata=adata[:200])
    arguments = {"transform_batch": "V3", "shrinkage": 10, "progress": False}
    expected = sb.corrected_counts(sb.load(model_folder, adata=simulated[:200].copy()), **arguments)
    assert (sb.corrected_counts(model, **arguments).X != expected.X).nnz == 0


def test_every_function_takes_data_that_are_read_lazily(simulated, data_file):
    how = {"batch_key": "batch", "max_epochs": 1, "progress": False}
    model = sb.train_scvi(lazy.read(data_file), n_top_genes=None, **how)
    expected = sb.train_scvi(simulated.copy(), n_top_genes=None, **how)
    assert (model.adata.X != expected.adata.X).nnz == 0
    assert model.adata.obs["batch"].tolist() == simulated.obs["batch"].tolist()
    few = sb.train_scvi(simulated, n_top_genes=list(simulated.var_names[:100]), **how)
    whole = sb.extend_genes(few, lazy.read(data_file), max_epochs=1, ridge=1.0, progress=False)
    counts = sb.corrected_counts(whole, transform_batch="V3", progress=False)
    same = sb.corrected_counts(whole, simulated.copy(), transform_batch="V3", progress=False)
    assert (counts.X != same.X).nnz == 0
    table = sb.damage(lazy.read(data_file), **how)
    pd.testing.assert_frame_equal(table, sb.damage(simulated.copy(), **how))


def test_columns_of_one_name_are_named(refused, simulated):
    twice = simulated.copy()
    twice.obs["other"] = "x"
    twice.obs.columns = ["batch" if name == "other" else name for name in twice.obs.columns]
    refused(ValueError, r"obs has more than one column 'batch'", adata=twice, out=None)


def test_the_models_own_data_by_columns_on_disk(model_folder, simulated, tmp_path):
    """They are compared with the cells passed."""
    columns = simulated.copy()
    columns.X = simulated.X.tocsc()
    columns.write_h5ad(tmp_path / "columns.h5ad")
    model = sb.load(model_folder, adata=ad.read_h5ad(tmp_path / "columns.h5ad", backed="r"))
    other = simulated.copy()
    other.X = sp.csr_matrix(other.X.toarray() + 1)
    with pytest.warns(UserWarning, match="have the same name as a cell of the model's data"):
        sb.corrected_counts(model, other, transform_batch="V3", progress=False)


def test_load_refuses_what_is_no_model(tmp_path, model_folder, simulated):
    with pytest.raises(FileNotFoundError, match=r"the model folder .* does not exist"):
        sb.load(tmp_path / "nowhere", adata=simulated)
    with pytest.raises(FileNotFoundError, match=re.escape("contains no model.pt")):
        sb.load(tmp_path, adata=simulated)
    with pytest.raises(ValueError, match="'cuda:99' was requested"):
        sb.load(model_folder, adata=simulated, device="cuda:99")
    with pytest.raises(FileNotFoundError, match="pass adata="):
        sb.load(model_folder)
    with pytest.raises(ValueError, match="lack 20 of the model's 120 genes"):
        sb.load(model_folder, adata=simulated[:, 20:].copy())
    (tmp_path / "model.pt").write_text("nonsense")
    with pytest.raises(ValueError, match="could not be read as a model"):
        sb.load(tmp_path, adata=simulated)


# -- confounding ---------------------------------------------------------------------------------


def nested(simulated):
    """Conditions nested in batches: V1 is control, V2 and V3 are stimulated."""
    adata = simulated.copy()
    adata.obs["arm"] = pd.Categorical(np.where(adata.obs["batch"] == "V1", "ctrl", "stim"))
    return adata


def test_confounded_design_is_refused(refused, simulated, train):
    model = train(nested(simulated), max_epochs=2)
    refused(
        ValueError,
        r"rank deficient.*\), overall: ctrl in 'V1'; stim in 'V2', 'V3'.*allow_confounded=True",
        model=model,
        condition_key="arm",
    )
    with pytest.warns(UserWarning, match="confounding: overall"):
        result = sb.corrected_counts(
            model, transform_batch="V3", condition_key="arm", allow_confounded=True, progress=False
        )
    assert result.uns["scvibridge"]["confounding"] == "confounded, allowed by the user"


def rank_deficient(batch, condition):
    """By the rank of the design matrix of ~ batch + condition."""
    design = pd.get_dummies(pd.DataFrame({"b": batch, "c": condition}).astype("category"))
    full = len(np.unique(batch)) + len(np.unique(condition)) - 1
    return np.linalg.matrix_rank(design.to_numpy(dtype=float)) < full


def test_confounding_is_the_rank_of_the_design():
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(200):
        n = rng.integers(3, 9)
        batch, condition = rng.integers(4, size=n), rng.integers(3, size=n)
        names = {"batch": list("abcd"), "condition": list("xyz")}
        found = confounding.check_confounding(batch, condition, None, names, 20)
        assert bool(found.refusals) == rank_deficient(batch, condition)
        verdicts.append(bool(found.refusals))
    assert 20 < sum(verdicts) < 180


def test_confounding_within_a_label():
    batch = np.repeat([0, 0, 1, 1], 50)
    condition = np.repeat([0, 1, 0, 1], 50)
    labels = np.zeros(200, dtype=int)
    # Label 1 has the first condition in the first batch only, and the second in the second.
    labels[:25] = labels[150:175] = 1
    names = {"batch": ["V1", "V2"], "condition": ["ctrl", "stim"], "label": ["T", "B"]}
    found = confounding.check_confounding(batch, condition, labels, names, 20)
    assert found.refusals == ["within label 'B': ctrl in 'V1'; stim in 'V2'"]
    few = confounding.check_confounding(batch, condition, labels, names, 30)
    assert few.refusals == []


def test_partly_confounded_designs_are_named():
    batch = np.repeat([0, 0, 1], 50)
    condition = np.repeat([0, 1, 1], 50)
    labels = np.where(condition == 1, 0, 1)
    names = {"batch": ["V1", "V2"], "condition": ["ctrl", "stim"], "label": ["T", "B"]}
    found = confounding.check_confounding(batch, condition, labels, names, 20)
    assert found.status == "partly confounded"
    assert any("batches 'V2' have a single condition" in w for w in found.warnings)
    assert any("more than 90% of the cells of labels 'T', 'B'" in w for w in found.warnings)


def test_balanced_design_is_stored(trained_model, recwarn):
    result = sb.corrected_counts(
        trained_model, transform_batch="V3", condition_key="condition", progress=False
    )
    assert result.uns["scvibridge"]["confounding"] == "balanced"
    assert not any("confounding" in str(w.message) for w in recwarn)
