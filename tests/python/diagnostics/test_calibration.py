"""Calibration, theta refitted on held-out cells, and theta given to corrected counts."""

from __future__ import annotations

import copy
from dataclasses import replace

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, stats
from upstream_draws import posterior_predictive

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.correction import corrected_counts as engine
from scvibridge.correction.given_dispersion import read_dispersion
from scvibridge.correction.reference import choose_reference
from scvibridge.correction.request import check_request
from scvibridge.correction.settings import CorrectionSettings
from scvibridge.diagnostics.calibration import dispersion_fit, goodness_of_fit
from scvibridge.expression.records import Running
from scvibridge.models.adapters import adapter_for

QUIET = {"progress": False}

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


def with_theta(adata, by_batch, seed=0):
    """The same means, with another theta in each batch."""
    rng = np.random.default_rng(seed)
    theta = adata.obs["batch"].astype(str).map(by_batch).to_numpy()[:, None]
    counts = rng.poisson(rng.gamma(theta, adata.layers["mean"] / theta))
    adata.X = sp.csr_matrix(counts.astype(np.float32))
    return adata


@pytest.fixture(scope="module")
def two_thetas(simulate, train):
    """A model with one theta per gene of two batches, the second with a third of the first's."""
    adata = simulate(n_cells=1200, n_genes=80, batches=("V1", "V2"), seed=3)
    adata = with_theta(adata, {"V1": 6.0, "V2": 2.0})
    return train(adata, labels_key=None, max_epochs=60, batch_size=128)


@pytest.fixture(scope="module")
def fit(two_thetas):
    return sb.calibration(two_thetas, n_references=10, **QUIET)


@pytest.fixture(scope="module")
def cells(simulate):
    return simulate(n_cells=450, n_genes=40)


@pytest.fixture(scope="module")
def small_models(cells, train):
    adata = cells[:300].copy()
    setups = {
        "nb": {},
        "zinb": {"gene_likelihood": "zinb"},
        "poisson": {"gene_likelihood": "poisson"},
        "gene-batch": {"dispersion": "gene-batch"},
        "gene-cell": {"dispersion": "gene-cell"},
        "gene-label": {"dispersion": "gene-label"},
    }
    return {
        name: train(adata.copy(), max_epochs=40, seed=4, batch_size=100, kl_warmup=10, **setup)
        for name, setup in setups.items()
    }


def drawn_from(model, rows, seed):
    """New cells from scvi-tools' own generative model: z from q(z|x), the cell's own library."""
    torch.manual_seed(seed)
    counts = posterior_predictive(model, indices=rows, n_samples=1)
    counts = sp.csr_matrix(counts.astype(np.float32))
    new = ad.AnnData(counts, obs=model.adata.obs.iloc[rows].copy(), var=model.adata.var.copy())
    new.obs_names = [f"new_{seed}_{name}" for name in new.obs_names]
    return new


# -- what it finds -------------------------------------------------------------------------------


def test_a_batch_with_a_third_of_the_theta_is_found(fit):
    assert fit.batches.loc["V1", "flagged"]
    assert "vary less than the model predicts" in fit.batches.loc["V1", "verdict"]
    assert fit.batches.loc["V2", "misfit"] == "small"
    assert fit.overall["flagged"]
    assert "differs between batches by a factor of" in fit.overall["verdict"]
    assert fit.batches.loc["V2", "variance"] > fit.batches.loc["V2", "variance_reference_high"]
    assert "vary more than the model predicts" in fit.batches.loc["V2", "verdict"]
    assert isinstance(fit.theta, pd.DataFrame)
    assert list(fit.theta.columns) == ["V1", "V2"]
    ratio = np.exp(np.log(fit.theta["V2"] / fit.theta["V1"]).median())
    assert 0.25 < ratio < 0.45
    assert "one theta for each gene and batch" in fit.advice
    gains = fit.gains.set_index(["theta", "over"])
    assert gains.loc[("gene-batch", "gene"), "clear"]
    assert "V2" in fit.summary()


def test_data_of_the_model_itself_are_not_flagged(small_models):
    """Of 20 data sets that scvi-tools draws from the model at most one is flagged."""
    model, flagged, clear = small_models["nb"], 0, 0
    for seed in range(20):
        rows = np.sort(np.random.default_rng(seed).choice(300, 120, replace=False))
        new = drawn_from(model, rows, seed)
        found = sb.calibration(model, new, n_references=10, seed=seed, **QUIET)
        rows = [*found.batches["misfit"], found.overall["misfit"]]
        flagged += any(misfit != "none" for misfit in rows)
        clear += isinstance(found.theta, pd.DataFrame)
    assert flagged <= 1
    assert clear <= 1


