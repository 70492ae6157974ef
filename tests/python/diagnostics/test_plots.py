"""``scvibridge.pl``: what the axes hold are the numbers of the results."""

from __future__ import annotations

import re
import sys
import warnings
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scvibridge as sb
from conftest import train_model
from scvibridge.diagnostics.calibration.calibration import Calibration
from scvibridge.diagnostics.gene_effects import gene_effects
from scvibridge.diagnostics.report import measures

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex


@pytest.fixture(scope="module")
def counts(trained_model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sb.corrected_counts(
            trained_model,
            transform_batch="V3",
            labels_key="cell_type",
            condition_key="condition",
            progress=False,
        )


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def folds_by_hand(matrix, obs, batch) -> np.ndarray:
    """Log2 folds of genes over V3 within types, weighted by the smaller group."""
    logs, weights, totals = [], [], np.zeros((2, matrix.shape[1]))
    for kind in sorted(obs["cell_type"].unique()):
        of_type = (obs["cell_type"] == kind).to_numpy()
        sides = [of_type & (obs["batch"] == name).to_numpy() for name in (batch, "V3")]
        sums = [matrix[rows].sum(axis=0) for rows in sides]
        totals += sums
        rates = [(s + 0.5) / (s + 0.5).sum() for s in sums]
        logs.append(np.log2(rates[0] / rates[1]))
        weights.append(min(rows.sum() for rows in sides))
    return np.where((totals < 30).any(axis=0), np.nan, np.average(logs, axis=0, weights=weights))


def test_batch_effect_holds_the_folds_of_each_gene(counts):
    ax = sb.pl.batch_effect(counts)
    raw, corrected = (m.toarray() for m in (counts.layers["raw_counts"], counts.X))
    shown = [np.ma.filled(c.get_offsets(), np.nan) for c in ax.collections]
    shown = [points for points in shown if len(points)]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["V1", "V2"]
    known = []
    for batch in ("V1", "V2"):
        before, after = (folds_by_hand(m, counts.obs, batch) for m in (raw, corrected))
        kept = ~np.isnan(before) & ~np.isnan(after)
        expected = np.column_stack([before, after])[kept]
        known.append(expected)
        assert any(
            len(points[~np.isnan(points).any(axis=1)]) == len(expected)
            and np.allclose(points[~np.isnan(points).any(axis=1)], expected, atol=1e-6)
            for points in shown
        ), batch
    rms = np.sqrt((np.concatenate(known) ** 2).mean(axis=0))
    figures = re.fullmatch(
        r"(\d+) genes: RMS ([\d.]+) before, ([\d.]+) after; left ([\d.]+)", ax.get_title()
    )
    assert int(figures[1]) == sum(len(some) for some in known)
    np.testing.assert_allclose([float(figures[2]), float(figures[3])], rms, atol=0.005)
    assert float(figures[3]) < float(figures[2])


def test_batch_effects_are_also_a_table(counts):
    table = gene_effects(counts).table()
    for batch in ("V1", "V2"):
        found = table[table["batch"] == batch].set_index("gene")
        raw, corrected = (m.toarray() for m in (counts.layers["raw_counts"], counts.X))
        before, after = (
            pd.Series(folds_by_hand(m, counts.obs, batch), counts.var_names)
            for m in (raw, corrected)
        )
        kept = counts.var_names[before.notna() & after.notna()]
        assert set(found.index) == set(kept)
        np.testing.assert_allclose(found["before"], before[found.index], atol=1e-6)
        np.testing.assert_allclose(found["after"], after[found.index], atol=1e-6)
    assert not table["depth_only"].any()
    rms = np.sqrt((table[["before", "after"]] ** 2).mean())
    assert rms["before"] == pytest.approx(table.attrs["before"])
    assert rms["after"] == pytest.approx(table.attrs["after"])


def test_genes_are_marked_in_the_batches_where_only_depth_was_corrected(trained_model):
    data = trained_model.adata.copy()
    seen = data.X.toarray()
    gene = int(seen.sum(axis=0).argmax())
    own = np.flatnonzero(data.obs["batch"] == "V1")
    seen[own, gene] = 0
    seen[own[:4], gene] = 20
    data.X = sp.csr_matrix(seen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = train_model(data, max_epochs=2)
        found = sb.corrected_counts(model, transform_batch="V3", progress=False)
    table = gene_effects(found).table()
    marked = table[table["depth_only"]]
    assert marked[["gene", "batch"]].to_numpy().tolist() == [[data.var_names[gene], "V1"]]
    assert set(table.loc[table["gene"] == data.var_names[gene], "batch"]) == {"V1", "V2"}
    hollow = [c for c in sb.pl.batch_effect(found).collections if not len(c.get_facecolors())]
    assert sum(len(c.get_offsets()) for c in hollow) == 1


def test_batch_effect_draws_into_given_axes_and_reads_files(counts, tmp_path):
    counts.write_h5ad(tmp_path / "corrected.h5ad")
    figure, ax = plt.subplots()
    assert sb.pl.batch_effect(tmp_path / "corrected.h5ad", ax=ax) is ax
    in_memory = sb.pl.batch_effect(counts)
    assert in_memory.figure is not figure
    for one, other in zip(ax.collections, in_memory.collections, strict=True):
        np.testing.assert_array_equal(one.get_offsets(), other.get_offsets())


def test_support_holds_the_table(trained_model):
    found = sb.batch_support(
        trained_model, transform_batch="V3", labels_key="cell_type", progress=False
    )
    ax = sb.pl.support(found)
    image = ax.images[0].get_array()
    rows, columns = (
        [t.get_text() for t in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels())
    )
    assert ax.get_title() == "cells without support in V3"
    texts = {t.get_position(): t.get_text() for t in ax.texts}
    for record in found.labels.to_dict("records"):
        row, column = rows.index(str(record["label"])), columns.index(str(record["batch"]))
        share, n_cells = texts[(column, row)].split(" of ")
        assert n_cells == f"{record['n_cells']:,}"
        if record["verdict"] == "too few cells to tell":
            assert share == "?"
            assert np.ma.is_masked(image[row, column]) or np.isnan(image[row, column])
        else:
            assert image[row, column] == record["unsupported"]
            assert share == f"{record['unsupported']:.0%}"
    assert len(texts) == len(found.labels)


def test_support_leaves_labels_without_cells_empty(trained_model):
    found = sb.batch_support(
        trained_model, transform_batch="V3", labels_key="cell_type", progress=False
    )
    table = found.labels.copy()
    table.loc[0, ["label", "n_cells", "unsupported"]] = ["$none$", 0, 0.0]
    table.loc[1, ["unsupported", "verdict"]] = [1.0, "not supported"]
    table.loc[1, ["n_cells", "n_target"]] = [50, 0]
    object.__setattr__(found, "labels", table)
    ax = sb.pl.support(found)
    ax.figure.savefig("/dev/null", format="png")
    assert len(ax.texts) == len(table) - 1
    assert "$none$" in [t.get_text() for t in ax.get_yticklabels()]
    assert "100% of 50\nnone in target" in [t.get_text() for t in ax.texts]


@pytest.mark.parametrize("figure", ["variance", "ks_rejection"])
def test_calibration_holds_figures_and_references(trained_model, simulate, figure):
    unseen = simulate(n_cells=150)
    unseen.obs_names = [f"new_{name}" for name in unseen.obs_names]
    found = sb.calibration(trained_model, adata=unseen, n_references=5, progress=False)
    ax = sb.pl.calibration(found, figure=figure)
    table = found.batches
    points = np.ma.filled(ax.collections[0].get_offsets(), np.nan)
    assert np.isfinite(points).all()
    np.testing.assert_allclose(points[:, 0], table[figure].to_numpy(float))
    np.testing.assert_array_equal(points[:, 1], range(len(table)))
    bars = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
    low, high = (table[f"{figure}_reference_{end}"].to_numpy(float) for end in ("low", "high"))
    np.testing.assert_allclose(bars, np.column_stack([low, high]))
    assert [t.get_text() for t in ax.get_yticklabels()] == [str(name) for name in table.index]
    colours = [to_hex(c) for c in ax.collections[0].get_facecolors()]
    named = {"none": "#0072b2", "small": "#e69f00", "large": "#d55e00"}
    assert colours == [named[misfit] for misfit in table["misfit"]]


def test_embedding_shows_each_cell_in_its_colour(counts):
    axes = sb.pl.embedding_before_after(counts, seed=3)
    assert axes.shape == (2, 2)
    titles = [[ax.get_title() for ax in row] for row in axes]
    assert titles == [
        ["raw counts, by batch", "corrected counts, by batch"],
        ["raw counts, by cell type", "corrected counts, by cell type"],
    ]
    for row, key in zip(axes, ("batch", "cell_type"), strict=True):
        legend = row[1].get_legend()
        colour_of = {
            text.get_text(): to_hex(handle.get_color())
            for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
        }
        expected = counts.obs[key].astype(str).map(colour_of).value_counts().to_dict()
        for ax in row:
            drawn = [to_hex(c[:3]) for c in ax.collections[0].get_facecolors()]
            assert {colour: drawn.count(colour) for colour in set(drawn)} == expected
    # Rows show the same places, columns do not.
    places = [[np.asarray(ax.collections[0].get_offsets()) for ax in row] for row in axes]
    np.testing.assert_array_equal(places[0][0], places[1][0])
    np.testing.assert_array_equal(places[0][1], places[1][1])
    assert not np.allclose(places[0][0], places[0][1])
    assert np.isfinite(places[0]).all()


def test_umap_gets_the_principal_components_of_both_counts(counts, monkeypatch):
    given = []

    class Reducer:
        def __init__(self, **settings):
            assert settings == {"n_neighbors": 15, "random_state": 4, "n_jobs": 1}

        def fit_transform(self, components):
            given.append(components)
            return components[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Reducer, __spec__=object()))
    axes = sb.pl.embedding_before_after(counts, layout="umap", seed=4)
    expected = [
        measures.principal_components(matrix, seed=4)
        for matrix in (counts.layers["raw_counts"], counts.X)
    ]
    for ax, components, one in zip(axes[0], given, expected, strict=True):
        np.testing.assert_allclose(components, one)
        drawn = np.asarray(ax.collections[0].get_offsets())
        np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort(components[:, 0]))


