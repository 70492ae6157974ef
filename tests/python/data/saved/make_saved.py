"""Make the models of `tests/python/saved` with the scvi-tools that is installed.

Usage: python make_saved.py FOLDER

FOLDER/cells.h5ad is taken, or made where it is missing. FOLDER/VERSION/CLASS gets the model that
scvi-tools' own `save` wrote, and its latent means as that version gave them. The models of several
versions lie here so that reading them is tested without installing those versions.
"""

import logging
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch


class _Scheduler(torch.optim.lr_scheduler.ReduceLROnPlateau):
    """Old versions of scvi-tools give it an argument that it has no longer."""

    def __init__(self, *arguments, verbose=False, **named):
        del verbose
        super().__init__(*arguments, **named)


torch.optim.lr_scheduler.ReduceLROnPlateau = _Scheduler

import scvi  # noqa: E402

SMALL = {"n_latent": 3, "n_hidden": 8}
TRAINING = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}


def cells():
    """Counts of 40 cells and 20 genes, with columns of all kinds."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(3, (40, 20)).astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(40)]
    adata.var_names = [f"gene{g}" for g in range(20)]
    adata.obs["batch"] = pd.Categorical(rng.choice(["a", "b", "c"], 40))
    adata.obs["label"] = pd.Categorical(rng.choice(["T", "B", "?"], 40))
    adata.obs["site"] = pd.Categorical(rng.choice(["x", "y"], 40))
    adata.obs["flag"] = rng.random(40) < 0.5
    adata.obs["age"] = rng.normal(size=40)
    proteins = rng.poisson(5, (40, 4)).astype(np.float32)
    names = [f"protein{p}" for p in range(4)]
    adata.obsm["proteins"] = pd.DataFrame(proteins, index=adata.obs_names, columns=names)
    return adata


def set_ups():
    """Classes with the arguments of their set-up and of the model."""
    labels = {"labels_key": "label", "unlabeled_category": "?"}
    covariates = {
        "categorical_covariate_keys": ["site", "flag"],
        "continuous_covariate_keys": ["age"],
    }
    proteins = {"protein_expression_obsm_key": "proteins"}
    yield scvi.model.SCVI, covariates, SMALL
    yield scvi.model.LinearSCVI, {}, SMALL
    yield scvi.model.SCANVI, labels, SMALL
    yield scvi.model.AUTOZI, {}, SMALL
    yield scvi.model.TOTALVI, proteins, {"n_latent": 3, "n_hidden": 8}


def make(folder):
    """Train and save one model of each class."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if not (folder / "cells.h5ad").is_file():
        cells().write_h5ad(folder / "cells.h5ad", compression="gzip")
    for model_class, setup, arguments in set_ups():
        scvi.settings.seed = 1
        adata = ad.read_h5ad(folder / "cells.h5ad")
        place = folder / scvi.__version__ / model_class.__name__
        model_class.setup_anndata(adata, batch_key="batch", **setup)
        model = model_class(adata, **arguments)
        model.train(**TRAINING)
        model.save(str(place), overwrite=True)
        np.save(place / "latent.npy", model.get_latent_representation())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    make(Path(sys.argv[1]))
