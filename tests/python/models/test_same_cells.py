"""Cells that are given with the names of the model's cells, and other counts, batches or labels."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi

import scvibridge as sb

QUIET = {"library_size": "observed", "shrinkage": 0, "progress": False}
COUNTS = "have the same name as a cell of the model's data, but other counts"
BATCHES = "belong to another batch there"
LABELS = "cells have other values in the data passed"
CHANGED = "of the model's data was changed after the model was set up"


@pytest.fixture(scope="module")
def data(simulate):
    return simulate(n_cells=330, n_genes=30)


@pytest.fixture(scope="module")
def model(data, train):
    return train(data.copy(), max_epochs=2)


def warned(model, adata, **given):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb.corrected_counts(model, adata, transform_batch="V1", **given, **QUIET)
    texts = [str(warning.message) for warning in caught]
    messages = (COUNTS, BATCHES, LABELS, CHANGED)
    return [message for message in messages if any(message in text for text in texts)]


@pytest.mark.parametrize("streamed", [False, True])
def test_another_matrix_is_warned_of(model, data, tmp_path, streamed):
    out = {"out": tmp_path / "x.h5ad"} if streamed else {}
    other = data[::-1, ::-1].copy()
    assert warned(model, other, **out) == []
    other.X = other.X * 2
    assert warned(model, other, **out, overwrite=True) == [COUNTS]


def test_the_same_cells_are_compared_in_any_order(model, data):
    """330 cells, of which 200 are compared: the number of those that differ is told."""
    other = data.copy()
    other.X = sp.diags(np.where(np.arange(330) % 3, 1.0, 2.0)) @ other.X
    told = set()
    for order in (np.arange(330), np.arange(330)[::-1], np.random.default_rng(1).permutation(330)):
        with pytest.warns(UserWarning, match=r"\d+ of 200 compared cells") as caught:
            sb.normalized_expression(model, other[order].copy(), progress=False)
        told.update(str(warning.message) for warning in caught)
    assert len(told) == 1
    n_other = int(next(iter(told)).split()[0])
    assert abs(n_other - 200 / 3) < 4 * np.sqrt(200 * 2 / 9)


def test_a_result_that_lost_its_record_is_warned_of(model, data):
    result = sb.corrected_counts(model, transform_batch="V1", **QUIET)
    other = data.copy()
    other.X = result.X
    assert warned(model, other) == [COUNTS]


def test_other_batches_are_warned_of(model, data):
    other = data.copy()
    other.obs["batch"] = np.roll(other.obs["batch"].to_numpy(), len(other) // 3)
    assert warned(model, other) == [BATCHES]


def test_batches_changed_in_the_models_data_are_warned_of(data, train):
    model = train(data.copy(), max_epochs=1)
    before = sb.corrected_counts(model, transform_batch="V1", **QUIET)
    assert warned(model, None) == []
    model.adata.obs["batch"] = model.adata.obs["batch"].astype(str)  # the same values
    assert warned(model, None) == []
    names = {"V1": "V2", "V2": "V1"}
    model.adata.obs["batch"] = [names.get(name, name) for name in data.obs["batch"]]
    assert warned(model, None) == [CHANGED]
    # Registered again, for another model: what was registered is not known.
    type(model).setup_anndata(model.adata, batch_key="cell_type")
    assert warned(model, None) == []
    model.adata.obs["batch"] = data.obs["batch"]
    found = sb.corrected_counts(model, transform_batch="V1", **QUIET)
    assert (found.X != before.X).nnz == 0


def reversed_names(values):
    names = list(values.cat.categories)
    return values.cat.rename_categories(dict(zip(names, reversed(names), strict=True)))


@pytest.mark.parametrize("key", ["site", "age", "cell_type"])
def test_covariates_changed_in_the_models_data_are_warned_of(simulate, key):
    data, rng = simulate(n_cells=90, n_genes=30), np.random.default_rng(0)
    data.obs["site"] = pd.Categorical(rng.choice(["x", "y"], 90))
    data.obs["age"] = rng.normal(size=90)
    scvi.model.SCVI.setup_anndata(
        data,
        batch_key="batch",
        labels_key="cell_type",
        categorical_covariate_keys=["site"],
        continuous_covariate_keys=["age"],
    )
    model = scvi.model.SCVI(data, n_latent=3, dispersion="gene-label", gene_likelihood="nb")
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert warned(model, None) == []
    former = data.obs[key].copy()
    data.obs[key] = former * 2 if key == "age" else reversed_names(former)
    assert warned(model, None) == [CHANGED]
    data.obs[key] = former
    assert warned(model, None) == []


def test_other_labels_are_warned_of(model, data):
    other = data.copy()
    names = {"B": "T", "T": "NK", "NK": "B"}
    other.obs["cell_type"] = other.obs["cell_type"].astype(object).map(names)
    assert warned(model, other, labels_key="cell_type") == [LABELS]
    other.obs["new"] = other.obs["cell_type"]
    assert warned(model, other, labels_key="new") == []


def test_other_cells_are_not_compared(model, data):
    other = data.copy()
    other.X = other.X * 2
    other.obs_names = [f"new {name}" for name in other.obs_names]
    assert warned(model, other) == []
