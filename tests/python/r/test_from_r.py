"""What the R package calls: results, warnings and errors as values."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from scvibridge._utils import progress
from scvibridge.r import assays, descriptions, endpoints, reticulate


def call(function, **arguments):
    return reticulate.call("tested", arguments, functions={"tested": function})


def test_a_value_comes_back_as_it_is():
    value = object()
    assert call(lambda x: x, x=value) == {"value": value, "warnings": [], "error": None}


def test_warnings_come_back_once_each_and_only_those_for_users():
    def warn():
        for text in ("one", "two", "one"):
            warnings.warn(text, UserWarning, stacklevel=1)
        warnings.warn("for programmers", DeprecationWarning, stacklevel=1)

    assert call(warn)["warnings"] == ["one", "two"]


@pytest.mark.parametrize("kind", [ValueError, KeyError, FileNotFoundError])
def test_errors_come_back_with_their_message(kind):
    def fail():
        warnings.warn("before", UserWarning, stacklevel=1)
        raise kind("batch 'v2' is not among 'V2'")

    outcome = call(fail)
    assert outcome["value"] is None
    assert outcome["warnings"] == ["before"]
    assert outcome["error"]["type"] == kind.__name__
    assert outcome["error"]["message"] == "batch 'v2' is not among 'V2'"
    assert "in fail" in outcome["error"]["traceback"]


def test_an_interrupt_passes():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(interrupt)


def test_a_model_is_described(trained_model):
    assert descriptions.describe_model(trained_model) == {
        "model_class": "SCVI",
        "gene_likelihood": "nb",
        "dispersion": "gene",
        "batch_key": "batch",
        "batches": ["V1", "V2", "V3"],
        "n_genes": 120,
        "n_added": 0,
        "genes": [f"gene_{g:04d}" for g in range(120)],
        "modalities": [],
        "layer": None,
        "counts_from": None,
        "n_cells": 300,
        "training": None,  # it was trained without a history
    }


def test_cells_are_counted_wherever_they_are(trained_model, simulated, tmp_path):
    some = simulated[:7].copy()
    some.write_h5ad(tmp_path / "some.h5ad")
    assert descriptions.count_cells(trained_model, None) == 300
    assert descriptions.count_cells(trained_model, some) == 7
    assert descriptions.count_cells(trained_model, str(tmp_path / "some.h5ad")) == 7


def test_progress_goes_to_the_functions_of_r(monkeypatch):
    monkeypatch.setattr(progress, "_CALL_INTERVAL", 0.0)
    told = []
    reporter = {
        name: lambda *values, name=name: told.append((name, *values))
        for name in ("start", "update", "finish")
    }
    assert reticulate.call("work", {}, reporter, functions={"work": work})["error"] is None
    assert told == [
        ("start", "Working", 30, "cells"),
        ("update", 20),
        ("update", 30),
        ("finish",),
    ]


def work():
    for _ in progress.track([slice(0, 20), slice(20, 30)], "Working", enabled=True):
        pass


def test_a_matrix_is_taken_vector_by_vector_as_numbers_of_r():
    matrix = sp.csr_matrix(np.array([[0, 3, 0], [1, 0, 2]], dtype="int32"))
    assay = assays.Assay("corrected", matrix)
    assert assay.load()
    for name, expected in {"data": [3, 1, 2], "indices": [1, 0, 2], "indptr": [0, 1, 3]}.items():
        values = assay.take(name)
        assert values.tolist() == expected
        assert values.dtype == ("float64" if name == "data" else "int32")

    assay = assays.Assay("normalized", np.array([[1.5, 2], [3, 4], [5, 6]], dtype="float32"))
    assert not assay.load()
    values = assay.take("values")
    assert values.tolist() == [[1.5, 3, 5], [2, 4, 6]]
    assert values.dtype == "float64"
    assert values.flags.f_contiguous


def test_a_file_is_described_without_its_matrices(tmp_path):
    adata = AnnData(sp.csr_matrix(np.eye(3, 2, dtype="int32")))
    adata.layers["raw_counts"] = adata.X.copy()
    adata.uns["scvibridge"] = {"kind": "corrected_counts"}
    path = str(tmp_path / "result.h5ad")
    adata.write_h5ad(path)
    described = descriptions.describe_file(path)
    assert described["assays"] == [
        {"name": "counts", "layer": "raw_counts"},
        {"name": "corrected", "layer": ""},
    ]
    assert described["frame"]["cells"] == ["0", "1", "2"]


def test_the_example_model_can_be_loaded(tmp_path):
    paths = endpoints.FUNCTIONS["write_example"](tmp_path / "new", epochs=1)
    model = endpoints.FUNCTIONS["load"](paths["model"], adata=paths["adata"])
    assert model.is_trained_
    assert descriptions.describe_model(model)["n_cells"] == 150
