"""Calibration of extended models, and theta of added genes given to corrected counts."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from extension import BATCHES, QUIET, added_parameters, check_added_counts, trunk_of
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.correction.given_dispersion import read_dispersion

N_OWN = 60
pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


@pytest.fixture(scope="module")
def full(simulate):
    return simulate(n_cells=600, n_genes=110, seed=8)


@pytest.fixture(scope="module")
def model(full, train):
    return train(full[:, :N_OWN].copy(), labels_key=None, max_epochs=40, kl_warmup=10)


@pytest.fixture(scope="module")
def extended(model, full):
    return sb.extend_genes(model, full, ridge=0.1, **QUIET)


@pytest.fixture(scope="module")
def fit(extended):
    return sb.calibration(extended, n_references=10, **QUIET)


# -- calibration ---------------------------------------------------------------------------------


def test_own_genes_are_judged_as_by_the_model_alone(model, fit):
    alone = sb.calibration(model, n_references=10, **QUIET)
    for name in ("batches", "genes", "genes_by_batch", "gains"):
        pd.testing.assert_frame_equal(getattr(fit, name), getattr(alone, name))
    pd.testing.assert_series_equal(fit.overall, alone.overall)
    assert fit.advice == alone.advice
    assert fit.settings == alone.settings
    assert repr(fit.theta) == repr(alone.theta)
    assert alone.added is None
    assert fit.added.added is None
    assert fit.summary().startswith(alone.summary())
    assert "The same for the added genes (50):" in fit.summary()
    assert fit.added.advice in fit.summary()


def test_variances_of_added_genes_are_those_of_scipy(extended, model, full, fit):
    """Normal scores of u, which another implementation gives with the same uniforms."""
    parameters = added_parameters(extended, full)(model, None)
    genes = list(extended.head.genes)
    counts = full[:, genes].X.toarray()
    theta, mean = parameters["theta"], parameters["mean"]
    law = stats.nbinom(theta, theta / (theta + mean))
    seed = int(np.random.SeedSequence(0).generate_state(21)[0])
    _, v = oracle.uniforms(full.obs_names, genes, seed)
    scores = stats.norm.ppf(law.cdf(counts - 1) + v * law.pmf(counts))
    table = fit.added.genes_by_batch.set_index(["batch", "gene"])
    held_out = np.isin(np.arange(full.n_obs), model.validation_indices)
    for batch in BATCHES:
        rows = held_out & (full.obs["batch"] == batch).to_numpy()
        ours = table.loc[batch].loc[genes]
        assert_allclose(ours["variance"], scores[rows].var(axis=0), rtol=2e-3)
        assert_allclose(ours["mean"], counts[rows].mean(axis=0), rtol=1e-6)
        assert (ours["n_cells"] == rows.sum()).all()


def test_added_theta_is_refitted_as_scipy_does(extended, model, full, fit):
    parameters = added_parameters(extended, full)(model, None)
    rows = np.sort(model.validation_indices)
    counts, mean = full[rows, extended.head.genes].X.toarray(), parameters["mean"][rows]
    log_own = np.log(parameters["theta"][0])
    grid = np.arange(-3, 8, 0.02)
    theta = np.exp(grid)[:, None, None]
    law = stats.nbinom.logpmf(counts, theta, theta / (theta + mean)).sum(axis=1)
    # The prior's centre is the own theta, shifted by what all genes have in common.
    shifts = np.round(np.arange(-60, 61) * 0.05, 2)
    at = [
        sum(np.interp(own + shift, grid, curve) for own, curve in zip(log_own, law.T, strict=True))
        for shift in shifts
    ]
    shift = shifts[np.argmax(at - 0.5 * shifts**2)]
    best = grid[np.argmax(law - 0.5 * (grid[:, None] - log_own - shift) ** 2, axis=0)]
    assert_allclose(np.log(fit.added.genes["theta_refitted"]), best, atol=0.08)
    assert_allclose(fit.added.genes["theta"], np.exp(log_own), rtol=1e-6)


def test_held_out_cells_are_known_by_name_where_data_stayed_on_disk(extended, full, fit, tmp_path):
    order = np.random.default_rng(3).permutation(full.n_obs)
    full[order].copy().write_h5ad(tmp_path / "shuffled.h5ad")
    without = replace(extended, adata=None)
    found = sb.calibration(without, tmp_path / "shuffled.h5ad", n_references=5, **QUIET)
    assert found.settings["cells"] == fit.settings["cells"]
    for ours, theirs in ((found, fit), (found.added, fit.added)):
        assert_array_equal(ours.batches["n_cells"], theirs.batches["n_cells"])
        assert_allclose(ours.genes["mean"], theirs.genes["mean"], rtol=1e-6)
        assert_allclose(ours.genes["variance"], theirs.genes["variance"], rtol=1e-3)


def drawn_from(extended, full, rows, seed, factor=1.0):
    """New cells of the extended model, by scvi-tools and numpy; theta of added genes changed."""
    model, rng = extended.model, np.random.default_rng(seed)
    module, head = model.module.eval(), extended.head
    torch.manual_seed(seed)
    loader = model._make_data_loader(model.adata, indices=rows, batch_size=len(rows))
    tensors, caught = next(iter(loader)), []
    handle = trunk_of(model).register_forward_hook(lambda _, __, h: caught.append(h))
    with torch.inference_mode():
        encoded = module.inference(**module._get_inference_input(tensors))
        made = module.generative(**module._get_generative_input(tensors, encoded))
        own = made["px"].sample().numpy()
    handle.remove()
    h = np.clip((caught[-1].double().numpy() - head.location) / head.scale, -10, 10)
    codes = full.obs["batch"].cat.codes.to_numpy()[rows]
    rate = np.exp(np.minimum(h @ head.weights + head.intercept + head.batch[codes], 0))
    mean = full.X[rows].toarray().sum(axis=1)[:, None] * rate
    theta = factor * np.exp(head.log_theta[0].astype(float))
    added = rng.poisson(rng.gamma(theta, mean / theta))
    new = ad.AnnData(
        sp.csr_matrix(np.concatenate([own, added], axis=1).astype(np.float32)),
        obs=full.obs.iloc[rows].copy(),
        var=pd.DataFrame(index=extended.genes),
    )
    new.obs_names = [f"new_{seed}_{name}" for name in new.obs_names]
    return new


def test_data_of_the_extended_model_are_not_flagged_but_another_theta_is(extended, full):
    flagged = 0
    for seed in range(8):
        rows = np.sort(np.random.default_rng(seed).choice(full.n_obs, 150, replace=False))
        new = drawn_from(extended, full, rows, seed)
        added = sb.calibration(extended, new, n_references=10, seed=seed, **QUIET).added
        flagged += added.batches["flagged"].any() or added.overall["flagged"]
    assert flagged <= 1
    new = drawn_from(extended, full, np.arange(0, 600, 2), 0, factor=0.25)
    found = sb.calibration(extended, new, n_references=10, **QUIET)
    assert found.added.batches["flagged"].all()
    assert "vary more than the model predicts" in found.added.batches["verdict"].iloc[0]
    assert isinstance(found.added.theta, pd.Series)
    ratio = np.log(found.added.theta / found.added.genes["theta"]).median()
    assert -1.8 < ratio < -0.9
    # What the own genes are told of has nothing to do with it.
    assert not found.batches["flagged"].any()


@pytest.mark.parametrize("kind", ["poisson", "gene-batch", "latent library"])
def test_kinds_of_models(full, train, kind):
    given = {
        "poisson": {"gene_likelihood": "poisson"},
        "gene-batch": {"gene_likelihood": "zinb", "dispersion": "gene-batch"},
        "latent library": {"use_observed_lib_size": False},
    }[kind]
    model = train(full[:, :N_OWN].copy(), labels_key=None, max_epochs=5, **given)
    extended = sb.extend_genes(model, full, max_epochs=5, ridge=0.1, **QUIET)
    found = sb.calibration(extended, n_references=5, **QUIET)
    alone = sb.calibration(model, n_references=5, **QUIET)
    pd.testing.assert_frame_equal(found.batches, alone.batches)
    parameters = added_parameters(extended, full)(model, None)
    if kind == "poisson":
        assert found.added.theta is None
        assert "no theta" in found.added.advice
        law = stats.poisson(parameters["mean"])
    else:
        theta = parameters["theta"]
        law = stats.nbinom(theta, theta / (theta + parameters["mean"]))
    seed = int(np.random.SeedSequence(0).generate_state(11)[0])
    genes = list(extended.head.genes)
    _, v = oracle.uniforms(full.obs_names, genes, seed)
    counts = full[:, genes].X.toarray()
    u = law.cdf(counts - 1) + v * law.pmf(counts)
    scores = stats.norm.ppf(np.clip(u, 2.0**-53, 1 - 2.0**-53))
    rows = np.isin(np.arange(full.n_obs), model.validation_indices)
    rows &= (full.obs["batch"] == "V2").to_numpy()
    table = found.added.genes_by_batch.set_index(["batch", "gene"]).loc["V2"].loc[genes]
    assert_allclose(table["variance"], scores[rows].var(axis=0), rtol=5e-3)


# -- theta of added genes ------------------------------------------------------------------------


def all_theta(extended, by_batch, seed=0):
    """Another theta for each gene (by batch), in another order of genes and batches."""
    rng = np.random.default_rng(seed)
    columns = ["V3", "V1", "V2"] if by_batch else ["theta"]
    values = np.exp(rng.normal(1, 0.7, (len(extended.genes), len(columns))))
    table = pd.DataFrame(values, index=extended.genes, columns=columns)
    table = table.iloc[rng.permutation(len(table))]
    return table if by_batch else table["theta"]


def with_theta(extended, theta):
    """The same extension with these theta for its own."""
    values = theta.loc[list(extended.head.genes)].to_numpy().T
    if isinstance(theta, pd.DataFrame):
        values = theta.loc[list(extended.head.genes), BATCHES].to_numpy().T
    return replace(extended, head=replace(extended.head, log_theta=np.log(np.atleast_2d(values))))


GIVEN = {"transform_batch": "V3", "library_size": "observed", "effect": "global", **QUIET}


@pytest.mark.parametrize("by_batch", [False, True])
def test_a_table_with_added_genes_applies_to_them(extended, model, full, by_batch):
    theta = all_theta(extended, by_batch)
    ours = sb.corrected_counts(extended, dispersion=theta, **GIVEN)
    own = theta.loc[model.adata.var_names]
    alone = sb.corrected_counts(model, dispersion=own, **GIVEN)
    assert_array_equal(ours.X[:, :N_OWN].toarray(), alone.X.toarray())
    # As if they had been fitted so; and those counts are a second implementation's.
    refitted = with_theta(extended, theta)
    as_fitted = sb.corrected_counts(refitted, **GIVEN)
    assert_array_equal(ours.X[:, N_OWN:].toarray(), as_fitted.X[:, N_OWN:].toarray())
    check_added_counts(refitted, full, "global")
    plain = sb.corrected_counts(extended, **GIVEN)
    assert (plain.X[:, N_OWN:] != ours.X[:, N_OWN:]).nnz > 0
    made = ours.uns["scvibridge"]
    assert made["theta_added_from"] == made["theta_from"] == "given"
    assert made["theta_added_by"] == ("gene-batch" if by_batch else "gene")
    assert made["theta_digest"] == alone.uns["scvibridge"]["theta_digest"]


def test_genes_that_a_table_does_not_name_keep_their_theta(extended):
    theta = all_theta(extended, by_batch=True)
    some = theta.loc[list(extended.genes[:N_OWN]) + list(extended.head.genes[:10])]
    ours = sb.corrected_counts(extended, dispersion=some, **GIVEN)
    whole = sb.corrected_counts(extended, dispersion=theta, **GIVEN).X.toarray()
    plain = sb.corrected_counts(extended, **GIVEN)
    assert_array_equal(ours.X[:, : N_OWN + 10].toarray(), whole[:, : N_OWN + 10])
    assert_array_equal(ours.X[:, N_OWN + 10 :].toarray(), plain.X[:, N_OWN + 10 :].toarray())
    # A table of added genes alone leaves the own ones as they are.
    alone = sb.corrected_counts(extended, dispersion=theta.loc[extended.head.genes], **GIVEN)
    assert_array_equal(alone.X[:, :N_OWN].toarray(), plain.X[:, :N_OWN].toarray())
    assert_array_equal(alone.X[:, N_OWN:].toarray(), whole[:, N_OWN:])
    assert alone.uns["scvibridge"]["theta_from"] == "the model"
    assert alone.uns["scvibridge"]["theta_added_from"] == "given"


def test_wrong_theta_of_added_genes_is_refused(extended):
    theta = all_theta(extended, by_batch=False)
    theta[extended.head.genes[3]] = -1.0
    with pytest.raises(ValueError, match=rf"positive and finite; .*{extended.head.genes[3]}"):
        sb.corrected_counts(extended, dispersion=theta, **GIVEN)


def test_a_calibration_gives_each_part_what_it_advises(extended, fit):
    own = pd.Series(3.0, index=fit.genes.index)
    added = pd.DataFrame(2.0, index=fit.added.genes.index, columns=BATCHES)
    both = replace(fit, theta=own, added=replace(fit.added, theta=added))
    ours = sb.corrected_counts(extended, dispersion=both, **GIVEN)
    first = sb.corrected_counts(extended, dispersion=own, **GIVEN)
    second = sb.corrected_counts(extended, dispersion=added, **GIVEN)
    assert_array_equal(ours.X[:, :N_OWN].toarray(), first.X[:, :N_OWN].toarray())
    assert_array_equal(ours.X[:, N_OWN:].toarray(), second.X[:, N_OWN:].toarray())
    assert ours.uns["scvibridge"]["theta_by"] == "gene"
    assert ours.uns["scvibridge"]["theta_added_by"] == "gene-batch"
    keeps = replace(fit, theta=None, added=replace(fit.added, theta=None))
    kept = sb.corrected_counts(extended, dispersion=keeps, **GIVEN)
    assert (kept.X != sb.corrected_counts(extended, **GIVEN).X).nnz == 0
    assert "theta_added_from" not in kept.uns["scvibridge"]


def test_the_command_writes_theta_of_both_and_takes_it(extended, full, tmp_path, capsys):
    wrong = replace(extended.head, log_theta=extended.head.log_theta - np.float32(2))
    changed = replace(extended, head=wrong)
    changed.save(tmp_path / "extended")
    full.write_h5ad(tmp_path / "all.h5ad")
    files = [str(tmp_path / "extended"), "--adata", str(tmp_path / "all.h5ad"), "--device", "cpu"]
    theta, out = str(tmp_path / "theta.csv"), str(tmp_path / "counts.h5ad")
    assert main.main(["calibration", *files, "--n-references", "5", "--theta", theta]) == 0
    assert "added genes (50):" in capsys.readouterr().err
    found = sb.calibration(changed, n_references=5, **QUIET)
    written = read_dispersion(theta).loc[list(extended.head.genes)]
    assert_allclose(written, found.added.theta.to_frame(), rtol=1e-6)
    arguments = ["--transform-batch", "V3", "--dispersion", theta, "--out", out, "--quiet"]
    assert main.main(["correct", *files, *arguments, "--library-size", "observed"]) == 0
    expected = sb.corrected_counts(changed, dispersion=found, **GIVEN)
    assert (ad.read_h5ad(out).X != expected.X).nnz == 0


# -- damage and the report -----------------------------------------------------------------------


def test_damage_is_that_of_the_model_that_was_extended(extended, model, full):
    given = {"max_epochs": 2, "progress": False, "device": "cpu"}
    ours = sb.damage(full, "batch", model=extended, **given)
    alone = sb.damage(full, "batch", model=model, **given)
    pd.testing.assert_frame_equal(ours, alone)
    assert ours.attrs["n_genes"] == N_OWN
    assert "its 50 added genes are not assessed" in ours.attrs["note"]
    assert "note" not in alone.attrs


@pytest.fixture(scope="module")
def result(extended):
    return sb.corrected_counts(
        extended, transform_batch="V3", labels_key="cell_type", normalized=True, **QUIET
    )


def text_of(path):
    """The text of a page, its figures as they stand in its tables."""
    parts = re.sub(r"<style>.*?</style>|<[^>]+>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(parts).split())


def test_the_report_tells_of_added_genes(extended, result, fit, tmp_path):
    pytest.importorskip("jinja2", reason="needs jinja2")
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    quality = extended.quality
    made = result.uns["scvibridge"]["extension"]
    assert made["n_no_gain"] == (quality["flag"] == "no gain").sum()
    assert made["median_explained"] == quality["explained"].median()
    result.write_h5ad(tmp_path / "result.h5ad")
    path = sb.report(tmp_path / "result.h5ad", model=extended, calibration=fit, progress=False)
    text = text_of(path)
    assert "50 added genes in addition to 60 of the model's own" in text
    assert "ridge 0.1" in text
    assert f"deviance explained: {quality['explained'].median():.3f}" in text
    for flag, genes in quality.groupby("flag"):
        figures = [f"{genes[name].median():.3f}" for name in ("explained", "theta")]
        assert " ".join([flag or "none: reliable", str(len(genes)), *figures]) in text
    flagged = (quality["flag"] != "").sum()
    assert f"50 genes of these were added to the model after its training; for {flagged}" in text
    own = replace(fit, added=None)
    assert text.count(" ".join(own.summary().split())) == 1
    assert text.count(" ".join(fit.added.summary().split())) == 1
    judged = fit.added.batches.dropna(subset="variance")
    assert len(judged)
    for batch, row in judged.iterrows():
        assert f"{batch} {row['n_cells']} {row['ks_rejection']:.3g}" in text


def test_a_report_of_genes_without_a_theta(full, train, tmp_path):
    pytest.importorskip("jinja2", reason="needs jinja2")
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    poisson = train(full[:, :N_OWN].copy(), max_epochs=3, gene_likelihood="poisson")
    extended = sb.extend_genes(poisson, full, max_epochs=3, ridge=0.1, **QUIET)
    assert "theta" not in extended.quality
    made = sb.corrected_counts(extended, transform_batch="V3", labels_key="cell_type", **QUIET)
    text = text_of(sb.report(made, tmp_path / "report.html", progress=False))
    for flag, genes in extended.quality.groupby("flag"):
        explained, seen = genes["explained"].median(), genes["detection_rate"].median()
        row = f"{flag or 'none: reliable'} {len(genes)} {explained:.3f} \N{EN DASH} {seen:.3f}"
        assert row in text


def test_the_report_says_what_it_lacks(result, fit, tmp_path):
    pytest.importorskip("jinja2", reason="needs jinja2")
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    few = result[:60].copy()
    without = text_of(sb.report(few, tmp_path / "a.html", progress=False))
    assert "The fit of the added genes was not checked" in without
    flagged = replace(fit, added=replace(fit.added, batches=fit.added.batches.assign(flagged=True)))
    page = sb.report(few, tmp_path / "b.html", calibration=flagged, progress=False)
    assert "The fit of the added genes departs substantially from the held-out cells of" in text_of(
        page
    )
    own = few[:, :N_OWN].copy()
    assert "Added genes" not in text_of(sb.report(own, tmp_path / "c.html", progress=False))
