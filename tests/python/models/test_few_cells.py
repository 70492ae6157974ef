"""Too few cells are refused before a training, with how many are needed."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.models.training.trainer import FEWEST_CELLS, train_like

QUIET = {"progress": False}
TRAINING = {"batch_key": "batch", "n_top_genes": None, "max_epochs": 2, **QUIET}
NEEDED = f"at least {FEWEST_CELLS} cells with counts, .* the data have {{}}"


def few_cells(n_cells, n_genes=30, first=0):
    counts = np.random.default_rng(0).poisson(3, (n_cells, n_genes)).astype("float32")
    names = [f"cell {first + i}" for i in range(n_cells)]
    obs = pd.DataFrame({"batch": (["a", "b"] * n_cells)[:n_cells]}, index=names)
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


@pytest.fixture(scope="module")
def model():
    return sb.train_scvi(few_cells(60, 20), **TRAINING)


@pytest.mark.parametrize("n_cells", [0, 1, 2, 9])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_training(n_cells, early_stopping, tmp_path):
    with pytest.raises(ValueError, match=NEEDED.format(n_cells)):
        sb.train_scvi(
            few_cells(n_cells), early_stopping=early_stopping, save=tmp_path / "m", **TRAINING
        )
    assert not (tmp_path / "m").exists()


def test_empty_cells_do_not_count():
    cells = few_cells(14)
    cells.X[:5] = 0
    with pytest.raises(ValueError, match=NEEDED.format(9)):
        sb.train_scvi(cells, **TRAINING)


def test_as_many_as_are_needed_do():
    model = sb.train_scvi(few_cells(FEWEST_CELLS), **TRAINING)
    assert (len(model.train_indices), len(model.validation_indices)) == (9, 1)
    assert model.is_trained


def test_trainings_of_checks():
    with pytest.raises(ValueError, match=NEEDED.format(7)):
        train_like(few_cells(7), "batch", 1, 0, "cpu", {"n_hidden": 8})
    with pytest.raises(
        ValueError, match="batch 'a' has 30 cells with counts; splitting it needs at least 100"
    ):
        sb.damage(few_cells(60), "batch", **QUIET)


@pytest.mark.parametrize("n_cells", [1, 9])
def test_extending(model, n_cells):
    with pytest.raises(ValueError, match=NEEDED.format(n_cells)):
        sb.extend_genes(model, few_cells(n_cells, first=1000), max_epochs=1, **QUIET)


@pytest.mark.parametrize("n_cells", [10, 18])
def test_extending_by_batches_of_few_cells_each(model, n_cells):
    """No batch has ten cells to take a tenth of: a tenth of all is held out."""
    cells = few_cells(n_cells, first=1000)
    extended = sb.extend_genes(model, cells, max_epochs=1, **QUIET)
    settings = extended.settings
    assert (settings["n_held_out"], settings["n_cells"]) == (1, n_cells - 1)
    assert extended.quality["explained"].notna().all()


@pytest.mark.parametrize("n_cells", [1, 3, 12])
def test_calibration_on_a_few_cells_concludes_nothing(model, n_cells):
    found = sb.calibration(model, few_cells(n_cells, 20, first=1000), n_references=5, **QUIET)
    assert not found.batches["flagged"].any()
    assert found.theta is None
    assert "nothing can be concluded" in found.summary()
    assert "corrected_counts(dispersion=)" not in found.summary()


def test_command_line(model, tmp_path, capsys):
    model.save(str(tmp_path / "m"))
    few_cells(4, first=1000).write_h5ad(tmp_path / "few.h5ad")
    command = ["extend", str(tmp_path / "m"), "--adata", str(tmp_path / "few.h5ad")]
    assert main.main([*command, "--out", str(tmp_path / "extended")]) == 2
    assert "at least 10 cells with counts" in capsys.readouterr().err
    assert not (tmp_path / "extended").exists()


def test_held_out_cells_are_counted_though_no_batch_has_enough(model):
    """32 cells of two batches: none is judged by 16, and nothing is advised."""
    cells = few_cells(32, 20, first=1000)
    found = sb.calibration(model, cells, n_references=5, **QUIET)
    assert found.overall["n_cells"] == found.settings["n_cells"] == 32
    assert list(found.batches["n_cells"]) == [16, 16]
    assert "32 held-out cells, but no batch has the required 20" in found.summary()
    assert found.theta is None
    assert found.advice.startswith("Keep the model's own theta: no batch has enough")
    # One batch with enough cells is judged, and so is a refitted theta.
    lopsided = cells[np.r_[0:32:2, 1:2]].copy()
    lopsided = ad.concat([lopsided, few_cells(8, 20, first=5000)[::2].copy()])
    found = sb.calibration(model, lopsided, n_references=5, **QUIET)
    assert list(found.batches["n_cells"]) == [20, 1]
    assert found.overall["n_cells"] == 20
    assert np.isfinite(found.overall["variance"])
