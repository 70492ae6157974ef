"""The sections of a report: figures against independent computations, odd results, the model."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from families import UNLABELLED, make
from report_page import Page, quietly
from scipy import stats
from scipy.spatial.distance import cdist

import scvibridge as sb
from scvibridge.diagnostics.report import depth_section, evidence, figures, markers, measures
from scvibridge.diagnostics.report.reading import MISSING, choose_cells, open_result
from scvibridge.diagnostics.report.tallies import shuffle_within, tally
from scvibridge.likelihood.cpu.philox import hash_names

pytest.importorskip("jinja2", reason="needs jinja2")
pytest.importorskip("matplotlib", reason="needs matplotlib")

pytestmark = pytest.mark.usefixtures("known_layouts")


# ---- figures ---------------------------------------------------------------------------------


def test_share_of_changed_counts_is_on_the_page(written, dense):
    raw, corrected, others = dense
    seen = (raw > 0) | (corrected > 0)
    share = (raw != corrected)[others][seen[others]].mean()
    moved = np.abs(raw - corrected)[others].sum() / raw[others].sum()
    assert f"{share:.1%}".replace("%", " %") in written.text
    assert f"{moved:.1%}".replace("%", " %") in written.text
    assert "Of the nonzero entries of the target's own cells, none changed" in written.text


def test_tallies_of_small_blocks_are_those_of_the_whole(result_file, dense, monkeypatch):
    monkeypatch.setattr("scvibridge.models.cell_data.ENTRIES_PER_READ", 1000)
    opened = open_result(result_file)
    found = tally(opened, seed=0, progress=False)
    for counts, cells, sums in zip(dense[:2], found.cells, found.sums, strict=True):
        np.testing.assert_array_equal(cells.totals, counts.sum(axis=1))
        np.testing.assert_array_equal(cells.detected, (counts > 0).sum(axis=1))
        for number, name in enumerate(opened.batch.names):
            rows = (opened.adata.obs["batch"] == name).to_numpy()
            np.testing.assert_array_equal(sums.counts[number].sum(axis=0), counts[rows].sum(axis=0))
            np.testing.assert_array_equal(sums.squares[number], (counts[rows] ** 2).sum(axis=0))
    np.testing.assert_array_equal(found.shuffled.sum(axis=(0, 1)), dense[1].sum(axis=0))


def test_tallies_of_a_file_that_is_stored_by_column_are_the_same(result, tmp_path):
    by_column = result.copy()
    by_column.X = result.X.tocsc()
    by_column.layers["raw_counts"] = result.layers["raw_counts"].tocsc()
    by_column.write_h5ad(tmp_path / "by_column.h5ad")
    found, expected = (
        tally(open_result(some), 0, False) for some in (tmp_path / "by_column.h5ad", result)
    )
    for some, others in zip(found.sums, expected.sums, strict=True):
        np.testing.assert_array_equal(some.counts, others.counts)


def test_mean_and_variance_are_numpys(result, dense):
    opened = open_result(result)
    moments = depth_section._moments(opened, tally(opened, 0, False), 1)
    for name, (mean, variance) in moments.items():
        rows = (result.obs["batch"] == name).to_numpy()
        np.testing.assert_allclose(mean, dense[1][rows].mean(axis=0))
        np.testing.assert_allclose(variance, dense[1][rows].var(axis=0, ddof=1), atol=1e-9)


def test_folds_are_those_of_a_table_of_sums(result, dense):
    opened = open_result(result)
    folds = evidence.batch_folds(opened, tally(opened, 0, False))
    assert set(folds) == {"V1", "V2"}
    obs = result.obs
    for counts, name in ((dense[0], "before"), (dense[1], "after")):
        logs, weights, totals = [], [], []
        for rows in obs.groupby("cell_type", observed=True).indices.values():
            sides = [rows[(obs["batch"].iloc[rows] == b).to_numpy()] for b in ("V1", "V3")]
            sums = [counts[side].sum(axis=0) for side in sides]
            shares = [(s + 0.5) / (s + 0.5).sum() for s in sums]
            logs.append(np.log(shares[0]) - np.log(shares[1]))
            weights.append(min(map(len, sides)))
            totals.append(sums)
        expected = np.array(weights) @ np.array(logs) / sum(weights)
        enough = (np.sum(totals, axis=0) >= 30).all(axis=0)
        found = getattr(folds["V1"], name)
        known = ~np.isnan(found)
        assert known.sum() > 50
        assert not (known & ~enough).any()
        np.testing.assert_allclose(found[known], expected[known])


def test_spread_and_what_is_gone():
    folds = evidence.Folds(
        np.log(2) * np.array([2.0, -2.0, np.nan]),
        np.log(2) * np.array([1.0, -1.0, np.nan]),
        np.log(2) * np.array([0.5, 0.5, np.nan]),
    )
    found = evidence.spread(folds)
    assert (found.before, found.after, found.chance) == pytest.approx((2, 1, 0.5))
    assert found.n_genes == 2
    assert found.gone == pytest.approx(1 - (1 - 0.25) / (4 - 0.25))
    assert found.left == pytest.approx(np.sqrt((1 - 0.25) / (4 - 0.25)))
    assert found.slope == pytest.approx((2 - 0.25) / (4 - 0.25))
    nothing = evidence.Spread(before=0.1, after=0.1, chance=0.1, n_genes=5)
    assert np.isnan([nothing.gone, nothing.left, nothing.slope]).all()


def test_batches_are_shuffled_within_types():
    rng = np.random.default_rng(0)
    batch, types = rng.integers(3, size=500), rng.integers(4, size=500)
    hashes = hash_names(f"cell_{number}" for number in range(500))
    shuffled, other = (shuffle_within(batch, types, hashes, seed) for seed in (1, 2))
    before, after = (np.histogram2d(b, types, bins=(3, 4))[0] for b in (batch, shuffled))
    np.testing.assert_array_equal(before, after)
    for some, others in ((batch, shuffled), (batch, other), (shuffled, other)):
        assert 0.25 < (some == others).mean() < 0.42  # a third, with an SE of .02


def test_figures_do_not_depend_on_the_order_of_the_cells(result):
    """Those of the counts, of chance, and of the layouts' measures, to rounding."""
    order = np.random.default_rng(3).permutation(result.n_obs)
    found = []
    for cells in (result, result[order].copy()):
        opened = open_result(cells)
        tallies = tally(opened, 5, False)
        spread = evidence.spread(evidence.pooled(evidence.batch_folds(opened, tallies)))
        measured = evidence.lay_out(opened, 5)
        found.append((tallies.shuffled, spread, [*measured.mixing, *measured.silhouette]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    np.testing.assert_allclose(found[0][2], found[1][2], rtol=1e-6)


def mixing_by_brute_force(counts, batch, label, k=15):
    """From a full SVD and all distances; k neighbours within each type."""
    totals = counts.sum(axis=1, keepdims=True)
    logged = np.log1p(counts * np.median(totals) / totals)
    u, s, _ = np.linalg.svd(logged - logged.mean(axis=0), full_matrices=False)
    points = (u * s)[:, :20]
    observed = expected = 0.0
    for kind in np.unique(label):
        rows = label == kind
        distances = cdist(points[rows], points[rows])
        np.fill_diagonal(distances, np.inf)
        nearest = np.argsort(distances, axis=1)[:, :k]
        own = batch[rows]
        observed += (own[nearest] == own[:, None]).mean() * len(own)
        expected += sum((own == b).sum() * ((own == b).sum() - 1) for b in np.unique(own)) / (
            len(own) - 1
        )
    return observed / expected


def test_mixing_and_silhouette_are_on_the_page(written, result, dense):
    batch, label = (result.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type"))
    mixing = [mixing_by_brute_force(counts, batch, label) for counts in dense[:2]]
    assert f"{mixing[0]:.2f} → {mixing[1]:.2f}" in written.text
    points = measures.principal_components(result.X)
    # The definition: (b - a) / max(a, b), a within the own type, b to the nearest other one.
    distances, values = cdist(points, points), []
    for i, kind in enumerate(label):
        own = (label == kind) & (np.arange(len(label)) != i)
        a = distances[i, own].mean()
        b = min(distances[i, label == other].mean() for other in set(label) - {kind})
        values.append((b - a) / max(a, b))
    assert measures.silhouette_of_types(points, pd.Series(label)) == pytest.approx(np.mean(values))
    assert f"→ {np.mean(values):.2f}" in written.text


def test_markers_are_those_of_welch(result):
    label = result.obs["cell_type"].astype(str).reset_index(drop=True)
    found = markers.top_markers(result.X, label, per_type=2)
    assert found.types == list(label.value_counts().index)
    logged = measures.log_normalised(result.X).toarray()
    expected = []
    for kind in found.types:
        rows = (label == kind).to_numpy()
        t = stats.ttest_ind(logged[rows], logged[~rows], equal_var=False).statistic
        surest = np.argsort(-t)[:20]
        differences = logged[rows].mean(axis=0) - logged[~rows].mean(axis=0)
        expected.extend(surest[np.argsort(-differences[surest])][:2])
    assert list(found.genes) == list(dict.fromkeys(expected))


def test_binned_medians_of_poisson_genes_lie_at_one():
    rng = np.random.default_rng(4)
    counts = rng.poisson(np.exp(rng.uniform(-2, 3, 400)), (3000, 400))
    x, y = figures.binned_medians(counts.mean(axis=0), counts.var(axis=0, ddof=1))
    assert len(x) > 5
    assert (np.diff(x) > 0).all()
    np.testing.assert_allclose(y, 1, atol=0.05)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_cells_that_are_the_same_have_the_same_principal_components(value):
    found = measures.principal_components(sp.csr_matrix(np.full((12, 8), value)))
    assert found.shape == (12, 7)
    assert not found.any()


def test_choice_of_cells_does_not_depend_on_their_order():
    names = pd.Index([f"cell_{i}" for i in range(500)])
    order = np.random.default_rng(0).permutation(500)
    chosen = set(names[choose_cells(names, 60)])
    assert len(chosen) == 60
    assert set(names[order][choose_cells(names[order], 60)]) == chosen


# ---- odd results -----------------------------------------------------------------------------


def few(model, n=60, **settings):
    return quietly(model, indices=np.arange(n), transform_batch="V3", **settings)


def missing_labels(model):
    made = few(model, labels_key="cell_type")
    labels = made.obs["cell_type"].astype(object)
    labels.iloc[:20] = np.nan
    made.obs["cell_type"] = pd.Categorical(labels)
    return made


def one_batch(model):
    made = quietly(model, transform_batch="V3", labels_key="cell_type")
    return made[made.obs["batch"] == "V3"][:80].copy()


def without_latent_or_flags(model):
    made = few(model)
    del made.obsm["X_scvi"]
    kept = [c for c in made.obs if not c.startswith("scvibridge_")]
    return ad.AnnData(made.X, made.obs[kept], made.var[[]], made.uns, layers=made.layers)


def masked(model):
    made = few(model, labels_key="cell_type")
    supported = np.arange(made.n_obs) % 3 > 0
    made.obs["scvibridge_supported"] = supported
    made.uns["scvibridge"]["unsupported"] = "mask"
    made.X = sp.csr_matrix(made.X.toarray() * supported[:, None])
    return made


def without_raw_counts(model):
    """Genes without counts in these cells, of which the correction invents some."""
    cells = model.adata[:60].copy()
    counts = cells.X.toarray()
    counts[:, :6] = 0
    cells.X = sp.csr_matrix(counts)
    cells.obs_names = [f"other_{name}" for name in cells.obs_names]
    names = list(cells.var_names[:6])
    made = quietly(model, cells, transform_batch="V3", gene_list=names, labels_key="cell_type")
    assert made.X.nnz > 0
    return made


ODD = {
    "no labels": (few, "No cell types are shown"),
    "one batch": (one_batch, "There is a single batch"),
    "a sample": (lambda m: few(m, method="sample"), "A simulation by the model"),
    "several targets": (
        lambda m: quietly(m, indices=np.arange(60), transform_batch=["V2", "V3"]),
        "“V2”, “V3”",
    ),
    "ten cells": (lambda m: few(m, n=10, labels_key="cell_type"), "10 cells"),
    "three cells": (lambda m: few(m, n=3), "Not shown: there are fewer than 5 cells"),
    "two genes": (lambda m: few(m, gene_list=["gene_0007", "gene_0003"]), "2 genes"),
    "no raw counts": (without_raw_counts, "6 genes"),
    "missing labels": (missing_labels, "(missing)"),
    "bare": (without_latent_or_flags, "The support of the cells in the target batch is unknown"),
    "masked": (masked, "20 cells without support were masked"),
    "cell effect": (lambda m: few(m, effect="cell"), "leaks the condition"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_results_have_a_report(trained_model, tmp_path, kind):
    make, expected = ODD[kind]
    out = sb.report(make(trained_model), tmp_path / "x.html", progress=False)
    parsed = Page(out)
    assert expected in parsed.text
    assert "nan" not in parsed.text.lower().split()
    assert parsed.of("img")


def test_masked_cells_are_left_out_of_comparisons(trained_model):
    made = masked(trained_model)
    opened = open_result(made)
    found = tally(opened, 0, False)
    kept = made.obs["scvibridge_supported"].to_numpy()
    assert found.sizes.sum() == kept.sum()
    assert set(opened.chosen) == set(np.flatnonzero(kept))
    raw, corrected = made.layers["raw_counts"][kept].toarray(), made.X[kept].toarray()
    changed = (raw != corrected).sum() / ((raw > 0) | (corrected > 0)).sum()
    assert evidence.changed_share(found, np.ones(60, dtype=bool)) == pytest.approx(changed)


# ---- the model -------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [False, True])
def test_cells_without_a_label_in_training_are_no_cell_type(simulate, tmp_path, written):
    adata = simulate(n_genes=30)
    labels = adata.obs["cell_type"].astype(str)
    labels[::4] = UNLABELLED
    adata.obs["cell_type"] = labels.astype("category")
    model, _ = make("SCANVI", adata, epochs=1)
    out = tmp_path / "x.h5ad" if written else None
    counts = quietly(model, transform_batch="V1", labels_key="cell_type", out=out)
    opened = open_result(counts if out is None else out)
    assert sorted(opened.labels.names) == [MISSING, "B", "NK", "T"]
    shown = opened.labels.of(np.arange(adata.n_obs))
    assert (shown == labels.replace(UNLABELLED, MISSING).to_numpy()).all()


def test_model_adds_what_the_result_lacks(trained_model, tmp_path):
    made = few(trained_model, n=300, labels_key="cell_type")
    without = Page(sb.report(made, tmp_path / "a.html", progress=False)).text
    assert "There is no normalized expression" in without
    assert "The fit of the model was not checked" in without
    model = sb.report(made, tmp_path / "b.html", model=trained_model, seed=1, progress=False)
    text = Page(model).text
    assert "decoded by the model" in text
    assert "Fit by batch, on held-out cells" in text
    assert "The fit of the model was not checked" not in text


def test_a_model_without_the_cells_of_the_result_is_named(trained_model, simulate, tmp_path):
    other = simulate(n_cells=60, seed=8)
    other.obs_names = [f"other_{name}" for name in other.obs_names]
    made = quietly(trained_model, other, transform_batch="V3", labels_key="cell_type")
    given = {"model": trained_model, "calibration": False, "progress": False}
    text = Page(sb.report(made, tmp_path / "a.html", **given)).text
    assert "The normalized expression cannot be computed from the model: indices contains" in text
    assert "Colour: mean of log-normalised corrected counts" in text
    text = Page(sb.report(made, tmp_path / "b.html", adata=other, **given)).text
    assert "decoded by the model" in text
    made.obs = made.obs.drop(columns=["scvibridge_support", "scvibridge_supported"])
    text = Page(sb.report(made, tmp_path / "c.html", **given)).text
    assert "The support cannot be computed from the model: the model's data have none" in text


def test_model_tells_the_support_that_the_result_does_not_carry(trained_model, result, tmp_path):
    made = result.copy()
    groups = made.obs.groupby(["cell_type", "batch"], observed=True)
    sizes, shares = groups.size(), 1 - groups["scvibridge_supported"].mean()
    made.obs = made.obs.drop(columns=["scvibridge_support", "scvibridge_supported"])
    asked = sb.report(
        made, tmp_path / "x.html", model=trained_model, calibration=False, progress=False
    )
    text = Page(asked).text
    for group, share in shares.items():
        assert f"{sizes[group]} ({share:.0%})" in text
    assert "Target 'V3': " in text
    everything = quietly(trained_model, indices=np.arange(40), transform_batch=["V1", "V2", "V3"])
    told = sb.report(
        everything, tmp_path / "y.html", model=trained_model, calibration=False, progress=False
    )
    assert "all batches are targets" in Page(told).text