def test_all_batches_together_are_the_mean_of_their_figures(fit):
    weights = fit.batches["n_cells"]
    for name in ("ks_rejection", "variance"):
        assert_allclose(fit.overall[name], np.average(fit.batches[name], weights=weights))
        low, high = (f"{name}_reference_{end}" for end in ("low", "high"))
        assert fit.batches[low].min() <= fit.overall[low] < fit.overall[high]
        assert fit.overall[high] <= fit.batches[high].max()
    assert fit.overall["n_cells"] == weights.sum()


@pytest.mark.parametrize("name", ["zinb", "poisson", "gene-batch", "gene-cell", "gene-label"])
def test_other_likelihoods_and_dispersions(small_models, name):
    model = small_models[name]
    rows = np.arange(0, 300, 2)
    found = sb.calibration(model, drawn_from(model, rows, 1), n_references=10, **QUIET)
    # The encoder of a Poisson model was trained on counts that vary more than its own: it is
    # flagged by data of its own, as docs/diagnostics.md says.
    if name != "poisson":
        assert found.batches["flagged"].sum() <= 1
    if name in ("poisson", "gene-cell"):
        assert found.theta is None
        assert found.genes[["theta", "theta_refitted"]].isna().to_numpy()[:, 1].all()
        assert ("no theta" if name == "poisson" else "gene-cell") in found.advice
        return
    # The model's own, within what 150 cells can tell.
    ratio = np.log(found.genes["theta_refitted"] / found.genes["theta"])
    assert abs(ratio.median()) < 0.3


def test_overdispersed_counts_flag_a_poisson_model(small_models, cells):
    found = sb.calibration(small_models["poisson"], cells[300:].copy(), n_references=5, **QUIET)
    assert found.batches["flagged"].all()
    assert found.overall["flagged"]
    assert (found.batches["variance"] > found.batches["variance_reference_high"]).all()


def test_one_batch_needs_no_comparison_of_batches(simulated, train):
    model = train(simulated.copy(), batch_key=None, labels_key=None, max_epochs=2, batch_size=128)
    found = sb.calibration(model, n_references=5, **QUIET)
    assert len(found.batches) == 1
    assert "batch" not in found.advice
    assert found.theta is None or isinstance(found.theta, pd.Series)


def test_tables_agree_with_the_counts(fit, two_thetas):
    rows = np.sort(two_thetas.validation_indices)
    assert fit.batches["n_cells"].sum() == len(rows) == fit.settings["n_cells"]
    counts = two_thetas.adata.X[rows].toarray()
    assert_allclose(fit.genes["mean"], counts.mean(axis=0), rtol=0.05)
    in_v1 = (two_thetas.adata.obs["batch"].iloc[rows] == "V1").to_numpy()
    long = fit.genes_by_batch.set_index(["batch", "gene"])
    assert_allclose(long.loc["V1", "mean"], counts[in_v1].mean(axis=0), rtol=1e-6)
    assert_allclose(fit.genes["theta"], np.exp(two_thetas.module.px_r.detach().numpy()), rtol=1e-6)


def test_the_same_seed_gives_the_same_and_minibatches_do_not_matter(two_thetas, fit):
    again = sb.calibration(two_thetas, n_references=10, batch_size=37, **QUIET)
    pd.testing.assert_frame_equal(again.genes, fit.genes, rtol=1e-4)
    for column in ("ks_rejection", "variance"):
        assert_allclose(again.batches[column], fit.batches[column], atol=0.03)
    other = sb.calibration(two_thetas, n_references=5, seed=1, **QUIET)
    assert not np.array_equal(other.batches["variance"], fit.batches["variance"])


# -- which cells ---------------------------------------------------------------------------------


