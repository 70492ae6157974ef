"""Odd values for every argument: refused by a check of ours, or taken where they have a meaning."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge.models import adapters

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("without_work")]

PACKAGE = str(Path(sb.__file__).parent)
ODD = {
    "None": None, "NaN": np.nan, "NA": pd.NA, "True": True, "text": "False", "empty text": "",
    "bytes": b"V1", "list": [], "dict": {}, "set": set(), "0": 0, "-1": -1, "2.5": 2.5,
    "array(1)": np.array(1), "array([1])": np.array([1]), "path": Path("V1"), "['V1']": ["V1"],
    "other case": "v1", "space": " V1", "object": object(), "huge": 10**400, "inf": np.inf,
    "complex": 1j, "time": pd.Timestamp("2024-01-01"), "mask": [True, False],
    "table": pd.DataFrame({"a": [1], "b": [2]}), "0 to 2": range(2), "type": int,
    "nested": [["V1"]], "function": len,
}  # fmt: skip
# What has a meaning, beyond a parameter's default.
TAKEN = {
    "transform_batch": {"['V1']"},
    "transform_covariates": {"dict"},
    "library_size": {"2.5"},
    "shrinkage": {"0", "2.5"},
    "ridge": {"0", "2.5"},
    "indices": {"array([1])", "0 to 2"},
    "allow_confounded": {"True"},
    "normalized": {"True"},
    "zero_inflation": {"True"},
    "early_stopping": {"True"},
    "overwrite": {"True"},
    "categorical_covariate_keys": {"list"},
    "continuous_covariate_keys": {"list"},
}
NOT_VARIED = {"model", "adata", "client", "progress", "out", "save", "device"}


class WorkStartedError(Exception):
    """Raised in place of work."""


@pytest.fixture
def without_work(monkeypatch):
    import scvi

    def work(*_arguments, **_named):
        raise WorkStartedError

    monkeypatch.setattr(adapters.Adapter, "encode", work)
    monkeypatch.setattr(scvi.model.SCVI, "train", work)


def outcome(function, **arguments):
    """How a call ends: "taken", "refused", or what else came up."""
    try:
        function(**arguments)
    except WorkStartedError:
        return "taken"
    except (ValueError, TypeError, OSError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        return "refused" if last.startswith(PACKAGE) else f"{type(error).__name__}: {error}"
    return "taken"


def unexpected(function, more=None, **base):
    taken, found = {**TAKEN, **(more or {})}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in NOT_VARIED:
            continue
        for what, value in ODD.items():
            default = parameter.default
            is_default = value is default or (what == "0" and type(default) is int and default == 0)
            expected = "taken" if is_default or what in taken.get(name, ()) else "refused"
            given = outcome(function, **{**base, name: value})
            if given != expected:
                found[f"{name}={what}"] = given
    return found


@pytest.mark.parametrize(
    "name",
    ["corrected_counts", "normalized_expression", "denoised_expression", "batch_support"],
)
def test_matrices_and_support(trained_model, name):
    target = {} if name == "denoised_expression" else {"transform_batch": "V3"}
    base = {"model": trained_model, "progress": False, **target}
    found = unexpected(getattr(sb, name), **base)
    if name in ("corrected_counts", "batch_support"):  # which need a target
        assert found.pop("transform_batch=None") == "refused"
    assert found == {}


def test_choice_and_calibration(trained_model):
    base = {"model": trained_model, "progress": False}
    assert unexpected(sb.choose_batch, **base) == {}
    # The cells of the training are refused.
    assert unexpected(sb.calibration, {"indices": {}}, **base) == {}


def test_extension(simulated, trained_model):
    new = simulated[:, :1].copy()
    new.var_names = ["new"]
    more = ad.concat([simulated, new], axis="var", merge="first")
    base = {"model": trained_model, "adata": more, "progress": False}
    assert unexpected(sb.extend_genes, **base) == {}


def test_training_and_damage(simulated):
    base = {"adata": simulated, "batch_key": "batch", "n_top_genes": None, "progress": False}
    # All genes, where there are not more.
    assert unexpected(sb.train_scvi, {"n_top_genes": {"None", "huge"}}, **base) == {}
    assert unexpected(sb.damage, adata=simulated, batch_key="batch", progress=False) == {}
