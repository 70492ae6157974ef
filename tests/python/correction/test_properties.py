"""What holds whatever the class, the set-up and the data: random set-ups by hypothesis."""

from __future__ import annotations

import families
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from anndata import AnnData
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb

QUIET = {"progress": False}
# The same examples each time: a rare failure would be no one's change.
RANDOM_SET_UPS = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # each example is a training: none is looked for a smaller one of
    suppress_health_check=list(HealthCheck),
)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BATCH_VALUES = {
    "text": ["b", "a", "c"],
    "integers": [10, 2, 30],
    "truth values": [True, False],
    "one": ["only"],
    "unused category": ["b", "a"],
}
# What scvi-tools itself trains: SCANVI, LinearSCVI and TOTALVI know no labels' dispersion,
# LinearSCVI's decoder gives none by cell, MULTIVI's loss takes that of genes alone.
DISPERSIONS = {
    "SCVI": ["gene", "gene-batch", "gene-label", "gene-cell"],
    "SCANVI": ["gene", "gene-batch", "gene-cell"],
    "LinearSCVI": ["gene", "gene-batch"],
    "AUTOZI": ["gene", "gene-batch", "gene-label", "gene-cell"],
    "CondSCVI": ["gene"],
    "TOTALVI": ["gene", "gene-batch"],
    "TOTALANVI": ["gene", "gene-batch"],
    "MULTIVI": ["gene"],
}
LIKELIHOODS = {
    "SCVI": ["nb", "zinb", "poisson"],
    "SCANVI": ["nb", "zinb", "poisson"],
    "LinearSCVI": ["nb", "zinb", "poisson"],
    "AUTOZI": ["zinb"],
    "CondSCVI": ["nb"],
    "TOTALVI": ["nb", "zinb"],
    "TOTALANVI": ["nb", "zinb"],
    "MULTIVI": ["nb", "zinb", "poisson"],
}


def cells(batches, n_cells=90, n_genes=24, seed=0):
    """Counts of types and batches, with covariates of all kinds."""
    rng = np.random.default_rng(seed)
    values = BATCH_VALUES[batches]
    kind, batch = rng.integers(3, size=n_cells), rng.integers(len(values), size=n_cells)
    rate = np.exp(rng.normal(0, 1, (3, n_genes))[kind] + rng.normal(0, 0.5, (3, n_genes))[batch])
    counts = rng.poisson(rng.gamma(3, rate))
    counts[:, 0] += 1  # no cell is empty
    obs = pd.DataFrame(
        {
            "batch": pd.Series(values).iloc[batch].to_numpy(),
            "cell_type": pd.Categorical.from_codes(kind, ["B", "NK", "T"]),
            "donor": rng.choice(["D1", "D2"], n_cells),
            "age": rng.normal(size=n_cells),
            "size": rng.uniform(0.5, 2, n_cells),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    if batches == "unused category":
        obs["batch"] = pd.Categorical(obs["batch"], categories=["b", "never", "a"])
    adata = AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs)
    adata.var_names = [f"gene{g}" for g in range(n_genes)]
    return adata


# Arguments of scvi-tools' VAE.
NETWORK = {
    "latent_distribution": st.sampled_from(["normal", "ln"]),
    "encode_covariates": st.booleans(),
    "deeply_inject_covariates": st.booleans(),
    "log_variational": st.booleans(),
    "n_layers": st.sampled_from([1, 2]),
}
EMBEDDED = {"batch_representation": st.sampled_from(["one-hot", "embedding"])}
NETWORKS = {
    "SCVI": st.fixed_dictionaries({**NETWORK, **EMBEDDED}),
    "AUTOZI": st.fixed_dictionaries({**NETWORK, **EMBEDDED}),
    "SCANVI": st.fixed_dictionaries(NETWORK),  # its classifier knows no embedding of the batch
}


@st.composite
def set_ups(draw):
    """A class, its arguments, those of its set-up, and the kind of batches."""
    name = draw(st.sampled_from(sorted(families.AVAILABLE)))
    batches = draw(st.sampled_from(sorted(BATCH_VALUES)))
    arguments, setup = {}, {}
    if name not in ("CondSCVI", "AUTOZI"):
        arguments["gene_likelihood"] = draw(st.sampled_from(LIKELIHOODS[name]))
    if name != "CondSCVI":
        key = "gene_dispersion" if name.startswith("TOTAL") else "dispersion"
        arguments[key] = draw(st.sampled_from(DISPERSIONS[name]))
    arguments |= draw(NETWORKS.get(name, st.just({})))
    depth = draw(st.sampled_from(["observed", "latent", "size factor"]))
    if depth == "latent" and name in ("SCVI", "SCANVI", "AUTOZI", "LinearSCVI", "TOTALVI"):
        arguments["use_observed_lib_size"] = False
        if "log_variational" in arguments:
            # Of counts as they are, the encoder of the library makes numbers without bounds.
            arguments["log_variational"] = True
    if depth == "size factor" and name in ("SCVI", "SCANVI", "TOTALVI"):
        setup["size_factor_key"] = "size"
    if name in ("SCVI", "SCANVI", "TOTALVI") and draw(st.booleans()):
        setup["categorical_covariate_keys"] = ["donor"]
        setup["continuous_covariate_keys"] = ["age"]
    if name in ("SCVI", "LinearSCVI", "CondSCVI", "AUTOZI") and draw(st.booleans()):
        setup["layer"] = "counts"
    if arguments.get("dispersion") == "gene-label":
        setup["labels_key"] = "cell_type"
    if name == "AUTOZI":
        arguments["zero_inflation"] = draw(st.sampled_from(["gene", "gene-batch", "gene-label"]))
    return name, batches, arguments, setup


def trained(set_up):
    """Train a model of a set-up, and give its RNA."""
    name, batches, arguments, setup = set_up
    note(f"{name} {batches} {arguments} {setup}")
    adata = cells(batches)
    if "layer" in setup:
        adata.layers["counts"] = adata.X.copy()
        adata.X = sp.csr_matrix(np.log1p(adata.X.toarray()))
    return families.make(name, adata, setup=setup, epochs=2, **arguments)


def counts_of(rna):
    """The counts that the model was set up with."""
    return rna.layers.get("counts", rna.X)


def names_of(rna):
    """Names of the batches in scvi-tools' order."""
    column = rna.obs["batch"]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.categories)
    return sorted(set(column))


