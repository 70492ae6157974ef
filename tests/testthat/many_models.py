"""Small models of other classes than SCVI, with covariates, for the tests of the R package.

Usage: python many_models.py CLASS DATA.h5ad FOLDER
"""

import logging
import sys
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

COVARIATES = {
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["percent_mito"],
}


def make(name, data, folder):
    """Train a model of a class on a file's cells and save it with them."""
    import scvi

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.seed = 0
    adata = ad.read_h5ad(data)
    rng = np.random.default_rng(0)
    adata.obs["donor"] = pd.Categorical(rng.choice(["D1", "D2"], adata.n_obs))
    adata.obs["percent_mito"] = rng.uniform(0, 0.1, adata.n_obs)
    proteins = rng.poisson(20, (adata.n_obs, 11)).astype(np.float32)
    names = [f"CD_{number}" for number in range(11)]
    adata.obsm["proteins"] = pd.DataFrame(proteins, index=adata.obs_names, columns=names)
    keys = {"batch_key": "batch", **COVARIATES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "MULTIVI":
            model = of_regions(adata, rng)
            model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
            model.save(folder, save_anndata=True)
            return
        if name == "TOTALVI":
            keys["protein_expression_obsm_key"] = "proteins"
        elif name == "SCANVI":
            keys |= {"labels_key": "cell_type", "unlabeled_category": "unknown"}
        model_class = getattr(scvi.model, name)
        model_class.setup_anndata(adata, **keys)
        model = model_class(adata, n_latent=4)
        model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
        model.save(folder, save_anndata=True)


def of_regions(adata, rng):
    """Set up a MULTIVI of a MuData: genes, regions and the proteins."""
    import mudata
    import scvi

    regions = ad.AnnData(sp.csr_matrix(rng.poisson(1, (adata.n_obs, 15)).astype(np.float32)))
    regions.var_names = [f"chr1:{number}-{number + 9}" for number in range(0, 150, 10)]
    proteins = ad.AnnData(adata.obsm.pop("proteins"))
    regions.obs_names = proteins.obs_names = adata.obs_names
    both = mudata.MuData({"rna": adata, "atac": regions, "protein": proteins})
    places = {"rna_layer": "rna", "atac_layer": "atac", "protein_layer": "protein"}
    scvi.model.MULTIVI.setup_mudata(
        both, modalities={**places, "batch_key": "rna"}, batch_key="batch"
    )
    return scvi.model.MULTIVI(both, n_latent=4, n_hidden=16)


if __name__ == "__main__":
    make(*sys.argv[1:])
