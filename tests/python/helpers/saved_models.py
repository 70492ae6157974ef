"""Small trained models of every class that scvi-tools saves, and a comparison of what they hold."""

from __future__ import annotations

import logging
import warnings

import families
import numpy as np
import pandas as pd
import scvi
import torch

N_GENES, N_REGIONS = 30, 20
PROTEINS = [f"protein_{i}" for i in range(5)]


def fit(model, **plan):
    scvi.settings.verbosity = logging.ERROR
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, plan_kwargs=plan)
    return model


def plain(name):
    """A model of a class that takes the cells as SCVI does."""

    def make(cells, _):
        families.skip_if_lacking(name)
        model_class = getattr(scvi.model, name)
        adata = cells()
        model_class.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
        return fit(model_class(adata, n_latent=3))

    return make


def scvi_covariates(cells, _):
    adata = cells()
    scvi.model.SCVI.setup_anndata(
        adata,
        batch_key="batch",
        labels_key="cell_type",
        categorical_covariate_keys=["site", "flag"],
        continuous_covariate_keys=["age"],
    )
    return fit(scvi.model.SCVI(adata, n_latent=3, gene_likelihood="nb"))


def scanvi(cells, _):
    adata = cells()
    scvi.model.SCANVI.setup_anndata(adata, "cell_type", "NK", batch_key="batch")
    return fit(scvi.model.SCANVI(adata, n_latent=3))


def scanvi_of_scvi(cells, _):
    return fit(scvi.model.SCANVI.from_scvi_model(plain("SCVI")(cells, _), "NK"))


def totalvi(cells, _):
    adata = cells()
    scvi.model.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    return fit(scvi.model.TOTALVI(adata, n_latent=3))


def totalvi_of_mudata(_, multimodal):
    data = multimodal()
    scvi.model.TOTALVI.setup_mudata(
        data,
        rna_layer=None,
        protein_layer=None,
        batch_key="batch",
        modalities={"rna_layer": "rna", "protein_layer": "protein", "batch_key": "rna"},
    )
    return fit(scvi.model.TOTALVI(data, n_latent=3))


def totalanvi(cells, _):
    adata = cells()
    families.skip_if_lacking("TOTALANVI")
    scvi.external.TOTALANVI.setup_anndata(
        adata, "proteins", batch_key="batch", labels_key="cell_type", unlabeled_category="NK"
    )
    return fit(scvi.external.TOTALANVI(adata, n_latent=3))


def multivi(_, multimodal):
    data = multimodal()
    scvi.model.MULTIVI.setup_mudata(
        data,
        rna_layer=None,
        atac_layer=None,
        protein_layer=None,
        batch_key="batch",
        modalities={
            "rna_layer": "rna",
            "atac_layer": "atac",
            "protein_layer": "protein",
            "batch_key": "rna",
        },
    )
    return fit(scvi.model.MULTIVI(data, n_genes=N_GENES, n_regions=N_REGIONS, n_latent=3))


def minified(cells, _):
    model = plain("SCVI")(cells, _)
    adata = model.adata
    adata.obsm["mean"], adata.obsm["variance"] = model.get_latent_representation(return_dist=True)
    model.minify_adata(use_latent_qzm_key="mean", use_latent_qzv_key="variance")
    return model


def query(cells, _):
    """A model that was carried over to cells of a batch that it had not seen (scArches)."""
    adata = cells(seed=2)
    adata.obs["batch"] = pd.Categorical(["V9"] * 60)
    reference = plain("SCVI")(cells, _)
    return fit(scvi.model.SCVI.load_query_data(adata, reference), weight_decay=0.0)


# By the class of the model, and what is special of it.
MODELS = {
    "SCVI": plain("SCVI"),
    "SCVI with covariates": scvi_covariates,
    "SCVI minified": minified,
    "SCVI of a query": query,
    "LinearSCVI": plain("LinearSCVI"),
    "AUTOZI": plain("AUTOZI"),
    "CondSCVI": plain("CondSCVI"),
    "SCANVI": scanvi,
    "SCANVI of SCVI": scanvi_of_scvi,
    "TOTALVI": totalvi,
    "TOTALVI of MuData": totalvi_of_mudata,
    "TOTALANVI": totalanvi,
    "MULTIVI": multivi,
}


def assert_same(a, b, where="") -> None:
    """The same values of the same types, in the same order."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.stride() == b.stride(), where
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        assert np.array_equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        assert getattr(a, "default_factory", None) == getattr(b, "default_factory", None), where
        assert getattr(a, "_metadata", None) == getattr(b, "_metadata", None), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for one, other in zip(a, b, strict=True):
            assert_same(one, other, where)
    else:
        assert a == b, where
