"""Other covariates than the batch, changed alone or with it."""

from __future__ import annotations

import datetime as dt

import families
import numpy as np
import oracle
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from scvibridge.cli.main import main

QUIET = {"progress": False}
KEYS = {
    "categorical_covariate_keys": ["donor", "chip"],
    "continuous_covariate_keys": ["age", "percent_mito"],
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


@pytest.fixture(scope="module")
def data(simulate):
    adata = simulate(n_cells=360, n_genes=50, batches=("V1", "V2"), seed=5)
    rng = np.random.default_rng(1)
    adata.obs["donor"] = pd.Categorical(rng.choice(["D1", "D2", "D3"], adata.n_obs))
    adata.obs["chip"] = rng.choice([10, 20], adata.n_obs)
    adata.obs["age"] = rng.normal(size=adata.n_obs)
    adata.obs["percent_mito"] = rng.uniform(0, 0.2, adata.n_obs)
    return adata


@pytest.fixture(scope="module")
def trained(data):
    made = {}

    def get(name="SCVI", **arguments):
        key = (name, repr(sorted(arguments.items())))
        if key not in made:
            made[key], _ = families.make(name, data, setup=KEYS, **arguments)
        return made[key]

    return get


def changed(donor=None, chip=None, age=None, mito=None):
    """Change the tensors that scvi-tools' decoder is given."""

    def change(tensors):
        categorical = tensors["extra_categorical_covs"].clone()
        continuous = tensors["extra_continuous_covs"].clone()
        for values, column, value in (
            (categorical, 0, donor),
            (categorical, 1, chip),
            (continuous, 0, age),
            (continuous, 1, mito),
        ):
            if value is not None:
                values[:, column] = value
        return {
            **tensors,
            "extra_categorical_covs": categorical,
            "extra_continuous_covs": continuous,
        }

    return change


FAMILIES = ["SCVI", "SCANVI", "TOTALVI", "MULTIVI"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("batch", "asked", "code", "given"),
    [
        (None, {"donor": "D2"}, None, {"donor": 1}),
        ("V2", {"donor": "D3", "chip": 20}, 1, {"donor": 2, "chip": 1}),
        (None, {"percent_mito": 0.05}, None, {"mito": 0.05}),
        ("V1", {"donor": "D1", "age": -1}, 0, {"donor": 0, "age": -1}),
    ],
)
def test_expression_equals_upstreams_module(trained, name, batch, asked, code, given):
    model = trained(name)
    ours = sb.normalized_expression(
        model, transform_batch=batch, transform_covariates=asked, **QUIET
    )
    theirs = families.parameters(model, code, changed(**given))["scale"]
    assert_allclose(ours.X, 1e4 * theirs, rtol=3e-5, atol=1e-8)
    own = families.parameters(model, None)["scale"]
    assert np.abs(np.log(theirs / own)).mean() > 1e-3
    made = ours.uns["scvibridge"]
    assert {key: list(values) for key, values in made["transform_covariates"].items()} == {
        key: [value] for key, value in asked.items()
    }


def test_values_are_averaged_over(trained):
    model = trained()
    ours = sb.normalized_expression(
        model,
        transform_batch=["V1", "V2"],
        transform_covariates={"donor": ["D1", "D3"], "age": [0.0, 1.0]},
        **QUIET,
    )
    scales = [
        families.parameters(model, code, changed(donor=donor, age=age))["scale"]
        for code in (0, 1)
        for donor in (0, 2)
        for age in (0.0, 1.0)
    ]
    assert_allclose(ours.X, 1e4 * np.mean(scales, axis=0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("effect", ["label", "cell"])
def test_counts_with_another_donor_equal_a_second_implementation(trained, data, dispersion, effect):
    model = trained(dispersion=dispersion)

    def parameters(model, code):
        # The donors stand for batches: 1 is D2.
        return families.parameters(model, None, None if code is None else changed(donor=code))

    ours = sb.corrected_counts(
        model,
        transform_covariates={"donor": "D2"},
        effect=effect,
        labels_key="cell_type",
        library_size="observed",
        shrinkage=None if effect == "cell" else 0,
        **QUIET,
    )
    rna = data.copy()
    rna.obs["batch"] = rna.obs["donor"]
    labels = rna.obs["cell_type"].cat.codes.to_numpy()
    expected, comparable = oracle.quantile(
        model, [1], np.ones(rna.n_obs), effect, labels, adata=rna, parameters=parameters
    )
    assert comparable.mean() > 0.6
    assert (ours.X.toarray() != expected)[comparable].mean() < 5e-4
    home = (rna.obs["donor"] == "D2").to_numpy()
    assert_array_equal(ours.X[home].toarray(), rna.X[home].toarray())
    assert (ours.X[~home] != rna.X[~home]).nnz > 100
    made = ours.uns["scvibridge"]
    assert list(made["targets"]) == ["donor=D2"]
    assert list(made["transform_batch"]) == []
    assert (ours.obs["scvibridge_stratum"] == "donor=" + rna.obs["donor"].astype(str)).all()


def test_batch_and_donor_are_exchanged_together(trained, data):
    model = trained(dispersion="gene-batch")

    def parameters(model, code):
        if code is None:
            return families.parameters(model, None)
        return families.parameters(model, code // 3, changed(donor=code % 3))

    rna = data.copy()
    both = rna.obs["batch"].astype(str) + "+" + rna.obs["donor"].astype(str)
    rna.obs["batch"] = both.astype("category")
    assert list(rna.obs["batch"].cat.categories)[4] == "V2+D2"
    ours = sb.corrected_counts(
        model,
        transform_batch="V2",
        transform_covariates={"donor": "D2"},
        effect="cell",
        library_size="observed",
        **QUIET,
    )
    expected, comparable = oracle.quantile(
        model, [4], np.ones(rna.n_obs), "cell", adata=rna, parameters=parameters
    )
    assert (ours.X.toarray() != expected)[comparable].mean() < 5e-4
    assert list(ours.uns["scvibridge"]["targets"]) == ["V2, donor=D2"]


def test_a_continuous_covariate_changes_the_target_batch_too(trained, data):
    model = trained()

    def parameters(model, code):
        return families.parameters(model, code, None if code is None else changed(mito=0.05))

    ours = sb.corrected_counts(
        model,
        transform_batch="V2",
        transform_covariates={"percent_mito": 0.05},
        effect="cell",
        library_size="observed",
        **QUIET,
    )
    expected, comparable = oracle.quantile(
        model, [1], np.ones(data.n_obs), "cell", adata=data, parameters=parameters
    )
    assert (ours.X.toarray() != expected)[comparable].mean() < 5e-4
    home = (data.obs["batch"] == "V2").to_numpy()
    assert (ours.X[home] != data.X[home]).nnz > 0
    drawn = sb.corrected_counts(
        model, transform_covariates={"percent_mito": 0.05}, method="sample", **QUIET
    )
    assert drawn.X.dtype == np.int32


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"doner": "D1"}, ValueError, "no covariate 'doner'.*did you mean 'donor'"),
        ({"batch": "V1"}, ValueError, "the model's batch; use transform_batch="),
        ({"donor": "D9"}, ValueError, "donor 'D9' is not among 'D1', 'D2', 'D3'"),
        ({"donor": ["D1", "D1"]}, ValueError, "the same value twice"),
        ({"donor": []}, ValueError, "no value"),
        ({"age": "old"}, ValueError, "'age' must be a finite number, got 'old'"),
        ({"age": float("nan")}, ValueError, "contains a missing value"),
        ({"age": True}, ValueError, "must be a number, got True"),
        (["donor"], TypeError, "must map names of covariates"),
        ({"age": 0.1}, ValueError, "effect='global' only supports categorical covariates"),
    ],
)
def test_bad_values_are_refused(trained, asked, error, message):
    with pytest.raises(error, match=message):
        sb.corrected_counts(trained(), transform_covariates=asked, **QUIET)


