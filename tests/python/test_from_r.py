"""What the R package calls: results, warnings and errors as values."""

from __future__ import annotations

import warnings

import pytest

from scvibridge import from_r, handover


def call(function, **arguments):
    from_r.FUNCTIONS["tested"] = function
    try:
        return from_r.call("tested", arguments)
    finally:
        del from_r.FUNCTIONS["tested"]


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
    assert from_r.describe_model(trained_model) == {
        "model_class": "SCVI",
        "gene_likelihood": "nb",
        "dispersion": "gene",
        "batch_key": "batch",
        "batches": ["V1", "V2", "V3"],
        "n_genes": 120,
        "n_cells": 300,
    }


def test_too_many_counts_are_refused_before_any_work(trained_model, simulated, monkeypatch):
    from_r.check_fits_r(trained_model, None)
    monkeypatch.setattr(handover, "R_MAX_INTEGER", simulated.X.nnz - 1)
    for adata in (None, simulated):
        with pytest.raises(ValueError, match=r"the matrix of counts has .*HDF5Array"):
            from_r.check_fits_r(trained_model, adata)
    # A selection may still fit: it is checked when it is handed over.
    from_r.check_fits_r(trained_model, None, indices=[0])
    from_r.check_fits_r(trained_model, None, gene_list=["gene_0001"])


def test_the_example_model_can_be_loaded(tmp_path):
    paths = from_r.FUNCTIONS["write_example"](tmp_path / "new", epochs=1)
    model = from_r.FUNCTIONS["load"](paths["model"], adata=paths["adata"])
    assert model.is_trained_
    assert from_r.describe_model(model)["n_cells"] == 150
