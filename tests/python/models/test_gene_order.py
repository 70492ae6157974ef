"""Models whose data have the genes in another order than in training.

scvi-tools matches genes by position, and then records the order of the new data.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import scvibridge as sb

QUIET = {"library_size": "observed", "shrinkage": 0, "progress": False}


@pytest.fixture
def data(simulate):
    return simulate(n_cells=90, n_genes=30)


@pytest.fixture
def model(data, train):
    return train(data.copy(), max_epochs=2)


@pytest.fixture
def expected(model, data):
    """scvi-tools' own frequencies as in the batch V1, cells by genes, and the observed counts."""
    z = torch.as_tensor(model.get_latent_representation())
    size = torch.as_tensor(np.log(data.X.sum(axis=1))).reshape(-1, 1).float()
    with torch.inference_mode():
        decoded = model.module.generative(z, size, torch.zeros(len(z), 1, dtype=torch.long))
    frame = {"index": data.obs_names, "columns": data.var_names}
    return pd.DataFrame(decoded["px"].scale.numpy(), **frame), data.to_df()


def assigned(model, data, _):
    model.adata = data[:, ::-1].copy()
    return model


def assigned_twice(model, data, _):
    model.adata = data[:, np.roll(np.arange(data.n_vars), 7)].copy()
    model.adata = data[:, ::-1].copy()
    return model


def loaded(model, data, folder):
    model.save(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scvi.model.SCVI.load(str(folder), adata=data[:, ::-1].copy())


def query(model, data, folder):
    model.save(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = scvi.model.SCVI.load_query_data(data[:, ::-1].copy(), str(folder))
    changed.is_trained_ = True
    return changed


@pytest.mark.parametrize("change", [assigned, assigned_twice, loaded, query])
def test_genes_have_the_names_that_they_were_trained_with(model, data, expected, tmp_path, change):
    frequencies, counts = expected
    changed = change(model, data, tmp_path / "model")
    result = sb.normalized_expression(
        changed, transform_batch="V1", library_size=1, progress=False
    ).to_df()
    cells, genes = result.index, result.columns
    np.testing.assert_allclose(result, frequencies.loc[cells, genes], rtol=1e-4)
    result = sb.corrected_counts(changed, transform_batch="V1", **QUIET)
    raw = pd.DataFrame(result.layers["raw_counts"].toarray(), cells, genes)
    pd.testing.assert_frame_equal(raw, counts.loc[cells, genes], check_dtype=False)


def test_genes_that_were_only_renamed_keep_their_positions(model, data, expected):
    renamed = data.copy()
    renamed.var_names = [f"symbol_{name}" for name in data.var_names]
    model.adata = renamed
    result = sb.normalized_expression(model, transform_batch="V1", library_size=1, progress=False)
    assert list(result.var_names) == list(renamed.var_names)
    np.testing.assert_allclose(result.X, expected[0], rtol=1e-4)
