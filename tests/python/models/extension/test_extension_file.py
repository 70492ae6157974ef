"""Extended models on disk: saved and loaded without loss, never overwritten unasked."""

from __future__ import annotations

import json
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
from extension import N_GENES, QUIET
from numpy.testing import assert_array_equal

import scvibridge as sb
from scvibridge.cli.main import main
from scvibridge.models.load import inputs_of_saved

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


@pytest.fixture
def folder(extended, tmp_path):
    extended.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_makes_the_same_counts(extended, folder, full):
    given = {"transform_batch": "V3", "labels_key": "cell_type", **QUIET}
    expected = sb.corrected_counts(extended, **given)
    loaded = sb.load(folder, adata=full, device="cpu")
    assert repr(loaded) == repr(extended)
    assert list(loaded.genes) == list(extended.genes)
    assert loaded.quality.equals(extended.quality)
    ours = sb.corrected_counts(loaded, **given)
    assert_array_equal(ours.X.toarray(), expected.X.toarray())
    alone = sb.load(folder, adata=False, device="cpu")
    with pytest.raises(ValueError, match="loaded without data"):
        sb.corrected_counts(alone, **given)
    assert sb.corrected_counts(alone, full, **given).shape == expected.shape


def test_the_genes_of_a_saved_model_are_told_without_loading_it(extended, folder):
    assert inputs_of_saved(folder, trust=False)["genes"] == list(extended.genes)
    (folder / "extension.npz").write_bytes(b"damaged")
    assert inputs_of_saved(folder, trust=False)["genes"] == list(extended.model.adata.var_names)


def test_the_file_holds_plain_numbers_and_texts(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["extension.npz", "model.pt"]
    with np.load(folder / "extension.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} <= set("fU")
        assert json.loads(str(file["description"]))["version"] == 1


def changed(folder, **changes):
    """Write the extension anew, with other arrays."""
    path = folder / "extension.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **{**arrays, **changes})


def description(folder, **changes):
    with np.load(folder / "extension.npz", allow_pickle=False) as file:
        return np.array(json.dumps({**json.loads(str(file["description"])), **changes}))


def test_other_models_versions_and_damage_are_refused(folder, full, own_names, train):
    given = {"adata": full, "device": "cpu"}
    kept = (folder / "extension.npz").read_bytes()
    changed(folder, description=description(folder, version=2))
    with pytest.raises(ValueError, match="of version 2, but this scvibridge reads version 1"):
        sb.load(folder, **given)
    (folder / "extension.npz").write_bytes(kept)
    changed(folder, weights=np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(
        ValueError, match=r"is damaged: its arrays do not match each other \(weights"
    ):
        sb.load(folder, **given)
    changed(folder, weights=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="could not be read as an extension"):
        sb.load(folder, **given)
    (folder / "extension.npz").write_bytes(kept[:500])
    with pytest.raises(ValueError, match="could not be read as an extension"):
        sb.load(folder, **given)
    (folder / "extension.npz").write_bytes(kept)
    other = train(full[:, own_names].copy(), labels_key=None, max_epochs=1)
    other.save(str(folder), overwrite=True)
    (folder / "extension.npz").write_bytes(kept)
    with pytest.raises(ValueError, match="was not fitted to the model next to it"):
        sb.load(folder, **given)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saving_does_not_overwrite_unasked(extended, folder):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        extended.save(folder)
    before = contents(folder)
    other = replace(extended, quality=extended.quality.assign(explained=0.5))
    other.save(folder, overwrite=True)
    assert contents(folder).keys() == before.keys()
    assert contents(folder)["extension.npz"] != before["extension.npz"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failure_leaves_the_older_folder_or_nothing(extended, folder, tmp_path):
    before = contents(folder)
    # The model has been written when the extension turns out not to be plain.
    broken = replace(extended, settings={**extended.settings, "ridge": {1, 2}})
    with pytest.raises(TypeError, match="not JSON serializable"):
        broken.save(folder, overwrite=True)
    assert contents(folder) == before
    with pytest.raises(TypeError, match="not JSON serializable"):
        broken.save(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_holds_more_than_a_model_is_not_replaced(extended, folder):
    (folder / "adata.h5ad").write_bytes(b"counts")
    with pytest.raises(FileExistsError, match=r"contains more than a model \(adata.h5ad\)"):
        extended.save(folder, overwrite=True)
    assert (folder / "adata.h5ad").read_bytes() == b"counts"
    with pytest.raises(NotADirectoryError, match=r"adata.h5ad is a file, expected a folder"):
        extended.save(folder / "adata.h5ad", overwrite=True)


def test_data_that_lack_a_gene_are_refused(extended, folder, full, added_names):
    lacking = full[:, full.var_names != added_names[5]].copy()
    with pytest.raises(
        ValueError, match=f"lack 1 of the model's {N_GENES} genes: .*{added_names[5]}"
    ):
        sb.corrected_counts(extended, lacking, transform_batch="V3", **QUIET)
    with pytest.raises(ValueError, match=f"lack 1 of the model's {N_GENES} genes"):
        sb.load(folder, adata=lacking, device="cpu")


def test_the_command_line_takes_extended_models(extended, folder, full, tmp_path):
    path, out = tmp_path / "all.h5ad", tmp_path / "counts.h5ad"
    full.write_h5ad(path)
    arguments = ["--transform-batch", "V3", "--device", "cpu", "--quiet", "--out", str(out)]
    assert main(["correct", str(folder), "--adata", str(path), *arguments]) == 0
    ours = sb.corrected_counts(extended, full, transform_batch="V3", **QUIET)
    written = ad.read_h5ad(out)
    assert_array_equal(written.X.toarray(), ours.X.toarray())
