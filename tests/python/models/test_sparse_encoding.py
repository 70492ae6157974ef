"""The encoder for sparse counts gives what scvi-tools' own gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose

import scvibridge as sb
from scvibridge.models.adapters import adapter_for

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:.*have no sample of at least"),
    pytest.mark.filterwarnings("ignore:there was nothing to correct"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


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


def test_cells_are_encoded_from_the_genes_that_the_model_was_trained_on(simulate, train):
    """Also if fewer genes were added than the encoder has covariates."""
    wide = simulate(n_cells=200, n_genes=62)
    model = train(wide[:, :60].copy(), max_epochs=2, encode_covariates=True)
    extended = sb.extend_genes(model, wide, max_epochs=1, ridge=0.1, progress=False)
    given = {"transform_batch": "V3", "progress": False}
    own = sb.batch_support(model, wide[:, :60].copy(), **given)
    ours = sb.batch_support(extended, wide, **given)
    pd.testing.assert_frame_equal(ours.cells, own.cells)
    assert adapter_for(extended)._sparse_encoding is not None