def test_held_out_cells_survive_saving(two_thetas, fit, tmp_path):
    two_thetas.save(str(tmp_path / "model"), save_anndata=True)
    data = two_thetas.adata.copy()
    with_data = sb.load(tmp_path / "model", adata=data)
    found = sb.calibration(with_data, n_references=10, **QUIET)
    pd.testing.assert_frame_equal(found.batches, fit.batches)
    # By name, in whatever order the cells are given.
    shuffled = data[np.random.default_rng(0).permutation(data.n_obs)].copy()
    found = sb.calibration(with_data, shuffled, n_references=5, **QUIET)
    assert_array_equal(found.batches["n_cells"], fit.batches["n_cells"])
    assert_allclose(found.genes["mean"], fit.genes["mean"], rtol=1e-6)
    without = sb.load(tmp_path / "model", adata=False)
    found = sb.calibration(without, data, n_references=10, **QUIET)
    pd.testing.assert_frame_equal(found.batches, fit.batches)
    some = sb.calibration(without, data[:700].copy(), n_references=5, **QUIET)
    assert some.settings["n_cells"] == (two_thetas.validation_indices < 700).sum()
    # scvi-tools keeps positions alone.
    (tmp_path / "model" / "adata.h5ad").unlink()
    without = sb.load(tmp_path / "model", adata=False)
    with pytest.raises(ValueError, match="it is unknown which cells the model was trained on"):
        sb.calibration(without, data, **QUIET)


def test_cells_of_the_training_are_refused(two_thetas, simulated, train):
    with pytest.raises(ValueError, match=r"trained on.*nothing can be concluded"):
        sb.calibration(two_thetas, indices=np.arange(100), **QUIET)
    known = two_thetas.adata[two_thetas.train_indices].copy()
    with pytest.raises(ValueError, match=r"trained on all of these.*nothing can be concluded"):
        sb.calibration(two_thetas, known, **QUIET)
    model = train(simulated.copy(), max_epochs=0)
    model.train(1, train_size=1.0, accelerator="cpu", enable_progress_bar=False, logger=False)
    with pytest.raises(ValueError, match="trained on all of these cells"):
        sb.calibration(model, **QUIET)


def test_too_few_cells_are_no_verdict(two_thetas):
    rows = np.sort(two_thetas.validation_indices)
    batch = two_thetas.adata.obs["batch"].iloc[rows].to_numpy()
    few = np.concatenate([rows[batch == "V1"], rows[batch == "V2"][:5]])
    found = sb.calibration(two_thetas, indices=few, n_references=5, **QUIET)
    row = found.batches.loc["V2"]
    assert "nothing can be concluded" in row["verdict"]
    assert not row["flagged"]
    assert np.isnan(row["variance"])


@pytest.mark.filterwarnings("ignore:.*other counts")
def test_cells_without_counts_follow_any_model_and_are_left_out(two_thetas):
    data = two_thetas.adata.copy()
    counts = data.X.toarray()
    counts[(data.obs["batch"] == "V2").to_numpy()] = 0
    data.X = sp.csr_matrix(counts)
    found = sb.calibration(two_thetas, data, n_references=5, **QUIET)
    assert found.batches.loc["V2", "n_cells"] == 0
    assert "nothing can be concluded" in found.batches.loc["V2", "verdict"]
    held_out = two_thetas.adata.obs["batch"].iloc[two_thetas.validation_indices]
    assert found.settings["n_cells"] == (held_out == "V1").sum()
    empty = data[data.obs["batch"] == "V2"].copy()
    with pytest.raises(ValueError, match="none of the held-out cells has counts"):
        sb.calibration(two_thetas, empty, n_references=5, **QUIET)


def test_at_most_so_many_cells_of_a_batch(two_thetas):
    found = sb.calibration(two_thetas, n_references=5, max_cells=30, **QUIET)
    assert (found.batches["n_cells"] == 30).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_references": 2}, "n_references must be an integer of at least 5"),
        ({"max_cells": 3}, "max_cells must be an integer of at least 20"),
        ({"batch_size": "V1"}, "batch_size is the number of cells"),
        ({"indices": [5000]}, "indices must be within"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_are_checked(two_thetas, arguments, message):
    with pytest.raises(ValueError, match=message):
        sb.calibration(two_thetas, **arguments, **QUIET)


# -- the numbers ---------------------------------------------------------------------------------


def test_distances_are_those_of_scipy():
    uniforms = np.random.default_rng(0).random((57, 8)) ** np.linspace(0.6, 1.4, 8)
    expected = [stats.kstest(column, "uniform").statistic for column in uniforms.T]
    assert_allclose(goodness_of_fit.ks_distances(np.sort(uniforms, axis=0)), expected, rtol=1e-12)
    pvalues = np.array([stats.kstest(column, "uniform").pvalue for column in uniforms.T])
    everything = np.arange(8)
    rejected = goodness_of_fit.figures(uniforms, everything, everything).ks_rejection
    assert rejected == (pvalues < 0.05).mean()


def block_of(seed=0, n_cells=400, logits=None):
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.normal(0.5, 1, (n_cells, 5)))
    theta = np.array([0.3, 1.0, 3.0, 10.0, 40.0])
    counts = rng.poisson(rng.gamma(theta, mean / theta))
    if logits is not None:
        logits = np.full(mean.shape, logits)
        counts = np.where(rng.random(mean.shape) < 1 / (1 + np.exp(-logits)), 0, counts)
    group = np.arange(n_cells) % 2
    return dispersion_fit.CountBlock(
        sp.csr_matrix(counts), mean, logits, group, np.zeros(n_cells, int)
    )


