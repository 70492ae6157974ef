"""Models saved with a prefix are found, and those from before scvi-tools 0.15 are named."""

from __future__ import annotations

import io
import shutil

import anndata as ad
import numpy as np
import pytest
import torch

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.models.load import load_apart
from scvibridge.r import exchange, process, reticulate


@pytest.fixture(scope="module")
def folder(trained_model, tmp_path_factory):
    """Two models with their data in one folder: the second is of other weights."""
    path = tmp_path_factory.mktemp("prefix") / "model"
    trained_model.save(str(path), prefix="first_", save_anndata=True)
    shutil.copy(path / "first_adata.h5ad", path / "second_adata.h5ad")
    contents = torch.load(path / "first_model.pt", weights_only=False)
    contents["model_state_dict"]["px_r"] += 1
    torch.save(contents, path / "second_model.pt")
    return path


@pytest.fixture
def single(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "single")
    for file in (tmp_path / "single").glob("second_*"):
        file.unlink()
    return tmp_path / "single"


def dispersion_of(model) -> np.ndarray:
    return model.module.px_r.detach().numpy()


@pytest.mark.parametrize("trust", [False, True])
def test_prefix_chooses_the_model_and_its_data(folder, trained_model, trust):
    first = sb.load(folder, prefix="first_", trust=trust)
    second = sb.load(folder, prefix="second_", trust=trust)
    assert np.array_equal(dispersion_of(first), dispersion_of(trained_model))
    assert np.array_equal(dispersion_of(second), dispersion_of(trained_model) + 1)
    assert first.adata.n_obs == trained_model.adata.n_obs


def test_only_prefix_is_found(single, trained_model):
    for model in (sb.load(single), load_apart(single, None, "cpu", False)[0]):
        assert np.array_equal(dispersion_of(model), dispersion_of(trained_model))
        assert model.adata is not None


def test_model_without_prefix_comes_first(single, trained_model):
    contents = torch.load(single / "first_model.pt", weights_only=False)
    contents["model_state_dict"]["px_r"] += 2
    torch.save(contents, single / "model.pt")
    for prefix in (None, ""):
        model = sb.load(single, adata=False, prefix=prefix)
        assert np.array_equal(dispersion_of(model), dispersion_of(trained_model) + 2)
    model = sb.load(single, adata=False, prefix="first_")
    assert np.array_equal(dispersion_of(model), dispersion_of(trained_model))


def test_several_and_unknown_prefixes_are_named(folder):
    with pytest.raises(
        ValueError, match=r"several models, with the prefixes 'first_', 'second_': pass"
    ):
        sb.load(folder)
    with pytest.raises(FileNotFoundError, match=r"no secondmodel\.pt.* did you mean 'second_'\?"):
        sb.load(folder, prefix="second")
    with pytest.raises(TypeError, match="prefix must be a single string or None, got 1"):
        sb.load(folder, prefix=1)


def test_missing_data_are_named_with_their_prefix(single):
    (single / "first_adata.h5ad").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(first_adata\.h5ad\): pass adata="):
        sb.load(single)


def test_commands_and_r_take_a_prefix(folder, data_file, tmp_path, capsys):
    out = tmp_path / "out.h5ad"
    words = ["correct", str(folder), "--adata", str(data_file), "--transform-batch", "V3"]
    words += ["--out", str(out), "--quiet"]
    assert main.main(words) == 2
    assert "several models" in capsys.readouterr().err
    assert main.main([*words, "--prefix", "second_"]) == 0
    model = sb.load(folder, adata=data_file, prefix="second_")
    expected = sb.corrected_counts(model, transform_batch="V3", progress=False)
    assert (ad.read_h5ad(out).X != expected.X).nnz == 0
    other = sb.load(folder, adata=data_file, prefix="first_")
    assert (sb.corrected_counts(other, transform_batch="V3", progress=False).X != expected.X).nnz

    given = {"model_dir": str(folder), "adata": False, "device": "cpu", "trust": False}
    outcome = reticulate.call("load", {**given, "prefix": "second_"})
    assert outcome["error"] is None
    assert np.array_equal(dispersion_of(outcome["value"]), dispersion_of(model))
    # As a call in a process of its own gets it.
    source = exchange.ModelSource(**given, prefix="second_")
    exchange.write(source, tmp_path / "source.json")
    assert exchange.read(tmp_path / "source.json") == source
    assert process.IsolatedModel(source, {}).source.prefix == "second_"


@pytest.mark.parametrize("prefix", ["", "old_"])
def test_legacy_saves_are_named(prefix, tmp_path):
    content = io.BytesIO()
    torch.save({}, content)
    for name in ("attr.pkl", "var_names.csv", "model_params.pt"):
        (tmp_path / f"{prefix}{name}").write_bytes(content.getvalue())
    call = r"convert_legacy_save\(OLD_FOLDER, NEW_FOLDER"
    call += r", prefix='old_'\)" if prefix else r"\)"
    for given in (None, prefix):
        with pytest.raises(ValueError, match=f"before version 0.15 .*{call}"):
            sb.load(tmp_path, prefix=given)
    (tmp_path / f"{prefix}var_names.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"it contains no model\.pt"):
        sb.load(tmp_path)
