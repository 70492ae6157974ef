"""Held-out cells are known by name, in whatever order cells are given, or they are unknown."""

from __future__ import annotations

import warnings

import anndata as ad
import families
import numpy as np
import pytest
import scvi

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.models.adapters import adapter_for
from scvibridge.models.alignment import align
from scvibridge.models.held_out import held_out_rows
from scvibridge.models.training_cells import ATTRIBUTE

QUIET = {"progress": False, "device": "cpu"}
UNKNOWN = "held-out cells unknown"


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def cells(simulate) -> ad.AnnData:
    return simulate(200, 30)


@pytest.fixture(scope="module")
def model(cells, train):
    return train(cells.copy(), max_epochs=3)


@pytest.fixture(scope="module")
def truth(cells, model):
    """Names of the cells that were held out."""
    return set(cells.obs_names[model.validation_indices])


@pytest.fixture(scope="module")
def sorted_cells(cells):
    """The same cells in the order of their batches."""
    return cells[np.argsort(cells.obs["batch"].to_numpy(), kind="stable")].copy()


@pytest.fixture
def with_data(model, tmp_path):
    model.save(str(tmp_path / "with"), save_anndata=True)
    return tmp_path / "with"


@pytest.fixture
def without_data(model, tmp_path):
    model.save(str(tmp_path / "without"), save_anndata=False)
    return tmp_path / "without"


def held_out(model, data=None) -> set[str] | None:
    """Names of the held-out cells among those of some data, None where they are unknown."""
    adapter = adapter_for(model)
    if adapter.training_cells is None:
        return None
    found = align(adapter, adapter.adata if data is None else data)
    return set(found.names[held_out_rows(adapter, found)])


def counts(model, data=None):
    return sb.corrected_counts(model, data, transform_batch="V2", labels_key="cell_type", **QUIET)


def test_model_of_this_session(model, truth, sorted_cells, cells):
    assert 10 < len(truth) < 30
    assert held_out(model) == held_out(model, sorted_cells) == truth
    half = sorted_cells[::2].copy()
    assert held_out(model, half) == truth & set(half.obs_names)
    new = cells[:50].copy()
    new.obs_names = [f"new_{name}" for name in new.obs_names]
    assert held_out(model, new) == set(new.obs_names)


def test_positions_go_with_the_data_of_the_training(model, truth, sorted_cells):
    """Other data that a user puts in place of the model's have other positions."""
    own = model.adata
    try:
        model.adata = sorted_cells.copy()
        assert held_out(model) == truth
    finally:
        model.adata = own


@pytest.mark.parametrize("given", ["none", "same", "sorted", "half", "file", "later"])
def test_model_that_was_saved_with_its_data(given, with_data, truth, sorted_cells, cells, tmp_path):
    half = sorted_cells[::2].copy()
    sorted_cells.write_h5ad(tmp_path / "sorted.h5ad")
    data = {
        "none": None,
        "same": cells.copy(),
        "sorted": sorted_cells.copy(),
        "half": half,
        "file": tmp_path / "sorted.h5ad",
        "later": False,
    }[given]
    loaded = sb.load(with_data, adata=data, device="cpu")
    expected = truth & set(half.obs_names) if given == "half" else truth
    assert held_out(loaded, sorted_cells if given == "later" else None) == expected
    if given != "half":
        assert held_out(loaded, half) == truth & set(half.obs_names)


@pytest.mark.parametrize("given", ["same", "sorted", "later"])
def test_positions_without_names_are_unknown(given, without_data, model, sorted_cells, cells):
    """In the same order as well, since nothing says that it is the same."""
    data = {"same": cells, "sorted": sorted_cells, "later": cells}[given].copy()
    loaded = sb.load(without_data, adata=False if given == "later" else data, device="cpu")
    later = data if given == "later" else None
    assert held_out(loaded, later) is None
    with pytest.raises(ValueError, match=r"without names.* indices= .*save_anndata=True"):
        sb.calibration(loaded, later, **QUIET)
    made = counts(loaded, later)
    assert made.uns["scvibridge"]["shrinkage_from"].startswith(UNKNOWN)
    assert made.uns["scvibridge"]["shrinkage_batch"] == 10.0
    names = cells.obs_names[model.validation_indices]
    found = sb.calibration(loaded, later, indices=names, n_references=5, **QUIET)
    assert found.settings["n_cells"] == len(names)


