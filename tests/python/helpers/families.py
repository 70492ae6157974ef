"""A trained model of each supported class, and what scvi-tools itself says of its counts."""

from __future__ import annotations

import inspect
import logging
import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from training import without_record

# For more than ten proteins, TOTALANVI would fit mixtures to each cell's, whatever is asked for.
N_PROTEINS, N_REGIONS = 10, 50
UNLABELLED = "unknown"
FAMILIES = (
    "SCVI",
    "LinearSCVI",
    "SCANVI",
    "AUTOZI",
    "CondSCVI",
    "TOTALVI",
    "TOTALANVI",
    "MULTIVI",
)


def lacks(name):
    """Say why the installed scvi-tools has no such model, or None if it has."""
    if name == "TOTALANVI" and not hasattr(scvi.external, name):
        return "this scvi-tools has no TOTALANVI"
    if name == "CondSCVI" and not hasattr(scvi.module.VAEC, "compute_embedding"):
        return "CondSCVI of scvi-tools before 1.4.1 has another distribution and is refused"
    return None


AVAILABLE = tuple(name for name in FAMILIES if lacks(name) is None)


def skip_if_lacking(name):
    """Skip a test of a model that the installed scvi-tools does not have."""
    if reason := lacks(name):
        pytest.skip(reason)


def with_proteins(adata, seed=0):
    """Add counts of proteins that differ by type and batch."""
    rng = np.random.default_rng(seed)
    kind = adata.obs["cell_type"].cat.codes.to_numpy()
    batch = pd.factorize(adata.obs["batch"])[0]
    mean = (
        rng.lognormal(2, 1, (5, N_PROTEINS))[kind] * rng.lognormal(0, 0.3, (5, N_PROTEINS))[batch]
    )
    names = [f"protein_{p}" for p in range(N_PROTEINS)]
    counts = pd.DataFrame(rng.poisson(mean), index=adata.obs_names, columns=names)
    adata.obsm["protein_counts"] = counts.astype(np.float32)
    return adata