def test_a_combination_that_no_cell_has_is_refused(data):
    nested = data.copy()
    nested.obs["donor"] = np.where(nested.obs["batch"] == "V1", "D1", "D2")
    model, _ = families.make("SCVI", nested, setup={"categorical_covariate_keys": ["donor"]})
    with pytest.raises(ValueError, match="the data have no cells with 'V2, donor=D1'"):
        sb.corrected_counts(
            model, transform_batch="V2", transform_covariates={"donor": "D1"}, **QUIET
        )
    # What is decoded only may be a combination that never was.
    made = sb.normalized_expression(
        model, transform_batch="V2", transform_covariates={"donor": "D1"}, **QUIET
    )
    assert_allclose(made.X.sum(axis=1), 1e4, rtol=1e-4)


def test_dates_are_values_of_a_covariate(data, tmp_path):
    dated = data.copy()
    dated.obs["day"] = pd.to_datetime(np.where(data.obs["chip"] == 10, "2020-01-01", "2021-06-01"))
    model = sb.train_scvi(
        dated, "batch", categorical_covariate_keys=["day"], n_top_genes=None, max_epochs=1, **QUIET
    )
    expected = sb.normalized_expression(model, transform_covariates={"day": "2020-01-01"}, **QUIET)
    assert expected.uns["scvibridge"]["transform_covariates"] == {"day": ["2020-01-01"]}
    days = pd.Timestamp("2020-01-01"), np.datetime64("2020-01-01"), dt.date(2020, 1, 1)
    for day in days:
        made = sb.normalized_expression(model, transform_covariates={"day": [day]}, **QUIET)
        assert_array_equal(made.X, expected.X)
        assert made.uns["scvibridge"]["transform_covariates"] == {"day": ["2020-01-01"]}
    out = tmp_path / "made.h5ad"
    made = sb.normalized_expression(model, transform_covariates={"day": days[0]}, out=out, **QUIET)
    assert_array_equal(made.to_memory().X, expected.X)


