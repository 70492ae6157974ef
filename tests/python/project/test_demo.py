"""The demo: its cells, its measures, and the whole of it in few epochs."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp
from matplotlib import image
from preloaded import run_code

from examples.demo import __main__ as demo
from examples.demo import cells as demo_cells
from examples.demo.measures import cell_correlation, slope, typical_fold_error
from scvibridge.diagnostics.report import measures


@pytest.fixture(scope="module")
def bundled():
    return demo_cells.bundled_cells(seed=0)


# ---- cells -----------------------------------------------------------------------------------


def test_counts_of_scanpys_cells_are_recovered(bundled):
    counts = bundled.true_counts
    assert counts.shape == (700, 765)
    assert (counts.data == np.round(counts.data)).all()
    # Their logs, as scanpy holds them: to three decimals.
    original = scanpy.datasets.pbmc68k_reduced()
    share = counts.multiply(1e4 / original.obs["n_counts"].to_numpy()[:, None])
    np.testing.assert_allclose(share.log1p().toarray(), original.raw.X.toarray(), atol=2e-3)


def test_known_batch_effect_is_binomial_thinning(bundled):
    counts, truth = bundled.adata.X, bundled.true_counts
    rows = bundled.in_target
    assert rows.sum() == 350
    assert (counts[rows] != truth[rows]).nnz == 0
    totals = measures.gene_totals(truth[~rows])
    kept = np.exp(bundled.log_kept)
    deviation = measures.gene_totals(counts[~rows]) - totals * kept
    z = (deviation / np.sqrt(totals * kept * (1 - kept)))[totals > 20]
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert 0.85 < z.std() < 1.15
    assert kept.min() >= demo_cells.LOWEST_KEPT
    assert kept.max() <= 1


def test_user_cells_are_checked_and_cut_down(simulated, tmp_path, monkeypatch):
    adata = simulated.copy()
    adata.obs["batch"] = adata.obs["batch"].astype(str).replace("V3", np.nan)
    adata.write_h5ad(tmp_path / "x.h5ad")
    monkeypatch.setattr(demo_cells, "MAX_CELLS", 150)
    monkeypatch.setattr(demo_cells, "MAX_GENES", 80)
    found = demo_cells.cells_of_file(tmp_path / "x.h5ad", "batch", "cell_type")
    assert found.adata.shape == (150, 80)
    assert found.target == found.adata.obs["batch"].value_counts().index[0]
    assert set(found.adata.obs["batch"]) == {"V1", "V2"}
    assert set(found.markers) <= set(found.adata.var_names)
    kept = adata[found.adata.obs_names, found.adata.var_names].X
    assert (kept != found.adata.X).nnz == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-key", "bacth", "--labels-key", "cell_type"], "did you mean 'batch'"),
        (["--batch-key", "batch", "--labels-key", "type"], "--labels-key 'type' is not a column"),
        (["--batch-key", "batch"], "--data needs --batch-key and --labels-key"),
        (["--batch-key", "one", "--labels-key", "cell_type"], "fewer than two batches"),
        (["--batch-key", "batch", "--labels-key", "cell_type", "--transform-batch", "V4"], "'V4'"),
        (["--batch-key", "batch", "--labels-key", "cell_type", "--epochs", "0"], "at least 1"),
    ],
)
def test_bad_options_are_refused(simulated, tmp_path, capsys, arguments, message):
    adata = simulated.copy()
    adata.obs["one"] = "only"
    adata.write_h5ad(tmp_path / "x.h5ad")
    options = ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "x.h5ad"), *arguments]
    assert demo.main(options) == 2
    assert message in capsys.readouterr().err


def test_logged_counts_are_refused(simulated, tmp_path, capsys):
    adata = simulated.copy()
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "x.h5ad")
    keys = ["--batch-key", "batch", "--labels-key", "cell_type"]
    options = ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "x.h5ad"), *keys]
    assert demo.main(options) == 2
    assert "not whole numbers" in capsys.readouterr().err


# ---- measures --------------------------------------------------------------------------------


def test_slope_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=50), rng.uniform(0.1, 3, 50)
    y = 0.4 * x + rng.normal(size=50)
    expected = np.polyfit(x, y, 1, w=np.sqrt(weights))[0]
    assert slope(x, y, weights) == pytest.approx(expected)


def test_typical_fold_error_is_the_weighted_median():
    log_ratio = np.log([0.5, 2.0, 1.25, 8.0])
    assert typical_fold_error(log_ratio, np.array([1, 1, 5, 1])) == pytest.approx(1.25)
    assert typical_fold_error(log_ratio, np.array([1, 5, 1, 1])) == pytest.approx(2.0)


def test_cell_correlation_is_pearsons():
    rng = np.random.default_rng(1)
    a, b = rng.poisson(2, (5, 40)), rng.poisson(2, (5, 40))
    expected = np.mean(
        [np.corrcoef(np.log1p(x), np.log1p(y))[0, 1] for x, y in zip(a, b, strict=True)]
    )
    assert cell_correlation(sp.csr_matrix(a), sp.csr_matrix(b)) == pytest.approx(expected)


def test_batch_difference_finds_what_was_put_in(simulate):
    adata = simulate(n_cells=3000, n_genes=60, batches=("V1", "V2"), theta=50.0, mean_total=3000)
    obs = adata.obs
    found = measures.batch_difference(adata.X, obs["batch"], obs["cell_type"], "V1")
    effect = adata.varm["batch_effect"]
    known = effect[:, 1] - effect[:, 0]
    usable = ~np.isnan(found)
    assert usable.sum() > 50
    # Shares of totals: the effect is known but for a constant.
    assert np.std((found - known)[usable]) < 0.1 * np.std(known)


def test_neighbours_of_mixed_and_of_separate_batches():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(400, 5))
    batch = pd.Series(rng.choice(["a", "b"], 400, p=[0.3, 0.7]))
    label = pd.Series(rng.choice(["x", "y"], 400))
    assert measures.same_batch_neighbours(points, batch, label) == pytest.approx(1, abs=0.05)
    apart = points + 50 * (batch == "a").to_numpy()[:, None]
    expected = 1 / (0.3**2 + 0.7**2)
    assert measures.same_batch_neighbours(apart, batch, label) == pytest.approx(expected, rel=0.1)


# ---- the whole of it -------------------------------------------------------------------------


# What `python -m examples.demo` does.
AS_A_MODULE = 'import runpy; runpy.run_module("examples.demo", run_name="__main__", alter_sys=True)'


@pytest.fixture(scope="module")
def finished(tmp_path_factory, run_r):
    """The folder and the output of a demo in fewer epochs; with R where it is there."""
    options = ["--epochs", "60"]
    try:
        run_r("", needs=("scvibridge", "Seurat", "SingleCellExperiment", "DESeq2", "hdf5r"))
    except pytest.skip.Exception:
        options.append("--no-r")
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = run_code(AS_A_MODULE, "--out", folder, *options, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def before_and_after(output: str, start: str) -> tuple[float, float]:
    line = next(line for line in output.splitlines() if line.strip().startswith(start))
    before, after = map(float, re.findall(r"-?\d+\.\d\d", line)[-2:])
    return before, after


def test_known_batch_effect_is_gone(finished):
    _, output = finished
    before, after = before_and_after(output, "slope of a gene's seen effect")
    assert before == pytest.approx(1, abs=0.05)
    assert abs(after) < 0.15
    before, after = before_and_after(output, "factor by which a gene's total is off")
    assert before > 1.5
    assert after < 1.25
    before, after = before_and_after(output, "neighbours of the same batch")
    assert after < min(before, 1.3)


def test_files_of_the_demo_agree(finished, bundled):
    folder, _ = finished
    counts = ad.read_h5ad(folder / "corrected.h5ad")
    assert (counts.layers["raw_counts"] != bundled.adata.X).nnz == 0
    target = (counts.obs["batch"] == "full").to_numpy()
    assert (counts.layers["raw_counts"] != counts.X)[target].nnz == 0
    ten_x = scanpy.read_10x_h5(folder / "corrected.h5")
    np.testing.assert_array_equal(ten_x.X.toarray(), counts.X.toarray())
    assert counts.layers["normalized"].sum(axis=1) == pytest.approx(np.full(700, 1e4), rel=1e-4)


def one_number_each(pixels):
    """Return the colours of a picture with eight bits per channel as whole numbers."""
    channels = np.round(pixels.astype(float) * 255).astype(np.int64)
    return channels @ 256 ** np.arange(pixels.shape[2])


@pytest.mark.parametrize("name", ["genes.png", "cells.png", "markers.png"])
def test_pictures_show_something(finished, name):
    folder, _ = finished
    pixels = image.imread(folder / name)
    assert min(pixels.shape[:2]) > 400
    assert len(np.unique(one_number_each(pixels))) > 100


def test_r_sees_the_same_counts(finished):
    folder, output = finished
    if not (folder / "sce.rds").exists():
        pytest.skip("needs R with scvibridge, Seurat, DESeq2 and hdf5r")
    differing = re.search(r"differ from the counts that Python wrote: (\d+) of 535,500", output)
    assert int(differing[1]) <= 5
    assert "assays(3): counts corrected normalized" in output
    assert "2 other assays present: corrected, scvi_normalized" in output
    found = re.search(r"(\d+) of 765 genes with an adjusted p-value below 0.05", output)
    assert int(found[1]) > 0
    assert "pseudo-samples, no replicates" in output