def as_mudata(adata, seed=0, proteins=False):
    """Put the RNA into a MuData beside counts of regions."""
    rng = np.random.default_rng(seed)
    kind = adata.obs["cell_type"].cat.codes.to_numpy()
    mean = rng.lognormal(-1, 1, (5, N_REGIONS))[kind]
    regions = AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.float32)))
    regions.obs_names = adata.obs_names
    regions.var_names = [f"region_{r}" for r in range(N_REGIONS)]
    parts = {"rna": adata, "atac": regions}
    if proteins:
        counts = with_proteins(adata.copy()).obsm["protein_counts"]
        parts["protein"] = AnnData(counts, obs=pd.DataFrame(index=adata.obs_names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData(parts)


def train(model, epochs=8, seed=0, **arguments):
    """Train a little, quietly."""
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    scvi.settings.verbosity = logging.ERROR
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What looks at the losses needs more epochs than these to do anything.
    known = inspect.signature(model.train).parameters
    for name in {"early_stopping", "reduce_lr_on_plateau", "save_best"} & set(known):
        arguments.setdefault(name, False)
    with warnings.catch_warnings(), without_record():
        warnings.simplefilter("ignore")
        model.train(
            max_epochs=epochs,
            accelerator="cpu",
            batch_size=64,
            enable_progress_bar=False,
            logger=False,
            **arguments,
        )
    return model


def make(name, adata, *, setup=None, mudata_too=False, epochs=8, **arguments):
    """Set up and train a model of a class; `adata` is copied.

    Returns
    -------
    The model, and an AnnData of its RNA.
    """
    skip_if_lacking(name)
    adata = adata.copy()
    keys = {"batch_key": "batch", **(setup or {})}
    small = {"n_latent": 4, "n_hidden": 24, **arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in ("TOTALVI", "TOTALANVI"):
            return _of_proteins(name, adata, keys, mudata_too, epochs, arguments), adata
        if name == "MULTIVI":
            return _of_regions(adata, keys, epochs, small), adata
        model_class = getattr(scvi.model, name)
        if name == "SCANVI":
            keys |= {"labels_key": "cell_type", "unlabeled_category": UNLABELLED}
        elif name in ("AUTOZI", "CondSCVI"):
            keys |= {"labels_key": "cell_type"}
        model_class.setup_anndata(adata, **keys)
        model = model_class(adata, **small)
    # CondSCVI would hold no cell out.
    held_out = {"train_size": 0.9} if name == "CondSCVI" else {}
    return train(model, epochs, **held_out), adata


def _of_proteins(name, adata, keys, mudata_too, epochs, arguments):
    with_proteins(adata)
    small = {"n_latent": 4, **arguments}
    small.setdefault("empirical_protein_background_prior", False)
    if name == "TOTALANVI":
        model_class = scvi.external.TOTALANVI
        keys |= {"labels_key": "cell_type", "unlabeled_category": UNLABELLED}
    else:
        model_class = scvi.model.TOTALVI
    if mudata_too:
        proteins = AnnData(adata.obsm["protein_counts"], obs=pd.DataFrame(index=adata.obs_names))
        both = mudata.MuData({"rna": adata, "protein": proteins})
        places = {"rna_layer": "rna", "protein_layer": "protein", "batch_key": "rna"}
        model_class.setup_mudata(both, modalities=places, **keys)
        return train(model_class(both, **small), epochs)
    model_class.setup_anndata(adata, protein_expression_obsm_key="protein_counts", **keys)
    return train(model_class(adata, **small), epochs)


def _of_regions(adata, keys, epochs, arguments):
    both = as_mudata(adata)
    places = {"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"}
    for key in ("categorical_covariate_keys", "continuous_covariate_keys"):
        if key in keys:
            places[key] = "rna"
    scvi.model.MULTIVI.setup_mudata(both, modalities=places, **keys)
    model = scvi.model.MULTIVI(both, **arguments)
    # Its library is a network of its own, which a few epochs at the usual rate leave far off.
    return train(model, 5 * epochs, lr=1e-2, adversarial_mixing=False)


def parameters(model, batch, change=None, at_means=True):
    """Parameters of the counts by scvi-tools' own modules, at the posterior means or at a draw.

    Parameters
    ----------
    model
        A model of any family.
    batch
        Code of the batch that the cells are decoded in; their own if None.
    change
        Changes the tensors that the decoder is given.
    at_means
        Whether z and a latent library are their means; else what `inference` has drawn.

    Returns
    -------
    As `oracle.generative` gives them.
    """
    module = model.module.eval()
    loader = model._make_data_loader(model.adata, batch_size=model.adata.n_obs)
    tensors = next(iter(loader))
    with torch.inference_mode():
        encoded = module.inference(**module._get_inference_input(tensors))
        encoded = _at_means(module, encoded) if at_means else encoded
        given = dict(tensors)
        if batch is not None:
            given["batch"] = torch.full_like(tensors["batch"], batch)
        if change is not None:
            given = change(given)
        decoded = module.generative(**module._get_generative_input(given, encoded))
    return _described(module, decoded, given)


def foreground(model, batch, n_draws):
    """Foreground values of proteins by TOTALVI's module: the mean over draws of the background."""
    module = model.module.eval()
    loader = model._make_data_loader(model.adata, batch_size=model.adata.n_obs)
    tensors = next(iter(loader))
    total = 0.0
    with torch.inference_mode():
        encoded = _at_means(module, module.inference(**module._get_inference_input(tensors)))
        inputs = module._get_generative_input(tensors, encoded)
        for _ in range(n_draws):
            found = module.generative(**inputs, transform_batch=batch)["py_"]
            total = total + found["rate_fore"] * (1 - torch.sigmoid(found["mixing"]))
    return (total / n_draws).numpy()


def _at_means(module, encoded):
    if "qz_m" in encoded:  # MULTIVI
        return encoded | {"z": module.z_encoder_accessibility.z_transformation(encoded["qz_m"])}
    encoder = module.encoder if "library_gene" in encoded else module.z_encoder
    encoded = encoded | {"z": encoder.z_transformation(encoded["qz"].loc)}
    if "library_gene" in encoded and not module.use_observed_lib_size:
        encoded["library_gene"] = encoded["ql"].loc.exp()
    elif encoded.get("ql") is not None and "library" in encoded:
        encoded["library"] = encoded["ql"].loc
    return encoded


def _described(module, decoded, given):
    if "px" in decoded:
        px = decoded["px"]
        scale = px.normal_mu if hasattr(px, "normal_mu") else px.scale
        mean = getattr(px, "mu", getattr(px, "rate", getattr(px, "loc", None)))
        theta, logits = getattr(px, "theta", None), getattr(px, "zi_logits", None)
    elif "px_" in decoded:
        px = decoded["px_"]
        scale, mean, theta = px["scale"], px["rate"], px["r"]
        logits = px["dropout"] if module.gene_likelihood == "zinb" else None
    else:
        scale, mean, theta = decoded["px_scale"], decoded["px_rate"], decoded["px_r"]
        logits = decoded["px_dropout"] if module.gene_likelihood == "zinb" else None
        theta = None if module.gene_likelihood == "poisson" else theta
    if "bernoulli_params" in decoded:
        logits = _mixture(module, logits, given)
    found = {"scale": scale, "mean": mean, "theta": theta, "logits": logits}
    shape = (len(given["batch"]), scale.shape[1])
    return {
        name: None if values is None else np.broadcast_to(values.double().numpy(), shape)
        for name, values in found.items()
    }


def _mixture(module, logits, given):
    """AUTOZI: P(0) of NB with probability delta, else ZINB, written as the dropout of one ZINB."""
    alphas = module.get_alphas_betas(as_numpy=True)
    alpha, beta = (alphas[f"{name}_posterior"].astype(float) for name in ("alpha", "beta"))
    delta = alpha / (alpha + beta)
    if module.zero_inflation != "gene":
        key = "batch" if module.zero_inflation == "gene-batch" else "labels"
        delta = np.stack([delta[:, int(code)] for code in given[key].ravel()])
    dropout = torch.sigmoid(logits.double()).numpy() * (1 - delta)
    return torch.as_tensor(np.log(dropout) - np.log1p(-dropout))