@RANDOM_SET_UPS
@given(set_ups(), st.data())
def test_expression_equals_upstreams(set_up, data):
    model, rna = trained(set_up)
    names = names_of(rna)
    target = data.draw(st.sampled_from([None, *names]))
    ours = sb.normalized_expression(model, transform_batch=target, library_size=100, **QUIET)
    code = None if target is None else names.index(target)
    theirs = families.parameters(model, code)
    assert_allclose(ours.X, 100 * theirs["scale"], rtol=5e-5, atol=1e-7)
    denoised = sb.denoised_expression(model, **QUIET)
    assert_allclose(denoised.X, families.parameters(model, None)["mean"], rtol=1e-4, atol=1e-6)


@RANDOM_SET_UPS
@given(set_ups(), st.data())
def test_counts_are_integers_and_keep_what_is_not_changed(set_up, data):
    model, rna = trained(set_up)
    names = sorted(set(rna.obs["batch"]))
    target = data.draw(st.sampled_from(names))
    effect = data.draw(st.sampled_from(["label", "global", "cell"]))
    given = {
        "transform_batch": target,
        "effect": effect,
        "labels_key": "cell_type",
        "library_size": "observed",
        **QUIET,
    }
    if len(names) == 1:
        with pytest.raises(ValueError, match="a single batch"):
            sb.corrected_counts(model, **given)
        return
    away = rna.obs[rna.obs["batch"] != target]
    if effect == "label" and pd.crosstab(away["batch"], away["cell_type"]).to_numpy().max() < 20:
        with pytest.raises(ValueError, match="does not give any cell a batch effect of its label"):
            sb.corrected_counts(model, **given)
        return
    made = sb.corrected_counts(model, **given)
    assert made.X.dtype == np.int32
    assert made.X.min() >= 0
    raw = counts_of(rna)
    home = (rna.obs["batch"] == target).to_numpy()
    assert_array_equal(made.X[home].toarray(), raw[home].toarray())
    assert (made.layers["raw_counts"] != raw.astype(np.int32)).nnz == 0
    # Nothing depends on the order of the cells, on which are asked for, or on minibatches.
    order = np.random.default_rng(1).permutation(rna.n_obs)[:40]
    some = sb.corrected_counts(model, indices=order, batch_size=7, **given)
    differences = np.abs(some.X.toarray() - made.X[order].toarray())
    assert differences.max() <= 1
    assert (differences > 0).mean() <= 1e-3


def _drawn(model, code, seed):
    """Parameters at draws that a seed tells, the same ones for each batch."""
    scvi.settings.seed = seed
    return families.parameters(model, code, at_means=False)


@RANDOM_SET_UPS
@given(set_ups())
def test_samples_have_the_mean_of_upstreams_draws(set_up):
    model, rna = trained(set_up)
    names = names_of(rna)
    target = min(set(rna.obs["batch"]))
    ours = [
        sb.corrected_counts(
            model, transform_batch=target, method="sample", library_size="latent", seed=s, **QUIET
        ).X.sum(axis=0)
        for s in range(12)
    ]
    theirs = []
    for draw in range(12):
        drawn, own = (_drawn(model, code, draw) for code in (names.index(target), None))
        mean = drawn["mean"]
        if getattr(model.module, "use_size_factor_key", False):
            # A softplus scale does not sum to one; our counts keep the depth of the own batch.
            mean = mean * (own["mean"].sum(axis=1) / mean.sum(axis=1))[:, None]
        present = 1.0 if drawn["logits"] is None else 1 / (1 + np.exp(drawn["logits"]))
        theirs.append((mean * present).sum(axis=0))
    ours, theirs = np.array(ours).reshape(12, -1), np.array(theirs)
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0) + ours.mean(axis=0)) / 12)
    z = (ours.mean(axis=0) - theirs.mean(axis=0)) / error
    assert np.abs(z).max() < 6
    assert (z**2).mean() < 3


def test_missing_batches_are_refused():
    adata = cells("text")
    model, rna = families.make("SCVI", adata, epochs=1)
    rna = rna.copy()
    rna.obs["batch"] = rna.obs["batch"].astype(object)
    rna.obs.iloc[3, rna.obs.columns.get_loc("batch")] = np.nan
    with pytest.raises(ValueError, match=r"obs\['batch'\] is missing for 1 cells"):
        sb.corrected_counts(model, adata=rna, transform_batch="a", **QUIET)


def test_a_normal_likelihood_has_expressions_and_no_counts():
    model, _ = families.make("SCVI", cells("text"), epochs=2, gene_likelihood="normal")
    ours = sb.normalized_expression(model, transform_batch="b", **QUIET)
    theirs = families.parameters(model, 1)["scale"]
    assert_allclose(ours.X, 1e4 * theirs, rtol=5e-5)
    denoised = sb.denoised_expression(model, **QUIET)
    assert_allclose(denoised.X, families.parameters(model, None)["mean"], rtol=1e-4)
    with pytest.raises(ValueError, match="gene_likelihood='normal', which is not a likelihood"):
        sb.corrected_counts(model, transform_batch="b", **QUIET)
