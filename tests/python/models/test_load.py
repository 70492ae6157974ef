"""Models load as by scvi-tools' own load, with their data, and run code with trust alone."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
import warnings
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pytest
import scvi
import torch
from hostile_pickles import Call, change_pickle, copied, rewrite, text
from saved_models import MODELS, N_GENES, N_REGIONS, PROTEINS, assert_same, fit
from zarr_formats import written_as

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.models.saved import model_file

# What MuData will do in its next version.
pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")


UNREAD = ("history_", "semisupervised_history_", "unsupervised_history_")


# ---- models of all classes -------------------------------------------------------------------


def upstream(folder: Path, model_class, adata=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model_class.load(str(folder), adata=adata, accelerator="cpu")


@pytest.mark.parametrize("name", MODELS)
def test_models_load_as_by_scvi_tools(name, saved):
    folder = saved(name)
    before = sorted(folder.iterdir())
    loaded = sb.load(folder, device="cpu")
    reference = upstream(folder, type(loaded))
    assert type(loaded).__name__ == name.split()[0]
    assert_same(loaded.module.state_dict(), reference.module.state_dict())
    assert_same(loaded.registry_, reference.registry_)
    assert_same(loaded.init_params_, reference.init_params_)
    assert loaded.is_trained
    assert not loaded.module.training
    assert np.array_equal(loaded.get_latent_representation(), reference.get_latent_representation())
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("name", MODELS)
def test_all_that_the_file_holds_is_read_but_the_history(name, saved):
    path = saved(name) / "model.pt"
    reference = torch.load(path, weights_only=False)
    reference["model_state_dict"].pop("pyro_param_store", None)
    assert reference["attr_dict"]["history_"]
    for attribute in UNREAD:
        if attribute in reference["attr_dict"]:
            reference["attr_dict"][attribute] = None
    assert_same(model_file.read_model_file(path), reference)


def test_history_is_left_out_and_comes_with_trust(saved):
    folder = saved("SCVI")
    assert sb.load(folder).history is None
    history = sb.load(folder, trust=True).history
    # scvi-tools has one name or the other.
    assert len(history["train_loss" if "train_loss" in history else "train_loss_epoch"]) == 2


def test_loaded_model_can_be_trained_and_saved_again(saved, tmp_path):
    model = fit(sb.load(saved("SCVI"), device="cpu"))
    before = sb.load(saved("SCVI")).module.state_dict()["px_r"]
    assert not torch.equal(model.module.state_dict()["px_r"], before)
    model.save(str(tmp_path / "again"), save_anndata=True)
    again = sb.load(tmp_path / "again")
    assert_same(again.module.state_dict(), model.module.state_dict())


def test_model_without_data(saved):
    model = sb.load(saved("SCVI"), adata=False)
    assert model.adata is None
    assert_same(model.module.state_dict(), sb.load(saved("SCVI")).module.state_dict())


def test_class_that_scvi_tools_cannot_load_without_data_says_so(saved):
    folder = saved("LinearSCVI")
    try:
        theirs = scvi.model.LinearSCVI.load(str(folder), adata=False)
    except (ValueError, AttributeError):
        with pytest.raises(ValueError, match=r"of class LinearSCVI without data .*pass adata="):
            sb.load(folder, adata=False)
    else:  # since scvi-tools 1.5
        ours = sb.load(folder, adata=False)
        assert_same(ours.module.state_dict(), theirs.module.state_dict())


def test_loading_in_several_threads(saved):
    """Nothing of scvi-tools is replaced meanwhile: other loads are not touched."""
    folders = [saved("SCVI"), saved("LinearSCVI")] * 3
    data = [ad.read_h5ad(folder / "adata.h5ad") for folder in folders]
    models: dict = {}
    threads = [
        threading.Thread(target=lambda i=i, f=f: models.update({i: sb.load(f, adata=data[i])}))
        for i, f in enumerate(folders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(models[i]).__name__ for i in range(6)] == ["SCVI", "LinearSCVI"] * 3


def test_tensors_of_a_gpu_load_on_the_cpu(saved, tmp_path):
    """The file says where each tensor lay, here as if on a GPU; it is read to the CPU."""
    folder = copied(saved("SCVI"), tmp_path)
    change_pickle(folder, lambda pickled: pickled.replace(text("cpu"), text("cuda:0")))
    model = sb.load(folder, device="cpu")
    assert {tensor.device.type for tensor in model.module.state_dict().values()} == {"cpu"}
    assert_same(model.module.state_dict(), sb.load(saved("SCVI")).module.state_dict())


def test_failure_of_another_version_names_both(saved, tmp_path):
    folder = copied(saved("SCVI"), tmp_path)

    def change(contents):
        contents["attr_dict"]["registry_"]["scvi_version"] = "9.8.7"
        del contents["attr_dict"]["init_params_"]

    rewrite(folder, change)
    with pytest.raises(ValueError, match=re.escape("which scvi-tools 9.8.7 saved (ValueError: No")):
        sb.load(folder)


# ---- data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_modalities_are_aligned_by_name(saved, multimodal, tmp_path, order):
    folder = saved("MULTIVI")
    rng = np.random.default_rng(3)
    shuffled = {}
    for name, part in multimodal().mod.items():
        extra = part[:, :2].copy()
        extra.var_names = [f"more_{name}_{i}" for i in range(2)]
        wider = ad.concat([part, extra], axis=1, merge="first")
        shuffled[name] = wider[:, rng.permutation(wider.n_vars)].copy()
    shuffled["other"] = shuffled["rna"][:, :3].copy()
    shuffled["other"].var_names = ["o1", "o2", "o3"]
    data = mudata.MuData(dict(list(shuffled.items())[::order]))
    data.obs["mine"] = np.arange(60)
    data.obsm["map"] = np.ones((60, 2))
    data.write(tmp_path / "data.h5mu")

    expected = sb.load(folder).get_latent_representation()
    for given in (data, tmp_path / "data.h5mu", str(tmp_path / "data.h5mu")):
        model = sb.load(folder, adata=given)
        assert np.array_equal(model.get_latent_representation(), expected)
        assert set(model.adata.mod) == {"rna", "atac", "protein"}
        assert model.adata.obs["mine"].tolist() == list(range(60))
        assert model.adata.obsm["map"].shape == (60, 2)
    assert data["rna"].n_vars == N_GENES + 2


def test_modalities_in_another_order_are_the_same_data(saved, multimodal):
    data = multimodal()
    given = mudata.MuData({name: data[name] for name in ("protein", "atac", "rna")})
    found = sb.load(saved("MULTIVI"), adata=given).get_latent_representation()
    assert np.array_equal(found, sb.load(saved("MULTIVI")).get_latent_representation())


def test_data_as_they_were_are_not_copied(saved, multimodal):
    data = multimodal()
    assert sb.load(saved("MULTIVI"), adata=data).adata is data


def test_data_of_the_other_kind_are_refused(saved, cells, multimodal, tmp_path):
    with pytest.raises(TypeError, match=re.escape("must be a MuData or the path of an h5mu file")):
        sb.load(saved("MULTIVI"), adata=cells())
    with pytest.raises(TypeError, match="one of rna, atac, protein"):
        sb.load(saved("SCVI"), adata=multimodal())
    with pytest.raises(ValueError, match=re.escape("ends in .h5ad, expected .h5mu")):
        sb.load(saved("MULTIVI"), adata="data.h5ad")
    with pytest.raises(ValueError, match=re.escape("ends in .h5mu, expected .h5ad or .zarr")):
        sb.load(saved("SCVI"), adata="data.h5mu")
    (tmp_path / "data.h5mu").write_text("nonsense")
    with pytest.raises(ValueError, match="could not be read as an h5mu file"):
        sb.load(saved("MULTIVI"), adata=tmp_path / "data.h5mu")


def test_data_that_lack_something_are_refused(saved, multimodal, tmp_path):
    parts = multimodal().mod
    with pytest.raises(ValueError, match=r"lack the modality atac, .* they have rna, protein"):
        sb.load(saved("MULTIVI"), mudata.MuData({m: parts[m] for m in ("rna", "protein")}))
    fewer = {**parts, "atac": parts["atac"][:, 3:].copy()}
    with pytest.raises(ValueError, match="modality atac: the data lack 3 of the model's 20"):
        sb.load(saved("MULTIVI"), mudata.MuData(fewer))
    folder = copied(saved("MULTIVI"), tmp_path)
    (folder / "mdata.h5mu").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape("(mdata.h5mu): pass adata=")):
        sb.load(folder)


def test_variables_in_one_row_must_lie_as_they_were(saved, multimodal, tmp_path):
    """Saves in the format before modalities had their own names."""
    model = sb.load(saved("MULTIVI"), adata=multimodal())
    folder = tmp_path / "model"
    model.save(str(folder), save_anndata=False, legacy_mudata_format=True)
    assert sb.load(folder, adata=multimodal()).adata.n_vars == N_GENES + N_REGIONS + len(PROTEINS)
    parts = multimodal().mod
    reversed_genes = {**parts, "rna": parts["rna"][:, ::-1].copy()}
    with pytest.raises(ValueError, match="differ from the model's, or are in another order"):
        sb.load(folder, adata=mudata.MuData(reversed_genes))


# ---- where models are loaded -----------------------------------------------------------------


@pytest.mark.parametrize("trust", ["no", 1, None])
def test_trust_is_true_or_false(trust, saved):
    with pytest.raises(TypeError, match="trust must be True or False, got"):
        sb.load(saved("SCVI"), trust=trust)


def test_class_that_is_not_supported_is_told_before_all_else(victim):
    def change(contents):
        contents["attr_dict"]["registry_"]["model_name"] = "PEAKVI"
        contents["attr_dict"]["mine_"] = Call(os.system, "true")

    rewrite(victim, change)
    with pytest.raises(TypeError, match="models of class PEAKVI are not supported"):
        sb.load(victim)


COMMANDS = {
    "correct": ["{model}", "--adata", "{data}", "--transform-batch", "V1", "--out", "{out}.h5ad"],
    "normalize": ["{model}", "--adata", "{data}", "--out", "{out}.h5ad"],
    "denoise": ["{model}", "--adata", "{data}", "--out", "{out}.h5ad"],
    "support": ["{model}", "--adata", "{data}", "--transform-batch", "V1", "--out", "{out}.csv"],
    "calibration": ["{model}", "--adata", "{data}", "--out", "{out}.csv"],
    "damage": ["{data}", "--batch-key", "batch", "--model", "{model}", "--out", "{out}.csv"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_code_with_trust_alone(command, victim, marker, tmp_path, capsys):
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=Call(os.system, f"touch {marker}")))
    places = {"model": victim, "data": victim / "adata.h5ad", "out": tmp_path / "out"}
    arguments = [command, *(word.format(**places) for word in COMMANDS[command]), "--quiet"]
    assert main.main(arguments) == 2
    told = capsys.readouterr().err
    assert "attr_dict['mine_'] refers to posix.system" in told
    assert "(--trust)" in told
    assert told.count("\n") == 1
    assert not marker.exists()
    main.main([*arguments, "--trust"])
    assert marker.exists()


def test_report_runs_code_with_trust_alone(victim, marker, tmp_path, capsys):
    data, result = str(victim / "adata.h5ad"), tmp_path / "result.h5ad"
    target = ["--transform-batch", "V1", "--out", str(result), "--quiet"]
    assert main.main(["correct", str(victim), "--adata", data, *target]) == 0
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=Call(os.system, f"touch {marker}")))
    arguments = ["report", str(result), "--model", str(victim), "--adata", data, "--quiet"]
    assert main.main(arguments) == 2
    assert "attr_dict['mine_'] refers to posix.system" in capsys.readouterr().err
    assert not marker.exists()
    main.main([*arguments, "--trust"])
    assert marker.exists()


def test_zarr_folder_with_pickles_does_not_run(saved, marker, tmp_path, cells):
    """Zarr knows a filter that unpickles chunks."""
    path = tmp_path / "data.zarr"
    with written_as(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells().write_zarr(path)
    array = path / "var" / "symbol"
    if not (array / ".zarray").is_file():
        pytest.skip("anndata writes format 3 of zarr, which knows no such filter")
    settings = json.loads((array / ".zarray").read_text())
    settings["filters"].append({"id": "pickle"})
    settings["compressor"] = None
    (array / ".zarray").write_text(json.dumps(settings))
    (path / ".zmetadata").unlink(missing_ok=True)
    for chunk in array.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Call(os.system, f"touch {marker}")))
    with pytest.raises(ValueError, match="could not be read as a zarr folder"):
        sb.load(saved("SCVI"), adata=path)
    assert not marker.exists()
