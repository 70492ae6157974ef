"""Each argument of a function is an option of its command, and reaches the function."""

from __future__ import annotations

import inspect

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata.tests.helpers import asarray

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.diagnostics import batch_support

pytestmark = pytest.mark.filterwarnings("ignore:confounding was not checked")

# `client` and results of other functions are objects, which no option can name.
OBJECTS = {"client", "calibration", "damage", "support"}

RENAMED = {"model": "model_dir", "progress": "quiet"}

COMMANDS = {
    "train": ("train_scvi", {"adata": "data", "save": "out"}),
    "choose-batch": ("choose_batch", {}),
    "correct": ("corrected_counts", {}),
    "normalize": ("normalized_expression", {}),
    "denoise": ("denoised_expression", {}),
    "extend": ("extend_genes", {}),
    "support": ("batch_support", {}),
    "report": ("report", {"model": "model"}),
    "calibration": ("calibration", {}),
    "damage": ("damage", {"adata": "data", "model": "model"}),
}

NEEDED = {
    "train": ["x.h5ad", "--out", "model_dir"],
    "extend": ["model_dir", "--adata", "x.h5ad", "--out", "folder"],
    "report": ["x.h5ad"],
    "damage": ["x.h5ad", "--batch-key", "batch"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_argument_is_an_option(command):
    function, renamed = COMMANDS[command]
    needed = NEEDED.get(command, ["model_dir"])
    if command in ("correct", "normalize", "denoise"):
        needed = [*needed, "--out", "x.h5ad"]
    options = vars(main.parser().parse_args([command, *needed]))
    renamed = {**RENAMED, **renamed}
    arguments = set(inspect.signature(getattr(sb, function)).parameters) - OBJECTS
    names = {renamed.get(name, name) for name in arguments}
    assert names - set(options) == {"early_stopping"} & arguments  # train: --no-early-stopping


@pytest.fixture(scope="module")
def named(simulated, tmp_path_factory):
    """Names of cells in a file, in another order than in the data."""
    cells = simulated.obs_names[[40, 3, 111, 250, 8]].tolist()
    path = tmp_path_factory.mktemp("names") / "cells.txt"
    path.write_text("\n".join(cells) + "\n", encoding="utf-8")
    return cells, str(path)


@pytest.mark.parametrize("command", ["correct", "normalize", "denoise"])
def test_only_the_cells_named_are_written(command, model_folder, data_file, named, tmp_path):
    cells, path = named
    out = str(tmp_path / "x.h5ad")
    target = [] if command == "denoise" else ["--transform-batch", "V3"]
    files = [str(model_folder), "--adata", str(data_file)]
    arguments = [command, *files, *target, "--indices", path, "--out", out, "--quiet"]
    assert main.main(arguments) == 0
    function = getattr(sb, COMMANDS[command][0])
    where = {} if command == "denoise" else {"transform_batch": "V3"}
    model = sb.load(model_folder, adata=data_file)
    expected = function(model, **where, progress=False)[cells].copy()
    written = ad.read_h5ad(out)
    assert written.obs_names.tolist() == cells
    written, expected = (asarray(table.X) for table in (written, expected))
    np.testing.assert_allclose(written, expected, rtol=1e-5)


def test_only_the_cells_named_are_checked(model_folder, data_file, named, tmp_path):
    cells, path = named
    files = [str(model_folder), "--adata", str(data_file), "--transform-batch", "V3"]
    out = str(tmp_path / "x.csv")
    assert main.main(["support", *files, "--indices", path, "--out", out, "--quiet"]) == 0
    written = pd.read_csv(out).set_index("batch")["n_cells"]
    batches = ad.read_h5ad(data_file)[cells].obs["batch"].astype(str)
    assert written.to_dict() == batches[batches != "V3"].value_counts().to_dict()


CAPTURED = {
    "support": (
        ["--transform-covariates", "donor=D1", "donor=D2", "--batch-size", "7"],
        {"transform_covariates": {"donor": ["D1", "D2"]}, "transform_batch": None, "batch_size": 7},
    ),
    "calibration": (["--max-cells", "9", "--batch-size", "7"], {"max_cells": 9, "batch_size": 7}),
    "damage": (["--batch-key", "batch", "--library-size", "400"], {"library_size": 400.0}),
}


class ReachedError(Exception):
    """The function was called."""


@pytest.mark.parametrize("command", CAPTURED)
def test_options_reach_the_function(command, model_folder, data_file, monkeypatch):
    given = []

    def function(*_, **arguments):
        given.append(arguments)
        raise ReachedError

    if command == "support":
        monkeypatch.setattr(batch_support, "batch_support", function)
    else:
        monkeypatch.setattr(sb, command, function)
    files = (
        [str(data_file)] if command == "damage" else [str(model_folder), "--adata", str(data_file)]
    )
    options, expected = CAPTURED[command]
    assert main.main([command, *files, *options, "--quiet"]) == 1
    assert {name: given[0][name] for name in expected} == expected


def test_support_needs_a_target(model_folder, data_file, capsys):
    files = [str(model_folder), "--adata", str(data_file)]
    assert main.main(["support", *files]) == 2
    assert "name the target: --transform-batch or --transform-covariates" in capsys.readouterr().err


def test_a_file_of_cells_is_no_output(model_folder, data_file, tmp_path, capsys):
    cells = tmp_path / "cells.csv"
    cells.write_text("x\n", encoding="utf-8")
    files = [str(model_folder), "--adata", str(data_file), "--transform-batch", "V3"]
    outputs = ["--indices", str(cells), "--out", str(cells), "--overwrite"]
    assert main.main(["support", *files, *outputs]) == 2
    assert "is a file that is being read" in capsys.readouterr().err
    assert cells.read_text(encoding="utf-8") == "x\n"