def log_pmf(block, gene, theta):
    """Log-probabilities of a gene's counts by scipy."""
    counts, mean = block.counts.toarray()[:, gene], block.mean[:, gene]
    plain = stats.nbinom(theta, theta / (theta + mean)).logpmf(counts)
    if block.zi_logits is None:
        return plain
    pi = 1 / (1 + np.exp(-block.zi_logits[:, gene]))
    return np.log(np.where(counts == 0, pi, 0) + (1 - pi) * np.exp(plain))


@pytest.mark.parametrize("logits", [None, -1.0])
@pytest.mark.parametrize("sd", [np.inf, 0.5])
def test_refitted_theta_is_the_maximum_that_scipy_finds(logits, sd):
    block = block_of(logits=logits)
    curve = dispersion_fit.curves([block], 2, 5).sum(axis=0)
    centre = np.log(2.0)
    found = dispersion_fit.refit(curve, np.full(5, centre), sd)

    def loss(log_theta, gene):
        prior = 0.5 * ((log_theta - centre) / sd) ** 2
        return prior - log_pmf(block, gene, np.exp(log_theta)).sum()

    for gene in range(5):
        best = optimize.minimize_scalar(loss, bounds=(-4, 8), args=(gene,), method="bounded")
        assert_allclose(found[gene], best.x, atol=0.01)


@pytest.mark.parametrize("logits", [None, -1.0])
def test_likelihood_of_cells_is_that_of_scipy(logits):
    block = block_of(logits=logits)
    thetas = np.array([np.full(5, 2.0), np.full(5, 5.0)])
    ours = dispersion_fit.cell_log_likelihood(block, thetas, block.group)
    base = dispersion_fit.cell_log_likelihood(block, thetas, 1 - block.group)

    def expected(rows):
        both = [
            np.sum([log_pmf(block, g, theta) for g in range(5)], axis=0) for theta in thetas[:, 0]
        ]
        return np.array(both)[rows, np.arange(len(rows))]

    # Constants that theta has no part in drop out of the difference.
    difference = expected(block.group) - expected(1 - block.group)
    assert_allclose(ours - base, difference, rtol=1e-8, atol=1e-8)


def test_without_counts_theta_stays_where_it_was():
    empty = np.zeros((2, 3, len(dispersion_fit.LOG_THETA)))
    own = np.log([[0.5, 3.0, 20.0]])
    found = dispersion_fit.refit_levels(empty, own, own_by_batch=False)
    assert_allclose(found.gene, own[0], atol=0.005)
    assert_allclose(found.batch, np.repeat(own, 2, axis=0), atol=0.005)


# -- theta given to corrected counts -------------------------------------------------------------


def other_theta(model, by_batch, seed=0):
    """Another theta for each gene (by batch), in another order of genes and batches."""
    rng = np.random.default_rng(seed)
    genes = model.adata.var_names
    columns = ["V3", "V1", "V2"] if by_batch else ["theta"]
    values = np.exp(rng.normal(1, 0.7, (len(genes), len(columns))))
    table = pd.DataFrame(values, index=genes, columns=columns)
    table = table.iloc[rng.permutation(len(genes))]
    return table if by_batch else table["theta"]


def model_with(model, theta):
    """The same model with these thetas for its own."""
    changed = copy.deepcopy(model)
    if isinstance(theta, pd.DataFrame):
        values = theta.loc[model.adata.var_names, ["V1", "V2", "V3"]]
        changed.module.dispersion = "gene-batch"
    else:
        values = theta.loc[model.adata.var_names]
        changed.module.dispersion = "gene"
    changed.module.px_r = torch.nn.Parameter(torch.tensor(np.log(values.to_numpy())).float())
    return changed


