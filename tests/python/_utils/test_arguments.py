"""Types of arguments: every public function refuses what only looks like a flag or a number."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge._utils import arguments
from scvibridge.models.extension.extended_model import ExtendedModel
from scvibridge.r.latent import latent

FUNCTIONS = {
    **{name: getattr(sb, name) for name in sb.__all__ if inspect.isfunction(getattr(sb, name))},
    **{f"r.{name}": getattr(sb.r, name) for name in sb.r.__all__},
    "latent": latent,
    "ExtendedModel.save": ExtendedModel.save,
}
# Parameters of other types, which have checks and tests of their own.
ELSEWHERE = {
    "adata", "batch", "batch_size", "calibration", "categorical_covariate_keys", "client",
    "continuous_covariate_keys", "damage", "dispersion", "estimate_on", "gene_list", "genes_kept",
    "indices", "model",
    "n_top_genes", "obj", "result", "sce", "self", "support", "transform_batch",
    "transform_covariates",
}  # fmt: skip
WRONG = {
    "bool": ["False", "no", "", 0, 1, None, np.nan, [], np.array(1), np.array([True])],
    "int": ["3", 2.5, 3.0, True, np.True_, np.nan, [3], np.array([3]), b"3"],
    "float": [True, np.nan.__class__, [1.0], np.array([1.0]), b"1"],
    "str": [3, True, np.nan, b"x", ["x"], {"x"}, pd.NA, np.array(["x"])],
    "PathLike[str]": [3, True, np.nan, b"x", ["x"]],
}
RIGHT = {
    "bool": [True, False, np.True_],
    "int": [3, np.int64(3), np.uint8(3)],
    "float": [1e4, 10, np.float32(2)],
    "str": ["x", np.str_("x")],
    "PathLike[str]": [Path("x")],
    "None": [None],
}


def checked_parameters(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: arguments.kinds_of(p.annotation) for p in parameters if p.name not in ELSEWHERE}


def arguments_of(function):
    """Arguments that pass the check of types, and nothing else."""
    parameters = inspect.signature(function).parameters.values()
    kinds = checked_parameters(function)
    return {
        p.name: p.default
        if p.default is not inspect.Parameter.empty
        else RIGHT[kinds[p.name][0]][0]
        if kinds.get(p.name)
        else object()
        for p in parameters
    }


def cases(wanted):
    return [
        pytest.param(function, parameter, kinds, id=f"{name}-{parameter}")
        for name, function in FUNCTIONS.items()
        for parameter, kinds in checked_parameters(function).items()
        if wanted in kinds
    ]


def wrong_for(kinds):
    known = [value for kind in kinds for value in WRONG.get(kind, [])]

    def is_right(value):
        return any(arguments._KINDS[kind][0](value) for kind in kinds)

    return [value for value in known if not is_right(value)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_parameters_are_checked(name):
    for parameter, kinds in checked_parameters(FUNCTIONS[name]).items():
        assert kinds, f"{name}: annotate {parameter} by types that arguments.py checks"
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        if isinstance(parameter.default, bool):
            assert parameter.annotation == "bool"


def test_flags_are_found():
    assert len(cases("bool")) >= 15


@pytest.mark.parametrize(("function", "parameter", "kinds"), cases("bool"))
def test_flags_are_true_or_false(function, parameter, kinds):
    assert kinds == ["bool"]
    for value in WRONG["bool"]:
        with pytest.raises(TypeError, match=f"^{parameter} must be True or False, got "):
            function(**{**arguments_of(function), parameter: value})


@pytest.mark.parametrize(
    ("function", "parameter", "kinds"), [*cases("int"), *cases("float"), *cases("str")]
)
def test_numbers_and_strings_are_of_their_type(function, parameter, kinds):
    wrong = wrong_for(kinds)
    assert len(wrong) >= 2
    for value in wrong:
        with pytest.raises(TypeError, match=f"^{parameter} must be "):
            function(**{**arguments_of(function), parameter: value})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_types_pass(name):
    function = FUNCTIONS[name]
    for parameter, kinds in checked_parameters(function).items():
        for value in [value for kind in kinds for value in RIGHT[kind]]:
            arguments.check_types(function, {**arguments_of(function), parameter: value})


def test_numpy_flags_are_what_they_say(trained_model):
    result = sb.corrected_counts(
        trained_model,
        transform_batch="V3",
        condition_key="condition",
        normalized=np.True_,
        zero_inflation=np.False_,
        allow_confounded=np.False_,
        progress=np.False_,
    )
    assert "normalized" in result.layers


# -- values that are lists, numbers and parts ----------------------------------------------------


@pytest.mark.parametrize("given", [{"V3"}, {"V3": 1}, pd.DataFrame({"V3": [1]}), np.zeros((1, 1))])
def test_targets_must_be_a_list(trained_model, given):
    with pytest.raises(TypeError, match="transform_batch must be a"):
        sb.corrected_counts(trained_model, transform_batch=given, progress=False)


def test_targets_in_every_list():
    for given in (["b"], ("b",), np.array(["b"]), np.array("b"), pd.Series(["b"]), pd.Index(["b"])):
        assert arguments.resolve_targets(given, ["a", "b"], required=True) == [1]


@pytest.mark.parametrize("given", [False, "", 0, [], "donor", pd.Series({"donor": "D1"})])
def test_covariates_must_be_a_mapping(trained_model, given):
    with pytest.raises(TypeError, match="transform_covariates must map names of covariates"):
        sb.corrected_counts(trained_model, transform_covariates=given, progress=False)


@pytest.mark.parametrize("library_size", [1e39, 1e300, 2**31, 10**400, 1e-30])
def test_depths_that_no_matrix_can_hold(trained_model, library_size):
    for function in (sb.normalized_expression, sb.denoised_expression, sb.corrected_counts):
        target = {} if function is sb.denoised_expression else {"transform_batch": "V3"}
        with pytest.raises(ValueError, match=r"library_size must (lie|be)"):
            function(trained_model, library_size=library_size, progress=False, **target)


def test_the_largest_depth_is_finite(trained_model):
    expression = sb.normalized_expression(
        trained_model, transform_batch="V3", library_size=2**31 - 1, progress=False
    )
    np.testing.assert_allclose(expression.X.sum(axis=1), 2**31 - 1, rtol=1e-4)


def test_parts_of_a_report_are_what_their_functions_return(tmp_path):
    out = tmp_path / "report.html"
    for name, function, value in (
        ("support", "batch_support", "yes"),
        ("calibration", "calibration", "False"),
        ("calibration", "calibration", True),
        ("calibration", "calibration", 0),
        ("damage", "damage", {}),
    ):
        with pytest.raises(TypeError, match=rf"{name} must be the result of {function}\(\)"):
            sb.report("nowhere.h5ad", out, **{name: value})


def test_model_without_data_takes_numpy_false(model_folder):
    assert sb.load(model_folder, adata=np.False_, device="cpu").adata is None
    with pytest.raises(TypeError, match="got True"):
        sb.load(model_folder, adata=np.True_)


def test_names_of_genes_in_a_table_stay_text(tmp_path):
    from scvibridge.correction.given_dispersion import read_dispersion

    (tmp_path / "theta.csv").write_text("gene,theta\nNA,1.5\n007,2\n1e3,3\n")
    table = read_dispersion(tmp_path / "theta.csv")
    assert list(table.index) == ["NA", "007", "1e3"]
    assert list(table["theta"]) == [1.5, 2, 3]


def test_dispersions_are_numbers(trained_model):
    theta = pd.Series(data=True, index=trained_model.adata.var_names)
    with pytest.raises(ValueError, match="dispersion contains True and False"):
        sb.corrected_counts(trained_model, transform_batch="V3", dispersion=theta, progress=False)


@pytest.mark.parametrize(
    "given", [None, np.nan, pd.NA, ["V3", None], np.array(["V3", np.nan], object)]
)
def test_missing_targets(trained_model, given):
    with pytest.raises(ValueError, match=r"transform_batch (contains a missing value|is required)"):
        sb.corrected_counts(trained_model, transform_batch=given, progress=False)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"categorical_covariate_keys": "condition"}, "must be a list of columns"),
        ({"categorical_covariate_keys": {"condition"}}, "categorical_covariate_keys must be a"),
        ({"categorical_covariate_keys": ["condition", None]}, "contains a missing value"),
        ({"categorical_covariate_keys": ["condition", 3]}, "must be a list of names of columns"),
        ({"categorical_covariate_keys": ["condition", "condition"]}, "'condition' more than once"),
        ({"categorical_covariate_keys": ["batch"]}, "'batch', which is already the batch"),
        ({"continuous_covariate_keys": True}, "must be a list of names of columns, got True"),
        (
            {
                "categorical_covariate_keys": ["n_counts"],
                "continuous_covariate_keys": ("n_counts",),
            },
            "'n_counts' is both a categorical and a continuous covariate",
        ),
        ({"n_top_genes": np.True_}, "n_top_genes must be a whole number, a list of genes or None"),
        ({"n_top_genes": [True] * 120}, "n_top_genes is a mask without names"),
        ({"n_top_genes": {"gene_0001"}}, "n_top_genes must be a list .* a set has no order"),
    ],
)
def test_columns_and_genes_of_a_training(simulated, given, match):
    with pytest.raises((TypeError, ValueError), match=match):
        sb.train_scvi(simulated, batch_key="batch", max_epochs=1, **given)


def test_a_column_that_is_there_twice(trained_model, simulated):
    adata = simulated.copy()
    adata.obs = pd.concat([adata.obs, adata.obs[["cell_type"]]], axis=1)
    with pytest.raises(ValueError, match="labels_key='cell_type': obs has more than one column"):
        sb.corrected_counts(trained_model, adata, "V3", labels_key="cell_type", progress=False)


@pytest.mark.parametrize("adata", [3, {"x.h5ad"}, b"x.h5ad", pd.DataFrame()])
def test_data_of_other_types(trained_model, adata):
    with pytest.raises(TypeError, match="adata must be an AnnData"):
        sb.damage(adata, "batch")
    with pytest.raises(TypeError, match="adata must be an AnnData"):
        sb.batch_support(trained_model, adata, transform_batch="V3")
