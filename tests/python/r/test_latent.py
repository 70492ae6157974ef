"""Encoding alone, and counts put where a model reads them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from scvibridge.models.training.trainer import quiet
from scvibridge.r import descriptions, to_anndata
from scvibridge.r.latent import latent


def encoded(model, **arguments):
    return latent(model, progress=False, **arguments)["latent"]["values"]


def test_latent_means_are_those_of_scvi_tools_and_of_results(trained_model, simulated):
    with quiet():
        expected = trained_model.get_latent_representation(simulated[::-1].copy())
    found = latent(trained_model, simulated[::-1], progress=False)
    assert found["cells"] == list(simulated.obs_names[::-1])
    assert_allclose(found["latent"]["values"], expected, atol=1e-5)
    result = sb.denoised_expression(trained_model, simulated[::-1], progress=False)
    assert_allclose(found["latent"]["values"], result.obsm["X_scvi"], atol=1e-6)
    assert_allclose(encoded(trained_model), expected[::-1], atol=1e-5)


@pytest.mark.parametrize("by_genes", [False, True])
def test_counts_on_disk_are_read_in_blocks(trained_model, simulated, tmp_path, by_genes):
    cells = simulated.copy()
    if by_genes:
        cells.X = cells.X.tocsc()
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    found = encoded(trained_model, adata=path, batch_size=32)
    assert_allclose(found, encoded(trained_model), atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["cells.h5ad"]


def test_wrong_arguments_are_refused(trained_model, simulated):
    with pytest.raises(ValueError, match="transform_batch='V3'"):
        latent(trained_model, batch_size="V3")
    with pytest.raises(ValueError, match="lack 1 of the model's 120 genes"):
        latent(trained_model, simulated[:, 1:])


def test_counts_go_to_the_layer_and_the_names_of_the_model(simulated, train):
    cells = simulated.copy()
    cells.layers["counts"] = cells.X.copy()
    cells.X = np.log1p(cells.X.toarray())
    model = train(cells, labels_key=None, max_epochs=2, setup={"layer": "counts"})
    described = descriptions.describe_model(model)
    renamed = simulated.copy()
    renamed.var_names = [name.replace("_", "-") for name in renamed.var_names]
    before = list(renamed.var_names)
    fitted = to_anndata.fit_to_model(renamed, described["genes"], described["layer"])
    assert fitted.layers["counts"] is renamed.X
    assert list(renamed.var_names) == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sb.corrected_counts(model, fitted, transform_batch="V3", progress=False)
        expected = sb.corrected_counts(model, transform_batch="V3", progress=False)
    assert_array_equal(found.X.toarray(), expected.X.toarray())