def test_numbers_of_numpy_are_asked_for_in_results_on_disk(data, tmp_path):
    """Batches that are whole numbers, values of covariates, and the size of minibatches."""
    numbered = data.copy()
    numbered.obs["batch"] = data.obs["batch"].cat.codes.to_numpy() + 1
    model, _ = families.make("SCVI", numbered, setup=KEYS, epochs=1)
    plain = {"transform_batch": 2, "transform_covariates": {"chip": [10, 20], "age": 0.5}}
    expected = sb.normalized_expression(model, **plain, **QUIET)
    given = {
        "transform_batch": np.int64(2),
        "transform_covariates": {"chip": np.array([10, 20]), "age": np.float32(0.5)},
        "batch_size": np.int64(64),
    }
    out = tmp_path / "made.h5ad"
    found = sb.normalized_expression(model, **given, out=out, **QUIET)
    assert_allclose(found.to_memory().X, expected.X, rtol=1e-5)
    asked = found.uns["scvibridge"]["transform_covariates"]
    assert {name: list(values) for name, values in asked.items()} == {
        "age": [0.5],
        "chip": [10, 20],
    }
    # A continuous covariate alone beside the batch: the strata are the batches themselves.
    alone = {"transform_batch": 2, "transform_covariates": {"age": 0.5}}
    expected = sb.normalized_expression(model, **alone, **QUIET)
    found = sb.normalized_expression(model, **alone, out=out, overwrite=True, **QUIET)
    assert_allclose(found.to_memory().X, expected.X, rtol=1e-5)
    sb.normalized_expression(model, **alone, out=out, resume=True, **QUIET)  # the same request
    iterated = {"donor": iter(["D1", "D3"])}
    made = sb.normalized_expression(model, transform_covariates=iterated, **QUIET)
    assert list(made.uns["scvibridge"]["transform_covariates"]["donor"]) == ["D1", "D3"]


def test_a_model_without_covariates_says_so(trained_model):
    with pytest.raises(ValueError, match="it was set up without categorical_covariate_keys"):
        sb.normalized_expression(trained_model, transform_covariates={"donor": "D1"}, **QUIET)


def test_results_by_the_command_line_by_blocks_and_in_a_report(trained, data, tmp_path):
    model = trained()
    asked = {"donor": "D2", "chip": [10, 20]}
    whole = sb.corrected_counts(model, transform_covariates=asked, seed=3, **QUIET)
    model.save(str(tmp_path / "model"), save_anndata=True)
    data.write_h5ad(tmp_path / "data.h5ad")
    out = tmp_path / "counts.h5ad"
    words = ["donor=D2", "chip=10", "chip=20"]
    command = ["correct", str(tmp_path / "model"), "--adata", str(tmp_path / "data.h5ad")]
    command += ["--transform-covariates", *words, "--seed", "3", "--out", str(out), "--quiet"]
    assert main(command) == 0
    import anndata as ad

    back = ad.read_h5ad(out)
    assert (back.X != whole.X).nnz == 0
    page = sb.report(out, out=tmp_path / "report.html", progress=False)
    text = (
        page.read_text() if hasattr(page, "read_text") else (tmp_path / "report.html").read_text()
    )
    assert "donor=D2, chip=10" in text
    assert "transform_covariates={" in text
    assert "chip: 10, 20; donor: D2" in text
    assert "--transform-covariates chip=10 chip=20 donor=D2" in text


def test_support_of_a_donor(trained):
    found = sb.batch_support(trained(), transform_covariates={"donor": "D2"}, **QUIET)
    assert set(found.cells["batch"].cat.categories) == {"donor=D1", "donor=D2", "donor=D3"}
    assert found.cells.loc[found.cells["batch"] == "donor=D2", "supported"].all()


def test_torch_is_left_as_it_was(trained):
    model = trained()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    sb.corrected_counts(model, transform_covariates={"donor": "D1"}, **QUIET)
    after = model.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
