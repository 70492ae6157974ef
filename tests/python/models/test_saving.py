"""A training is not lost: what cannot be saved is refused before it, or it is returned."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge.models.training import saving

SETTINGS = {"n_top_genes": None, "max_epochs": 2, "n_latent": 2, "progress": False}


@pytest.fixture
def cells(simulated):
    return simulated[:100, :30].copy()


def train(cells, **arguments):
    return sb.train_scvi(cells, batch_key="batch", **{**SETTINGS, **arguments})


@pytest.mark.filterwarnings("ignore:.*their own depth", "ignore:confounding")
def test_columns_with_one_form_are_saved(cells, tmp_path):
    cells.obs["taken"] = pd.Timestamp("2024-02-03")
    cells.obs["score"] = pd.array([1.5, None] * 50, dtype="Float64")
    cells.obs["_index"] = cells.obs_names
    cells.obsm["t"] = pd.DataFrame({7: np.ones(100)}, index=cells.obs_names)
    with pytest.warns(UserWarning, match=r"obs\['taken'\] holds dates"):
        model = train(cells, save=tmp_path / "m")
    loaded = sb.load(tmp_path / "m")
    assert set(loaded.adata.obs["taken"]) == {"2024-02-03"}
    assert "taken" in model.adata.obs
    assert pd.api.types.is_datetime64_any_dtype(model.adata.obs["taken"])
    np.testing.assert_array_equal(loaded.adata.obs["score"], [1.5, np.nan] * 50)
    assert list(loaded.adata.obsm["t"].columns) == ["7"]
    counts = sb.corrected_counts(loaded, transform_batch="V3", progress=False)
    expected = sb.corrected_counts(model, transform_batch="V3", progress=False)
    assert (counts.X != expected.X).nnz == 0


@pytest.mark.parametrize("name", ["CD4/CD8", "list"])
def test_others_are_refused_before_the_training(cells, tmp_path, monkeypatch, name):
    cells.obs[name] = 1.0 if name != "list" else pd.Series([[1]] * 100, index=cells.obs_names)
    monkeypatch.setattr(
        "scvibridge.models.training.train_scvi.fit_scvi", lambda *_: pytest.fail("trained")
    )
    with pytest.raises(ValueError, match=rf"obs\['{name}'\]"):
        train(cells, save=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_saved_is_returned(cells, tmp_path, monkeypatch):
    older = train(cells, save=tmp_path / "m", seed=5)
    before = (tmp_path / "m" / "model.pt").read_bytes()

    def fail(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(saving, "write_new_h5ad", fail)
    with pytest.warns(UserWarning, match=r"is trained, but .* the disk is gone.*model\.save\("):
        model = train(cells, save=tmp_path / "m", overwrite=True)
    assert model.is_trained_
    assert (tmp_path / "m" / "model.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert not saving.is_saved(model, tmp_path / "m")
    assert saving.is_saved(older, tmp_path / "m")


def test_folders_that_hold_more_than_a_model_stay(cells, tmp_path):
    folder = tmp_path / "m"
    train(cells, save=folder)
    cells.write_h5ad(folder / "my_cells.h5ad")
    with pytest.raises(FileExistsError, match=r"contains more than a model \(my_cells\.h5ad\)"):
        train(cells, save=folder, overwrite=True)
    with pytest.raises(ValueError, match="which is being read"):
        train(folder / "adata.h5ad", save=folder, overwrite=True)
    assert (folder / "my_cells.h5ad").exists()


def test_the_data_of_a_training_are_not_replaced(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    model = train(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="is a file that is being read"):
        sb.corrected_counts(
            model, transform_batch="V3", out=tmp_path / "cells.h5ad", overwrite=True, progress=False
        )