def test_scvi_tools_own_load_is_not_taken_at_its_word(with_data, sorted_cells):
    loaded = scvi.model.SCVI.load(str(with_data), adata=sorted_cells.copy(), accelerator="cpu")
    assert held_out(loaded) is None


def test_order_changes_no_count(with_data, model, sorted_cells):
    expected = counts(model)
    loaded = sb.load(with_data, adata=sorted_cells.copy(), device="cpu")
    found = counts(loaded)
    about, ours = expected.uns["scvibridge"], found.uns["scvibridge"]
    assert ours["shrinkage_from"] == about["shrinkage_from"]
    assert ours["shrinkage_from"].endswith("held-out cells")
    for level in ("shrinkage_batch", "shrinkage_label"):
        assert np.isclose(ours[level], about[level])
    differing = (found[expected.obs_names].X != expected.X).nnz
    assert differing <= 2


def test_calibration_judges_held_out_cells_in_any_order(with_data, model, sorted_cells):
    expected = sb.calibration(model, n_references=5, **QUIET)
    loaded = sb.load(with_data, adata=sorted_cells.copy(), device="cpu")
    found = sb.calibration(loaded, n_references=5, **QUIET)
    assert found.settings["cells"] == expected.settings["cells"]
    assert np.allclose(found.genes["mean"], expected.genes["mean"])
    assert np.array_equal(found.batches["n_cells"], expected.batches["n_cells"])


def test_train_scvi_keeps_names(cells, sorted_cells, tmp_path):
    """Through scvi-tools' own saving and loading as well; a further training makes them stale."""
    settings = {"batch_key": "batch", "max_epochs": 1, "n_top_genes": None, **QUIET}
    made = sb.train_scvi(cells, save=tmp_path / "ours", **settings)
    truth = set(made.adata.obs_names[made.validation_indices])
    (tmp_path / "ours" / "adata.h5ad").unlink()
    loaded = sb.load(tmp_path / "ours", adata=sorted_cells.copy(), device="cpu")
    assert held_out(loaded) == held_out(made) == truth
    assert held_out(sb.load(tmp_path / "ours", adata=False), sorted_cells) == truth
    loaded.save(str(tmp_path / "theirs"))
    again = scvi.model.SCVI.load(
        str(tmp_path / "theirs"), adata=sorted_cells.copy(), accelerator="cpu"
    )
    assert held_out(again) == truth
    families.train(loaded, epochs=1, seed=3)
    assert held_out(loaded) == set(loaded.adata.obs_names[loaded.validation_indices]) != truth
    del loaded.trainer
    assert held_out(loaded) is None


def test_digests_that_fit_other_cells_are_not_used(cells, train):
    made = train(cells.copy(), max_epochs=1)
    del made.trainer
    for kept in (None, 3, {}, {"names": np.zeros(200, np.uint64), "split": "x"}):
        setattr(made, ATTRIBUTE, kept)
        assert held_out(made) is None


def test_extended_model_keeps_names(cells, sorted_cells, train, tmp_path):
    own = train(cells[:, :20].copy(), max_epochs=2)
    truth = set(cells.obs_names[own.validation_indices])
    attributes = set(vars(own))
    extended = sb.extend_genes(own, cells, max_epochs=1, **QUIET)
    assert extended.settings["n_held_out"] == len(truth)
    for one in (extended, sb.extend_genes(own, sorted_cells, max_epochs=1, **QUIET)):
        assert held_out(one) == held_out(one, sorted_cells) == truth
        assert np.allclose(one.quality["explained"], extended.quality["explained"], atol=1e-3)
    extended.save(tmp_path / "extended")
    assert set(vars(own)) == attributes
    loaded = sb.load(tmp_path / "extended", adata=sorted_cells.copy(), device="cpu")
    assert held_out(loaded) == truth
    assert held_out(sb.load(tmp_path / "extended", adata=False), cells) == truth


