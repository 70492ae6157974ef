"""Counts of genes that were added to a model, by scvi-tools' own hidden layer and the oracle."""

from __future__ import annotations

import families
import numpy as np
import oracle
from numpy.testing import assert_array_equal

import scvibridge as sb

QUIET = {"progress": False, "device": "cpu"}
BATCHES = ["V1", "V2", "V3"]
N_GENES, N_OWN = 90, 50


def trunk_of(model):
    """The module whose output, or for LinearSCVI whose input, the head is fitted on."""
    module, name = model.module, type(model).__name__
    if name == "LinearSCVI":
        return module.decoder.factor_regressor
    if name == "CondSCVI":
        return module.decoder
    return (module.z_decoder_expression if name == "MULTIVI" else module.decoder).px_decoder


def added_parameters(extended, full):
    """Parameters of the added genes of scvi-tools' own hidden layer, caught on its way."""
    head, total = extended.head, full.X.toarray().sum(axis=1)
    batch = full.obs["batch"].cat.codes.to_numpy()

    def of(model, code):
        caught = []

        def catch(_, given, output):
            caught.append(given[0] if type(model).__name__ == "LinearSCVI" else output)

        handle = trunk_of(model).register_forward_hook(catch)
        families.parameters(model, code)
        handle.remove()
        h = caught[-1].double().numpy()
        codes = batch if code is None else np.full(len(batch), code)
        h = np.clip((h - head.location) / head.scale, -10, 10)
        rate = np.exp(np.minimum(h @ head.weights + head.intercept + head.batch[codes], 0))
        theta = None
        if head.log_theta is not None:
            theta = np.exp(head.log_theta.astype(float))
            theta = np.broadcast_to(theta[codes] if len(theta) > 1 else theta, rate.shape)
        return {"scale": rate, "mean": total[:, None] * rate, "theta": theta, "logits": None}

    return of


def check_added_counts(extended, full, effect, kappas=None, seed=2, targets=("V3",), samples=None):
    given = {} if samples is None else {"sample_key": "condition"}
    shrinkage = "auto" if kappas else (None if effect == "cell" else 0)
    ours = sb.corrected_counts(
        extended,
        transform_batch=list(targets),
        effect=effect,
        labels_key="cell_type",
        library_size="observed",
        shrinkage=shrinkage,
        seed=seed,
        **given,
        **QUIET,
    )
    table = full[:, extended.head.genes].copy()
    found = None
    if kappas:
        found = [ours.uns["scvibridge"][f"shrinkage_{level}"] for level in ("batch", "label")]
    expected, comparable = oracle.quantile(
        extended.model,
        [BATCHES.index(target) for target in targets],
        np.ones(full.n_obs),
        effect,
        full.obs["cell_type"].cat.codes.to_numpy(),
        seed=seed,
        samples=samples,
        kappas=found,
        adata=table,
        parameters=added_parameters(extended, full),
        renormalise=False,
    )
    counts = ours[:, extended.head.genes].X.toarray()
    assert comparable.mean() > 0.6
    assert (counts != expected)[comparable].mean() < 5e-4
    if targets == ("V3",):
        home = (full.obs["batch"] == "V3").to_numpy()
        assert_array_equal(counts[home], table.X.toarray()[home])
        assert (counts[~home] != table.X.toarray()[~home]).mean() > 0.02


def of_family(name, full, own_names):
    """A model of a family and all genes of its cells, as its class takes them."""
    model, rna = families.make(name, full[:, own_names].copy())
    everything = full.copy()
    for key, values in rna.obsm.items():
        everything.obsm[key] = values
    given = families.as_mudata(everything) if name == "MULTIVI" else everything
    return model, everything, given
