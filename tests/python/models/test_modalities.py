"""Proteins and regions that are no counts, and cells in another order than the model's weights."""

from __future__ import annotations

import warnings

import anndata as ad
import families
import lazy
import mudata
import numpy as np
import pandas as pd
import pytest
import saved_models
import scipy.sparse as sp
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


def selected_cells(data, selected):
    return mudata.MuData({name: data[name][selected].copy() for name in ("rna", "atac")})


def test_weights_of_cells_are_found_in_data_that_a_model_is_loaded_with(
    multivi, multimodal, tmp_path
):
    latent, order = multivi.get_latent_representation(), slice(None, None, -1)
    multivi.save(str(tmp_path / "model"), save_anndata=True)
    model = sb.load(tmp_path / "model", adata=selected_cells(multimodal(), order))
    found = sb.normalized_expression(model, **HOW)
    np.testing.assert_allclose(found.obsm["X_scvi"], latent[order], rtol=1e-4, atol=1e-5)
    some = selected_cells(multimodal(), slice(5, 30))
    found = sb.normalized_expression(model, some, **HOW)
    np.testing.assert_allclose(found.obsm["X_scvi"], latent[5:30], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"load it with the 60 cells .* got 25"):
        sb.load(tmp_path / "model", adata=some)


def test_weights_of_cells_without_names_are_those_of_the_same_cells(multivi, multimodal, tmp_path):
    latent = multivi.get_latent_representation()
    multivi.save(str(tmp_path / "model"), save_anndata=False)
    model = sb.load(tmp_path / "model", adata=selected_cells(multimodal(), slice(None)))
    with pytest.warns(UserWarning, match="assumed that it was loaded with the data"):
        found = sb.normalized_expression(model, **HOW)
    np.testing.assert_allclose(found.obsm["X_scvi"], latent, rtol=1e-4, atol=1e-5)


def test_weights_of_other_cells_are_unknown(multivi, multimodal):
    data = multimodal()
    parts = {name: data[name].copy() for name in ("rna", "atac")}
    for part in parts.values():
        part.obs_names = [f"other_{name}" for name in part.obs_names]
    with pytest.raises(ValueError, match="cannot encode other cells"):
        sb.normalized_expression(multivi, mudata.MuData(parts), **HOW)


# -- other forms of the same data ------------------------------------------------------------------


@pytest.fixture(scope="module")
def named_in_uns(cells):
    """TOTALVI with the names of proteins in ``uns``, beside a table that has names as well."""
    data = cells()
    data.uns["names"] = np.array(saved_models.PROTEINS, dtype=object)
    scvi.model.TOTALVI.setup_anndata(
        data, "proteins", batch_key="batch", protein_names_uns_key="names"
    )
    return saved_models.fit(scvi.model.TOTALVI(data, n_latent=3))


@pytest.mark.parametrize("form", ["named alike", "named otherwise", "array"])
def test_proteins_in_another_order(named_in_uns, cells, form):
    expected = sb.normalized_expression(named_in_uns, **HOW)
    data, order = cells(), [3, 0, 4, 1, 2]
    table = data.obsm["proteins"].iloc[:, order]
    if form == "named otherwise":
        table = table.add_suffix("_TotalSeqB")
    data.obsm["proteins"] = table.to_numpy() if form == "array" else table
    data.uns["names"] = np.array(saved_models.PROTEINS, dtype=object)[order]
    found = sb.normalized_expression(named_in_uns, data, **HOW)
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-5)
    if form == "named alike":
        data.uns["names"] = data.uns["names"][::-1]
        with pytest.raises(ValueError, match="name the proteins in different orders"):
            sb.normalized_expression(named_in_uns, data, **HOW)
    del data.uns["names"]
    if form == "named otherwise":
        with pytest.raises(ValueError, match=r"obsm\['proteins'\] lacks 5 of the model's proteins"):
            sb.normalized_expression(named_in_uns, data, **HOW)


def test_proteins_that_are_numbered(cells):
    data = cells()
    data.obsm["proteins"].columns = range(5)
    scvi.model.TOTALVI.setup_anndata(data, "proteins", batch_key="batch")
    model = saved_models.fit(scvi.model.TOTALVI(data, n_latent=3))
    expected = sb.normalized_expression(model, **HOW)
    other = cells()
    other.obsm["proteins"] = other.obsm["proteins"].set_axis(range(5), axis=1)[[4, 2, 0, 1, 3]]
    found = sb.normalized_expression(model, other, **HOW)
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-5)


def test_proteins_are_read_lazily(totalvi, cells, tmp_path):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    found = sb.normalized_expression(totalvi, lazy.read(tmp_path / "cells.h5ad"), **HOW)
    np.testing.assert_allclose(found.X, sb.normalized_expression(totalvi, cells(), **HOW).X)