@pytest.mark.parametrize("name", ["nb", "zinb", "gene-batch"])
@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("effect", ["label", "cell"])
def test_given_theta_is_used_on_both_sides(small_models, name, by_batch, effect):
    model = small_models[name]
    theta = other_theta(model, by_batch)
    ours = sb.corrected_counts(
        model,
        transform_batch="V3",
        effect=effect,
        labels_key="cell_type",
        library_size="observed",
        dispersion=theta,
        shrinkage=0,
        **QUIET,
    )
    labels = model.adata.obs["cell_type"].cat.codes.to_numpy()
    changed = model_with(model, theta)
    counts, comparable = oracle.quantile(changed, [2], np.ones(ours.n_obs), effect, labels)
    assert comparable.mean() > 0.6
    assert (ours.X.toarray() != counts)[comparable].mean() < 2e-4
    without = sb.corrected_counts(
        model,
        transform_batch="V3",
        effect=effect,
        labels_key="cell_type",
        library_size="observed",
        **QUIET,
    )
    assert (ours.X != without.X).nnz > 0
    provenance = ours.uns["scvibridge"]
    assert provenance["theta_from"] == "given"
    assert provenance["theta_by"] == ("gene-batch" if by_batch else "gene")
    assert len(provenance["theta_digest"]) == 32
    assert without.uns["scvibridge"]["theta_from"] == "the model"


@pytest.mark.parametrize("by_batch", [False, True])
def test_samples_take_given_theta(small_models, by_batch):
    model = small_models["nb"]
    theta = other_theta(model, by_batch)
    arguments = {"transform_batch": "V2", "method": "sample", **QUIET}
    ours = sb.corrected_counts(model, dispersion=theta, **arguments)
    expected = sb.corrected_counts(model_with(model, theta), **arguments)
    assert (ours.X != expected.X).nnz <= 1e-4 * ours.n_obs * ours.n_vars
    own = sb.corrected_counts(model, **arguments)
    assert (ours.X != own.X).nnz > 0


@pytest.mark.parametrize("by_batch", [False, True])
def test_target_cells_are_untouched_under_given_theta(small_models, by_batch):
    model = small_models["nb"]
    request = request_with(model, other_theta(model, by_batch), effect="global")
    request = replace(request, keep_unchanged=False)
    result = engine.compute(request, choose_reference(request))
    target = (result.obs["batch"] == "V3").to_numpy()
    assert (result.X[target] != result.layers["raw_counts"][target]).nnz == 0
    assert (result.X[~target] != result.layers["raw_counts"][~target]).nnz > 0


def test_streamed_counts_take_given_theta(small_models, tmp_path):
    model = small_models["nb"]
    theta = other_theta(model, by_batch=True)
    arguments = {"transform_batch": "V3", "labels_key": "cell_type", **QUIET}
    streamed = sb.corrected_counts(model, dispersion=theta, out=tmp_path / "a.h5ad", **arguments)
    expected = sb.corrected_counts(model, dispersion=theta, **arguments)
    assert (streamed.to_memory().X != expected.X).nnz == 0
    assert streamed.uns["scvibridge"]["theta_digest"] == expected.uns["scvibridge"]["theta_digest"]


def test_a_run_with_another_theta_is_another_run(small_models):
    model = small_models["nb"]
    prints = []
    for theta in (None, other_theta(model, False), other_theta(model, False, seed=1)):
        request = request_with(model, theta)
        prints.append(engine._fingerprint(request, choose_reference(request)))
    assert len({found["theta"] for found in prints}) == 3
    assert len({str({**found, "theta": None}) for found in prints}) == 1


def request_with(model, theta, **settings):
    return check_request(
        adapter_for(model),
        CorrectionSettings.of(**settings),
        Running(batch_size=None, device="cpu", progress=False),
        transform_batch="V3",
        dispersion=theta,
    )


