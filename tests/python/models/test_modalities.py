"""Proteins and regions that are no counts, and cells in another order than the model's weights."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pytest
import saved_models
import scvi

import scvibridge as sb

HOW = {"transform_batch": "V1", "library_size": 1, "progress": False}


@pytest.fixture(scope="module")
def totalvi(cells, multimodal):
    return saved_models.totalvi(cells, multimodal)


@pytest.fixture
def multivi(multimodal):
    """A model with a weight of each modality for each cell, which the training has changed."""
    data = multimodal()
    names = {"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"}
    scvi.model.MULTIVI.setup_mudata(
        data, rna_layer=None, atac_layer=None, batch_key="batch", modalities=names
    )
    sizes = data["rna"].n_vars, data["atac"].n_vars
    model = scvi.model.MULTIVI(data, *sizes, n_latent=3, modality_weights="cell")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    weights = np.random.default_rng(0).normal(0, 3, tuple(model.module.mod_weights.shape))
    model.module.mod_weights.data[:] = model.module.mod_weights.new_tensor(weights)
    return model


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "NaN"), (-1, "negative"), (np.inf, "inf")])
def test_proteins_without_counts_are_refused(totalvi, cells, value, fault):
    data = cells()
    proteins = data.obsm["proteins"].astype(float)
    proteins.iloc[3, 1] = value
    data.obsm["proteins"] = proteins
    with pytest.raises(ValueError, match=rf"obsm\['proteins'\] must hold raw counts.*{fault}"):
        sb.normalized_expression(totalvi, data, **HOW)


def test_normalised_proteins_are_warned_of(totalvi, cells):
    data = cells()
    data.obsm["proteins"] = np.log1p(data.obsm["proteins"])
    with pytest.warns(UserWarning, match=r"obsm\['proteins'\] holds values that are not whole"):
        sb.normalized_expression(totalvi, data, **HOW)


def test_regions_without_counts_are_refused(multivi, multimodal):
    data = multimodal()
    data["atac"].X[2, 3] = np.nan
    with pytest.raises(ValueError, match="modality of the regions must hold raw counts"):
        sb.normalized_expression(multivi, data, **HOW)


@pytest.mark.parametrize("selected", [slice(None, None, -1), slice(5, 30)])
def test_weights_of_cells_are_found_by_name(multivi, multimodal, selected):
    data = multimodal()
    latent = multivi.get_latent_representation()
    parts = {name: data[name][selected].copy() for name in ("rna", "atac")}
    found = sb.normalized_expression(multivi, mudata.MuData(parts), **HOW)
    np.testing.assert_allclose(found.obsm["X_scvi"], latent[selected], rtol=1e-4, atol=1e-5)


def test_weights_of_cells_are_found_for_an_extended_model(multivi, multimodal):
    latent = multivi.get_latent_representation()
    data = multimodal()
    further = data["rna"][:, :5].copy()
    further.var_names = [f"further_{name}" for name in further.var_names]
    rna = ad.concat([data["rna"], further], axis="var", merge="first")
    parts = {"rna": rna[::-1].copy(), "atac": data["atac"][::-1].copy()}
    extended = sb.extend_genes(
        multivi, mudata.MuData(parts), max_epochs=1, ridge=1.0, progress=False
    )
    found = sb.denoised_expression(extended, progress=False)
    np.testing.assert_allclose(found.obsm["X_scvi"], latent[::-1], rtol=1e-4, atol=1e-5)


def test_weights_of_other_cells_are_unknown(multivi, multimodal):
    data = multimodal()
    parts = {name: data[name].copy() for name in ("rna", "atac")}
    for part in parts.values():
        part.obs_names = [f"other_{name}" for name in part.obs_names]
    with pytest.raises(ValueError, match="cannot encode other cells"):
        sb.normalized_expression(multivi, mudata.MuData(parts), **HOW)