@pytest.mark.parametrize("modality", ["rna", "protein"])
def test_a_layer_that_a_modality_lacks_is_named(multimodal, modality):
    data = multimodal()
    data[modality].layers["counts"] = data[modality].X.copy()
    layers = {
        f"{name}_layer": "counts" if name == modality else None for name in ("rna", "protein")
    }
    scvi.model.TOTALVI.setup_mudata(
        data,
        **layers,
        batch_key="batch",
        modalities={"rna_layer": "rna", "protein_layer": "protein", "batch_key": "rna"},
    )
    model = saved_models.fit(scvi.model.TOTALVI(data, n_latent=3))
    message = (
        rf"modality '{modality}': the model was set up with layers\['counts'\], which is missing"
    )
    with pytest.raises(ValueError, match=message):
        sb.normalized_expression(model, multimodal(), **HOW)


@pytest.fixture(scope="module")
def of_one_table(cells):
    """MULTIVI of genes and regions in one AnnData, and its data."""
    genes, rng = cells(), np.random.default_rng(0)
    regions = sp.csr_matrix(rng.poisson(0.5, (60, saved_models.N_REGIONS)).astype(np.float32))
    names = [*genes.var_names, *(f"region_{i}" for i in range(saved_models.N_REGIONS))]
    data = ad.AnnData(
        sp.hstack([genes.X, regions], format="csr"), genes.obs, pd.DataFrame(index=names)
    )
    given = data.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.model.MULTIVI.setup_anndata(data, batch_key="batch")
    if "_scvi_batch" not in data.obs:
        pytest.skip("scvi-tools since 1.4 sets MULTIVI up with a MuData alone")
    model = scvi.model.MULTIVI(data, saved_models.N_GENES, saved_models.N_REGIONS, n_latent=3)
    return saved_models.fit(model), given


@pytest.mark.parametrize("form", ["dense", "csr", "csc", "zarr", "lazy"])
def test_regions_are_read_by_name_wherever_they_are(of_one_table, form, tmp_path):
    model, data = of_one_table
    expected = sb.normalized_expression(model, **HOW)
    data = data[:, ::-1].copy()
    if form == "dense":
        data.X = data.X.toarray()
    elif form == "csc":
        data.X = data.X.tocsc()
    path = tmp_path / ("x.zarr" if form == "zarr" else "x.h5ad")
    (data.write_zarr if form == "zarr" else data.write_h5ad)(path)
    given = lazy.read(path) if form == "lazy" else path
    found = sb.normalized_expression(model, given, out=tmp_path / "out.h5ad", **HOW).to_memory()
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-5)


@pytest.fixture(scope="module")
def with_size_factors(multimodal):
    """MULTIVI with size factors of the RNA and of the regions."""
    data = multimodal()
    rng = np.random.default_rng(0)
    data.obs["of_rna"], data.obs["of_regions"] = rng.uniform(0.5, 2, 60), rng.uniform(0.2, 1, 60)
    scvi.model.MULTIVI.setup_mudata(
        data,
        batch_key="batch",
        size_factor_key=["of_rna", "of_regions"],
        modalities={"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"},
    )
    model = scvi.model.MULTIVI(
        data, n_genes=saved_models.N_GENES, n_regions=saved_models.N_REGIONS, n_latent=3
    )
    return saved_models.fit(model)


def test_size_factors_of_modalities(with_size_factors, multimodal, tmp_path):
    model = with_size_factors
    expected = families.parameters(model, None)["mean"]
    found = sb.denoised_expression(model, progress=False)
    np.testing.assert_allclose(found.X, expected, rtol=3e-5)
    counts = sb.corrected_counts(model, transform_batch="V1", effect="cell", progress=False)
    other = multimodal()
    with pytest.raises(ValueError, match=r"obs\['of_rna'\], which is missing from the data"):
        sb.denoised_expression(model, other, progress=False)
    for column in ("of_rna", "of_regions"):
        other.obs[column] = model.adata.obs[column]
    found = sb.denoised_expression(model, other, progress=False)
    np.testing.assert_allclose(found.X, expected, rtol=3e-5)
    other.obs["of_rna"] = 0.0
    with pytest.raises(ValueError, match=r"obs\['of_rna'\] must be positive"):
        sb.denoised_expression(model, other, progress=False)
    model.save(str(tmp_path / "m"), save_anndata=True)
    again = sb.corrected_counts(
        sb.load(tmp_path / "m"), transform_batch="V1", effect="cell", progress=False
    )
    assert (again.X != counts.X).nnz == 0