def test_a_calibration_can_be_given(two_thetas, fit):
    arguments = {"transform_batch": "V1", "indices": np.arange(60), **QUIET}
    ours = sb.corrected_counts(two_thetas, dispersion=fit, **arguments)
    expected = sb.corrected_counts(two_thetas, dispersion=fit.theta, **arguments)
    assert (ours.X != expected.X).nnz == 0
    assert ours.uns["scvibridge"]["theta_from"] == "calibration"
    keeps = replace(fit, theta=None)
    kept = sb.corrected_counts(two_thetas, dispersion=keeps, **arguments)
    own = sb.corrected_counts(two_thetas, **arguments)
    assert (kept.X != own.X).nnz == 0
    assert "calibration" in kept.uns["scvibridge"]["theta_from"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda theta: theta.iloc[1:], ValueError, "dispersion lacks 1 of the model's 40 genes"),
        (lambda theta: theta * 0, ValueError, "positive and finite"),
        (lambda theta: theta * np.nan, ValueError, "positive and finite"),
        (lambda theta: theta * 1e-9, ValueError, "below 1e-06, .*pass their reciprocals"),
        (lambda theta: theta.to_numpy(), TypeError, "dispersion must be the result of"),
        (lambda theta: pd.concat([theta, theta.iloc[:1]]), ValueError, "more than once"),
        (lambda theta: theta.to_frame("V2"), ValueError, "has no column for 'V1', 'V3'.*not named"),
        (lambda theta: theta.rename("V2"), ValueError, "has no column for 'V1', 'V3'.*not named"),
        (
            lambda theta: pd.DataFrame({"V1": theta, "V2": theta}),
            ValueError,
            "has no column for 'V3'",
        ),
        (
            lambda theta: pd.DataFrame({"V1": theta, "V2": theta, "v3": theta}),
            ValueError,
            "did you mean 'V3'",
        ),
    ],
)
def test_wrong_dispersions_are_refused(small_models, change, error, message):
    theta = change(other_theta(small_models["nb"], by_batch=False))
    with pytest.raises(error, match=message):
        sb.corrected_counts(small_models["nb"], transform_batch="V3", dispersion=theta, **QUIET)


@pytest.mark.parametrize(
    ("name", "message"), [("poisson", "has no dispersions"), ("gene-cell", "each cell")]
)
def test_models_without_such_dispersions_refuse_them(small_models, name, message):
    theta = other_theta(small_models["nb"], by_batch=False)
    with pytest.raises(ValueError, match=message):
        sb.corrected_counts(small_models[name], transform_batch="V3", dispersion=theta, **QUIET)


# -- the commands --------------------------------------------------------------------------------


def test_the_commands_write_a_theta_and_take_it(two_thetas, fit, tmp_path, capsys):
    two_thetas.save(str(tmp_path / "model"), save_anndata=True)
    two_thetas.adata.write_h5ad(tmp_path / "data.h5ad")
    files = [str(tmp_path / "model"), "--adata", str(tmp_path / "data.h5ad")]
    theta, out = str(tmp_path / "theta.csv"), str(tmp_path / "counts.h5ad")
    assert main.main(["calibration", *files, "--n-references", "10", "--theta", theta]) == 0
    printed = capsys.readouterr()
    assert "ks_rejection" in printed.out
    assert fit.advice in printed.err
    assert_allclose(read_dispersion(theta), fit.theta, rtol=1e-12)
    arguments = ["--transform-batch", "V1", "--dispersion", theta, "--out", out, "--quiet"]
    assert main.main(["correct", *files, *arguments]) == 0
    expected = sb.corrected_counts(two_thetas, transform_batch="V1", dispersion=fit, **QUIET)
    assert (ad.read_h5ad(out).X != expected.X).nnz == 0
    capsys.readouterr()
    table = str(tmp_path / "fit.csv")
    assert (
        main.main(["calibration", *files, "--n-references", "10", "--out", table, "--quiet"]) == 0
    )
    printed = capsys.readouterr()
    assert printed.out.strip() == table
    assert printed.err == ""
    written = pd.read_csv(table, index_col="batch")
    assert_array_equal(written["flagged"], fit.batches["flagged"])


def test_an_older_theta_does_not_stay(two_thetas, fit, tmp_path, capsys, monkeypatch):
    """It would be taken for that of a calibration that recommends none."""
    two_thetas.save(str(tmp_path / "model"), save_anndata=True)
    theta = tmp_path / "theta.csv"
    theta.write_text("gene,theta\n")
    monkeypatch.setattr(sb, "calibration", lambda *_, **__: replace(fit, theta=None))
    arguments = ["calibration", str(tmp_path / "model"), "--theta", str(theta)]
    assert main.main(arguments) == 2
    assert theta.exists()
    assert main.main([*arguments, "--overwrite"]) == 0
    assert f"no {theta} is written: no other dispersions are recommended" in capsys.readouterr().err
    assert not theta.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "could not be read as a CSV table"),
        ("gene\na\n", "no column"),
        ("gene,theta\na,x\n", "lacks"),
    ],
)
def test_files_that_hold_no_dispersions_are_refused(small_models, tmp_path, text, message):
    path = tmp_path / "theta.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        sb.corrected_counts(
            small_models["nb"], transform_batch="V3", dispersion=read_dispersion(path), **QUIET
        )