def test_query_model(cells, with_data, simulate, tmp_path):
    """The split of a model that was carried over is that of the query."""
    query = simulate(80, 30, seed=7)
    query.obs_names = [f"query_{name}" for name in query.obs_names]
    made = scvi.model.SCVI.load_query_data(query, str(with_data), accelerator="cpu")
    families.train(made, epochs=1, plan_kwargs={"weight_decay": 0.0})
    truth = set(query.obs_names[made.validation_indices])
    assert held_out(made) == held_out(made, query[::-1].copy()) == truth
    # Most of these cells trained the model that this one continues.
    assert held_out(made, ad.concat([query, cells])) == truth
    with pytest.raises(ValueError, match="continues a model that may have been trained on them"):
        sb.calibration(made, cells, n_references=5, **QUIET)
    made.save(str(tmp_path / "query"), save_anndata=True)
    loaded = sb.load(tmp_path / "query", adata=query[::-1].copy(), device="cpu")
    assert held_out(loaded) == truth


def test_a_query_of_another_batch_is_known_from_its_file(cells, with_data, simulate, tmp_path):
    query = simulate(80, 30, seed=7)
    query.obs_names = [f"query_{name}" for name in query.obs_names]
    query.obs["batch"] = "new"
    made = scvi.model.SCVI.load_query_data(query, str(with_data), accelerator="cpu")
    families.train(made, epochs=1, plan_kwargs={"weight_decay": 0.0})
    truth = set(query.obs_names[made.validation_indices])
    made.save(str(tmp_path / "query"), save_anndata=True)
    loaded = sb.load(tmp_path / "query", device="cpu")
    assert held_out(loaded, ad.concat([query, cells])) == truth


def test_a_model_that_is_loaded_with_some_of_its_batches_is_no_query(
    cells, truth, with_data, simulate
):
    """Cells that it has never seen can check its fit."""
    some = cells[cells.obs["batch"] != "V1"].copy()
    kept = sb.load(with_data, adata=some, device="cpu")
    new = simulate(60, 30, seed=9)
    new.obs_names = [f"new_{name}" for name in new.obs_names]
    assert held_out(kept, new) == set(new.obs_names)
    assert held_out(kept, cells) == truth


def test_cells_of_a_model_that_was_trained_before_are_unknown(model):
    """SCANVI splits the cells anew: most of its held-out cells trained the SCVI."""
    made = scvi.model.SCANVI.from_scvi_model(
        model, unlabeled_category="unknown", labels_key="cell_type"
    )
    families.train(made, epochs=1)
    assert made.validation_indices is not None
    with pytest.raises(ValueError, match="a SCANVI made from a SCVI was also trained on"):
        sb.calibration(made, n_references=5, **QUIET)
    counts = sb.corrected_counts(made, transform_batch="V1", labels_key="cell_type", **QUIET)
    assert counts.uns["scvibridge"]["shrinkage_from"].startswith(UNKNOWN)


@pytest.mark.parametrize("name", [n for n in families.FAMILIES if n != "SCVI"])
def test_all_classes(name, simulate, tmp_path):
    made, _ = families.make(name, simulate(100, 30), epochs=1)
    names = made.adata.obs_names
    truth = set(names[np.setdiff1d(np.arange(100), made.train_indices)])
    assert truth
    assert held_out(made) == truth
    made.save(str(tmp_path / "saved"), save_anndata=True)
    assert held_out(sb.load(tmp_path / "saved", device="cpu")) == truth


def test_the_command_takes_held_out_cells_by_name(without_data, model, cells, tmp_path, capsys):
    cells.write_h5ad(tmp_path / "data.h5ad")
    files = [str(without_data), "--adata", str(tmp_path / "data.h5ad"), "--n-references", "5"]
    assert main.main(["calibration", *files]) == 2
    assert "indices= (--indices)" in capsys.readouterr().err
    named = tmp_path / "cells.txt"
    named.write_text("\n".join(cells.obs_names[model.validation_indices]))
    assert main.main(["calibration", *files, "--indices", str(named)]) == 0
    assert f"on {len(model.validation_indices)} cells" in capsys.readouterr().err
    listed = named.rename(tmp_path / "cells.csv")
    for option in ("--out", "--theta"):
        words = [*files, "--indices", str(listed), option, str(listed), "--overwrite"]
        assert main.main(["calibration", *words]) == 2
        assert f"{option}='{listed}' is a file that is being read" in capsys.readouterr().err
    assert listed.read_text().split("\n") == list(cells.obs_names[model.validation_indices])