def test_embedding_of_a_result_without_labels_has_one_row(counts):
    without = counts.copy()
    without.uns["scvibridge"] = {**counts.uns["scvibridge"], "labels_key": None}
    del without.uns["scvibridge"]["labels_key"]
    figure = plt.figure()
    axes = sb.pl.embedding_before_after(without, figure=figure)
    assert axes.shape == (1, 2)
    assert axes[0, 0].figure is figure


def test_wrong_arguments_are_refused_by_name(counts):
    with pytest.raises(ValueError, match="labels_key"):
        sb.pl.batch_effect(counts, labels_key="celltype")
    with pytest.raises(ValueError, match="no batch besides the target"):
        sb.pl.batch_effect(counts[counts.obs["batch"] == "V3"].copy())
    with pytest.raises(ValueError, match="layout 'pca' is not among 'tsne', 'umap'"):
        sb.pl.embedding_before_after(counts, layout="pca")
    with pytest.raises(ValueError, match="at least 5 cells"):
        sb.pl.embedding_before_after(counts[:4].copy())
    with pytest.raises(TypeError, match=r"scvibridge\.batch_support\(\), got AnnData"):
        sb.pl.support(counts)
    with pytest.raises(TypeError, match=r"scvibridge\.calibration\(\), got AnnData"):
        sb.pl.calibration(counts)


def test_unknown_figure_of_a_calibration_is_refused():
    found = Calibration(*[None] * 7)
    with pytest.raises(ValueError, match="figure 'mean' is not among"):
        sb.pl.calibration(found, figure="mean")


def test_without_matplotlib_the_error_says_what_to_install(counts, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    with pytest.raises(ImportError, match=r"pip install 'scvibridge\[report\]'"):
        sb.pl.batch_effect(counts)
