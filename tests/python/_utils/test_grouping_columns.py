"""Columns of numbers or of names are refused where groups of cells are asked for."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge._utils import arguments
from scvibridge.cli import main

QUIET = {"progress": False}
MEASURED = "is a column of numbers with .* different values in 240 cells"


@pytest.fixture(scope="module")
def cells(simulated):
    adata = simulated[:240].copy()
    rng = np.random.default_rng(0)
    adata.obs["depth"] = rng.integers(1000, 9000, adata.n_obs)
    adata.obs["percent"] = np.round(rng.random(adata.n_obs) * 100, 1)
    adata.obs["barcode"] = [f"barcode {i}" for i in range(adata.n_obs)]
    return adata


def coded(values, **kwargs):
    adata = ad.AnnData(obs=pd.DataFrame({"x": pd.Series(values, **kwargs)}))
    adata.obs_names = [f"c{i}" for i in range(adata.n_obs)]
    return arguments.column_codes(adata, "x", "batch_key")


@pytest.mark.parametrize(
    "values",
    [
        np.arange(300) % 20 + 0.5,  # doses
        np.arange(1000) % 150,  # the numbers of 150 donors
        (np.arange(1000) % 30).astype(float),
        [f"clone {i % 60}" for i in range(130)],
    ],
)
def test_groups_are_taken(values):
    codes, names = coded(values)
    assert [names[code] for code in codes] == list(values)


@pytest.mark.parametrize(
    ("values", "n_values"),
    [
        (np.linspace(0, 1, 300), 300),
        (np.arange(1000) % 40 + 0.5, 40),
        (np.arange(5000) % 1200, 1200),
        (np.arange(60) % 30, 30),
    ],
)
def test_measurements_are_no_groups(values, n_values):
    with pytest.raises(
        ValueError, match=rf"batch_key='x' is a column of numbers with {n_values:,}"
    ):
        coded(values)
    # Whoever makes them categories wants them as groups, unless nearly every cell is one.
    if n_values * 2 <= len(values):
        assert len(coded(pd.Categorical(values))[1]) == n_values


def test_names_of_cells_are_no_groups():
    with pytest.raises(ValueError, match="has 90 different values in 100 cells: nearly every cell"):
        coded([f"cell {i % 90}" for i in range(100)])


@pytest.mark.parametrize("key", ["depth", "percent"])
def test_no_training_on_measurements(cells, key, tmp_path):
    with pytest.raises(ValueError, match=f"batch_key='{key}' {MEASURED}"):
        sb.train_scvi(cells, batch_key=key, save=tmp_path / "model", **QUIET)
    with pytest.raises(ValueError, match=f"labels_key='{key}' {MEASURED}"):
        sb.train_scvi(cells, batch_key="batch", labels_key=key, **QUIET)
    with pytest.raises(ValueError, match=f"categorical_covariate_keys='{key}' {MEASURED}"):
        sb.train_scvi(cells, batch_key="batch", categorical_covariate_keys=[key], **QUIET)
    with pytest.raises(ValueError, match="nearly every cell would be a separate group"):
        sb.train_scvi(cells, batch_key="barcode", **QUIET)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("argument", ["labels_key", "condition_key", "sample_key"])
def test_no_correction_by_measurements(trained_model, argument, tmp_path):
    adata = trained_model.adata.copy()
    adata.obs["depth"] = np.random.default_rng(0).integers(1000, 90000, adata.n_obs)
    out = tmp_path / "x.h5ad"
    given = {"transform_batch": "V1", "out": out, argument: "depth", **QUIET}
    with pytest.raises(ValueError, match=f"{argument}='depth' is a column of numbers"):
        sb.corrected_counts(trained_model, adata, **given)
    assert not out.exists()


def test_other_functions_and_the_command_line(trained_model, model_folder, tmp_path, capsys):
    adata = trained_model.adata.copy()
    adata.obs["depth"] = np.random.default_rng(0).integers(1000, 90000, adata.n_obs)
    with pytest.raises(ValueError, match="labels_key='depth' is a column of numbers"):
        sb.batch_support(trained_model, adata, "V1", labels_key="depth", **QUIET)
    with pytest.raises(ValueError, match="condition_key='depth' is a column of numbers"):
        sb.choose_batch(trained_model, adata, condition_key="depth", **QUIET)
    with pytest.raises(ValueError, match="batch_key='depth' is a column of numbers"):
        sb.damage(adata, "depth", **QUIET)
    adata.write_h5ad(tmp_path / "data.h5ad")
    command = ["correct", str(model_folder), "--adata", str(tmp_path / "data.h5ad")]
    command += ["--transform-batch", "V1", "--labels-key", "depth"]
    assert main.main([*command, "--out", str(tmp_path / "x.h5ad")]) == 2
    assert "'depth' is a column of numbers" in capsys.readouterr().err
