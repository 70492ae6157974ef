"""Results in which nothing could be corrected: refused, or said in the provenance and report."""

from __future__ import annotations

import warnings

import families
import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge.correction.correctable import left_alone
from scvibridge.diagnostics import report
from scvibridge.diagnostics.report.reading import open_result
from scvibridge.models.adapters import Target

QUIET = {"progress": False, "device": "cpu"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


@pytest.fixture(scope="module")
def data(simulate):
    return simulate(n_cells=240, n_genes=30)


@pytest.fixture(scope="module")
def folder(data, train, tmp_path_factory):
    """A saved model without its data."""
    path = tmp_path_factory.mktemp("nothing") / "model"
    train(data.copy(), max_epochs=2).save(str(path), save_anndata=False)
    return path


def of_batches(data, *names):
    return data[data.obs["batch"].isin(names)].copy()


def n_changed(result):
    return (result.layers["raw_counts"] != result.X).nnz


VARIANTS = [
    {},
    {"library_size": "observed"},
    {"library_size": 1000},
    {"library_size": "median"},
    {"shrinkage": 0},
    {"effect": "cell"},
    {"labels_key": "cell_type"},
    {"transform_batch": ["V2", "V3"]},
    {"sample_key": "sample"},
    {"gene_list": ["gene_0003"]},
]


@pytest.mark.parametrize("given", VARIANTS, ids=str)
@pytest.mark.parametrize("loaded", ["with", "without"])
def test_a_target_without_cells_is_refused(data, folder, given, loaded):
    only = of_batches(data, "V1")
    only.obs["sample"] = "D1"
    model = sb.load(folder, adata=only if loaded == "with" else False)
    message = r"nothing can be corrected.*no cells of the target 'V.*only of 'V1'.*Pass adata="
    with pytest.raises(ValueError, match=message):
        sb.corrected_counts(model, only, **{"transform_batch": "V2", **given}, **QUIET)


def test_a_target_without_cells_is_refused_before_a_file_is_made(data, folder, tmp_path):
    only = of_batches(data, "V1")
    only.write_h5ad(tmp_path / "only.h5ad")
    model = sb.load(folder, adata=False)
    with pytest.raises(ValueError, match="no cells of the target 'V2'"):
        sb.corrected_counts(model, tmp_path / "only.h5ad", "V2", out=tmp_path / "out.h5ad", **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["only.h5ad"]


def test_the_call_that_the_error_names_corrects(data, folder):
    """Cells of the target too, and those to correct by name: as in the whole."""
    model = sb.load(folder, adata=False)
    both = of_batches(data, "V1", "V2")
    rows = both.obs_names[both.obs["batch"] == "V1"]
    given = {"transform_batch": "V2", "library_size": "observed", "shrinkage": 0, **QUIET}
    part = sb.corrected_counts(model, both, indices=rows, **given)
    whole = sb.corrected_counts(model, both, **given)
    assert n_changed(part) > 0.05 * part.X.nnz
    assert (part.X != whole[rows].X).nnz <= 1
    assert part.uns["scvibridge"]["corrected_cells"] == len(rows)


def test_queries_without_cells_of_the_reference_are_refused(data, folder):
    import scvi

    query = of_batches(data, "V1")
    query.obs["batch"] = "new"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = scvi.model.SCVI.load_query_data(query, str(folder))
    model.is_trained_ = True
    with pytest.raises(ValueError, match="no cells of the target 'V2', only of 'new'"):
        sb.corrected_counts(model, transform_batch="V2", **QUIET)
    with pytest.raises(ValueError, match=r"no cells of the target 'V2', only of 'new'"):
        sb.corrected_counts(model, query, transform_batch="V2", **QUIET)


def test_extended_models_are_refused_too(data, folder):
    further = data[:, :10].copy()
    further.var_names = [f"further_{gene}" for gene in further.var_names]
    import anndata as ad

    everything = ad.concat([data, further], axis="var", merge="first")
    model = sb.load(folder, adata=data.copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extended = sb.extend_genes(model, everything, max_epochs=2, ridge=0.1, **QUIET)
    only = everything[everything.obs["batch"] == "V1"].copy()
    object.__setattr__(extended, "adata", only)
    with pytest.raises(ValueError, match="no cells of the target 'V2'"):
        sb.corrected_counts(extended, transform_batch="V2", **QUIET)


def test_a_target_of_a_few_cells_is_refused(data, folder):
    four = np.flatnonzero(data.obs["batch"] == "V2")[:4]
    some = data[np.r_[four, np.flatnonzero(data.obs["batch"] == "V1")]].copy()
    model = sb.load(folder, adata=some)
    with pytest.raises(ValueError, match=r"at least 5 cells of both the target 'V2' \(4 cells\)"):
        sb.corrected_counts(model, transform_batch="V2", **QUIET)
    with pytest.raises(ValueError, match="at least 5 cells"):
        sb.corrected_counts(model, transform_batch="V2", effect="cell", **QUIET)


def test_a_source_of_a_few_cells_is_named(data, folder):
    four = np.flatnonzero(data.obs["batch"] == "V3")[:4]
    some = data[np.r_[four, np.flatnonzero(data.obs["batch"] != "V3")]].copy()
    model = sb.load(folder, adata=some)
    given = {"transform_batch": "V2", "library_size": "observed", "shrinkage": 0, **QUIET}
    with pytest.warns(UserWarning, match="batch effect of 'V3' was not removed"):
        result = sb.corrected_counts(model, **given)
    few = (result.obs["batch"] == "V3").to_numpy()
    assert n_changed(result[few]) == 0
    assert n_changed(result[(result.obs["batch"] == "V1").to_numpy()]) > 0
    made = result.uns["scvibridge"]
    assert list(made["uncorrected_batches"]) == ["V3"]
    assert made["corrected_cells"] == (result.obs["batch"] == "V1").sum()
    verdict = report.judge(report._evidence(open_result(result), None, None, 0, False))
    assert verdict.level == "stop"
    assert any(
        "V3\N{RIGHT DOUBLE QUOTATION MARK} was not" in found.text for found in verdict.findings
    )


def test_one_of_several_targets_without_cells_is_named(data, folder):
    model = sb.load(folder, adata=of_batches(data, "V1", "V2"))
    with pytest.warns(UserWarning, match="have no cells of 'V3'"):
        result = sb.corrected_counts(model, transform_batch=["V2", "V3"], **QUIET)
    assert n_changed(result) > 0


def test_share_of_counts_left_alone():
    detected = np.array([[10, 10, 4, 6], [10, 4, 10, 10], [0, 0, 0, 0]])
    assert left_alone(detected, Target([1])).tolist() == [14 / 30, 4 / 34, 1.0]
    assert left_alone(detected, Target([0, 1])).tolist() == [4 / 30, 4 / 34, 1.0]


def test_genes_that_keep_their_effect_are_named(data, folder):
    adata = data.copy()
    counts = adata.X.toarray()
    counts[(adata.obs["batch"] == "V2").to_numpy(), :20] = 0
    adata.X = counts
    model = sb.load(folder, adata=adata)
    with pytest.warns(UserWarning, match=r"much of the batch effect remains.*'V1' \d+%"):
        result = sb.corrected_counts(model, transform_batch="V2", **QUIET)
    assert list(result.uns["scvibridge"]["partly_corrected_batches"]) == ["V1", "V3"]
    with (
        pytest.warns(UserWarning, match="much of the batch effect remains"),
        pytest.warns(UserWarning, match="batch effect of the requested genes was not removed"),
    ):
        sb.corrected_counts(model, transform_batch="V2", gene_list=["gene_0001"], **QUIET)


def test_cells_of_the_target_alone_are_said_to_be_so(data, folder):
    model = sb.load(folder, adata=data.copy())
    rows = data.obs["batch"].to_numpy() == "V2"
    with pytest.warns(UserWarning, match=r"there was nothing to correct.*target \('V2'\)"):
        result = sb.corrected_counts(model, transform_batch="V2", indices=rows, **QUIET)
    assert n_changed(result) == 0
    assert result.uns["scvibridge"]["corrected_cells"] == 0
    verdict = report.judge(report._evidence(open_result(result), None, None, 0, False))
    assert verdict.headline == "Nothing was corrected: these are the raw counts"


# -- one batch, or none --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_batch(data, train):
    return train(data.copy(), batch_key=None, labels_key=None, max_epochs=2)


@pytest.mark.parametrize("given", [{}, {"library_size": "observed"}, {"effect": "cell"}], ids=str)
def test_a_model_without_a_batch_is_refused(without_batch, given):
    with pytest.raises(
        ValueError, match=r"nothing can be corrected.*without batch_key=.*train_scvi"
    ):
        sb.corrected_counts(without_batch, **given, **QUIET)


@pytest.mark.parametrize(
    "function", [sb.corrected_counts, sb.normalized_expression, sb.batch_support]
)
def test_a_target_of_a_model_without_a_batch_is_refused(without_batch, function):
    for name in ("V1", 0):
        with pytest.raises(ValueError, match=r"transform_batch=.*set up without batch_key="):
            function(without_batch, transform_batch=name, **QUIET)


def test_depth_alone_is_said_to_be_changed(without_batch):
    with pytest.warns(UserWarning, match="no batch effect was removed: the model was set up"):
        result = sb.corrected_counts(without_batch, library_size=500, **QUIET)
    assert result.uns["scvibridge"]["corrected_cells"] == 0
    assert abs(np.median(np.asarray(result.X.sum(axis=1))) - 500) < 50
    verdict = report.judge(report._evidence(open_result(result), None, None, 0, False))
    assert verdict.level == "stop"


def test_samples_of_a_model_without_a_batch_are_draws(without_batch):
    with pytest.warns(UserWarning, match="no batch effect was removed"):
        result = sb.corrected_counts(without_batch, method="sample", **QUIET)
    assert n_changed(result) > 0


def test_a_model_of_one_batch_is_refused(data, train):
    model = train(of_batches(data, "V2"), max_epochs=1)
    with pytest.raises(ValueError, match="the model has a single batch, 'V2'"):
        sb.corrected_counts(model, **QUIET)
    with pytest.raises(ValueError, match="the model has a single batch, 'V2'"):
        sb.corrected_counts(model, transform_batch="V2", **QUIET)


def test_values_that_no_cell_has_together_are_refused(data):
    nested = data.copy()
    nested.obs["donor"] = pd.Categorical(np.where(nested.obs["batch"] == "V1", "D1", "D2"))
    keys = {"categorical_covariate_keys": ["donor"]}
    model, _ = families.make("SCVI", nested, setup=keys, epochs=1)
    with pytest.raises(ValueError, match="Choose values that occur together"):
        sb.corrected_counts(
            model, transform_batch="V2", transform_covariates={"donor": "D1"}, **QUIET
        )


def test_covariates_of_one_value_are_refused(data):
    one = data.copy()
    one.obs["donor"] = pd.Categorical(["D1"] * one.n_obs)
    keys = {"categorical_covariate_keys": ["donor"]}
    model, _ = families.make("SCVI", one, setup=keys, epochs=1)
    with pytest.raises(ValueError, match="a single combination of values, 'donor=D1'"):
        sb.corrected_counts(model, transform_covariates={"donor": "D1"}, **QUIET)


# -- functions beside it -------------------------------------------------------------------------


def test_damage_refuses_labels_of_a_few_cells_before_it_trains(data):
    adata = data.copy()
    adata.obs["rare"] = [f"type {number % 60}" for number in range(adata.n_obs)]
    adata.obs["one"] = "batch"
    with pytest.raises(ValueError, match="labels_key='rare': no label has 20 cells in a half"):
        sb.damage(adata, "one", labels_key="rare", max_epochs=1, progress=False)


def test_choose_batch_refuses_columns_without_values(data, folder):
    adata = data.copy()
    adata.obs["nothing"] = pd.Categorical([None] * adata.n_obs, categories=["a"])
    model = sb.load(folder, adata=adata)
    for key in ("labels_key", "condition_key"):
        with pytest.raises(ValueError, match=f"{key}='nothing': the column has no values in the"):
            sb.choose_batch(model, **{key: "nothing"}, **QUIET)
