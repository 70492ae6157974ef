"""Reading and writing files: values survive, failures leave nothing behind."""

from __future__ import annotations

import json
import os
import stat
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal

import scvibridge as sb
from scvibridge.io import h5ad, paths, ten_x


@pytest.fixture
def result() -> ad.AnnData:
    """An AnnData with what a result of ours can hold, and what users' own columns can."""
    rng = np.random.default_rng(3)
    counts = sp.random(12, 7, density=0.4, format="csr", random_state=4)
    counts.data = rng.integers(1, 90, counts.nnz)
    counts = counts.astype(np.int32)
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(["V3", "V2"] * 6, categories=["V3", "unused", "V2"]),
            "stage": pd.Categorical(
                [None, "late", "early"] * 4, categories=["early", "late"], ordered=True
            ),
            "text": [f"note {i % 2}" for i in range(12)],
            "flag": [True, False, False] * 4,
            "maybe": pd.array([True, None, False] * 4, dtype="boolean"),
            "whole": pd.array([1, None, 3] * 4, dtype="Int32"),
            "ratio": np.linspace(0, 1, 12).astype(np.float32),
        },
        index=[f"cell{i}" for i in range(12)],
    )
    var = pd.DataFrame(
        {"gene_ids": [f"ENSG{i}" for i in range(7)], "low": [True] * 3 + [False] * 4},
        index=[f"gene_{i}" for i in range(7)],
    )
    adata = ad.AnnData(counts, obs=obs, var=var)
    adata.layers["raw_counts"] = counts.copy()
    adata.layers["normalized"] = rng.random((12, 7), dtype=np.float32)
    adata.obsm["X_scvi"] = rng.normal(size=(12, 3)).astype(np.float32)
    adata.uns["scvibridge"] = h5ad.storable(
        {
            "kind": "corrected_counts",
            "transform_batch": ["V3"],
            "labels_key": None,
            "notes": (),
            "seed": np.int64(7),
            "zero_inflation": np.bool_(True),
            "library_size": 1e4,
            "nested": {"depth": [1.5, 2.0], "missing": None},
        }
    )
    return adata


def entries(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- h5ad ------------------------------------------------------------------------------------


def test_h5ad_read_back_is_unchanged(result, tmp_path):
    before = result.copy()
    path = h5ad.write_h5ad(result, tmp_path / "x.h5ad")
    assert entries(tmp_path) == ["x.h5ad"]
    assert_equal(before, result, exact=True)  # writing changes nothing in the caller's object
    for read in (ad.read_h5ad(path), h5ad.read_anndata(path), h5ad.read_anndata(str(path))):
        assert_equal(result, read, exact=True)
        assert read.X.dtype == np.int32
        assert read.X.format == "csr"
        assert list(read.obs["batch"].cat.categories) == ["V3", "unused", "V2"]
        assert read.obs["stage"].cat.ordered
        assert pd.api.types.is_string_dtype(read.obs["text"].dtype)
        assert read.obs["maybe"].isna().sum() == 4


def test_h5ad_keeps_raw_and_text_with_missing_values(result, tmp_path):
    result.raw = result.copy()
    result.obs["partial"] = ["a", None, np.nan] * 4
    before = result.obs["partial"].copy()
    read = ad.read_h5ad(h5ad.write_h5ad(result, tmp_path / "x.h5ad"))
    assert read.obs["partial"].dropna().tolist() == ["a"] * 4
    pd.testing.assert_series_equal(result.obs["partial"], before)
    assert (read.raw.X != result.raw.X).nnz == 0


def test_h5ad_replaces_an_older_file_and_follows_links(result, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "real.h5ad").write_text("older")
    (tmp_path / "link.h5ad").symlink_to(folder / "real.h5ad")
    with pytest.raises(FileExistsError, match=r"link\.h5ad exists: .* set overwrite=True"):
        h5ad.write_h5ad(result, tmp_path / "link.h5ad")
    assert (folder / "real.h5ad").read_text() == "older"
    h5ad.write_h5ad(result, tmp_path / "link.h5ad", overwrite=True)
    assert (tmp_path / "link.h5ad").is_symlink()
    assert_equal(result, ad.read_h5ad(folder / "real.h5ad"), exact=True)
    assert entries(folder) == ["real.h5ad"]


def test_zarr_is_read(result, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces the next version of zarr
        result.write_zarr(tmp_path / "x.zarr")
    read = h5ad.read_anndata(tmp_path / "x.zarr")
    assert (read.X != result.X).nnz == 0
    assert read.obs_names.equals(result.obs_names)


def test_storable_leaves_out_what_is_not_set():
    stored = h5ad.storable({"b": None, "a": [], "c": {"d": None, "e": "x"}, "f": ["p", "q"]})
    assert list(stored) == ["a", "c", "f"]
    assert stored["a"].size == 0
    assert stored["c"] == {"e": "x"}
    assert stored["f"].dtype == object
    assert stored["f"].tolist() == ["p", "q"]


@pytest.mark.parametrize("value", [{1, 2}, ["a", None], ["a", 1.5, None], lambda: 0])
def test_storable_refuses_what_a_file_cannot_hold(value):
    with pytest.raises(TypeError, match="stored"):
        h5ad.storable({"key": value})


# ---- errors ----------------------------------------------------------------------------------


def test_missing_file_suggests_the_nearest_name(result, tmp_path):
    h5ad.write_h5ad(result, tmp_path / "donors.h5ad")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*donors\.h5ad"):
        h5ad.read_anndata(tmp_path / "donor.h5ad")
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist"):
        h5ad.read_anndata(tmp_path / "none" / "donor.h5ad")


def test_unreadable_contents_and_endings(tmp_path):
    (tmp_path / "text.h5ad").write_text("not HDF5")
    with pytest.raises(ValueError, match="could not be read as an h5ad file"):
        h5ad.read_anndata(tmp_path / "text.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["x"] = 1
    with (
        pytest.raises(ValueError, match="could not be read as an h5ad file"),
        pytest.warns(ad.OldFormatWarning),
    ):
        h5ad.read_anndata(tmp_path / "other.h5ad")
    (tmp_path / "folder.h5ad").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        h5ad.read_anndata(tmp_path / "folder.h5ad")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match="could not be read as a zarr folder"):
        h5ad.read_anndata(tmp_path / "empty.zarr")
    with pytest.raises(ValueError, match=r"ends in \.csv, expected \.h5ad or \.zarr"):
        h5ad.read_anndata("table.csv")
    with pytest.raises(ValueError, match="read_10x_h5"):
        h5ad.read_anndata("filtered.h5")
    with pytest.raises(TypeError, match="adata must be the path"):
        h5ad.read_anndata(3)


def test_output_is_checked_before_any_work(tmp_path):
    endings = (".h5ad", ".rds")
    assert paths.check_output(str(tmp_path / "x.RDS"), endings) == tmp_path / "x.RDS"
    with pytest.raises(ValueError, match=r"ends in \.csv, expected \.h5ad or \.rds"):
        paths.check_output(tmp_path / "x.csv", endings)
    with pytest.raises(ValueError, match="has no extension"):
        paths.check_output(tmp_path / "x", endings)
    with pytest.raises(FileNotFoundError, match=r"the folder .*missing does not exist"):
        paths.check_output(tmp_path / "missing" / "x.rds", endings)
    (tmp_path / "x.rds").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        paths.check_output(tmp_path / "x.rds", endings)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        paths.check_output(tmp_path / "file" / "x.rds", endings)
    with pytest.raises(TypeError, match="out must be the path"):
        paths.check_output("", endings)
    assert entries(tmp_path) == ["file", "x.rds"]


@pytest.mark.parametrize("ending", [".h5ad", ".zarr", ".h5"])
def test_a_pipe_or_device_is_not_replaced(tmp_path, ending):
    """As the administrator, a link to /dev/null would otherwise replace it for all programs."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / f"x{ending}").symlink_to(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"a pipe|a zarr folder"):
        paths.check_output(tmp_path / f"x{ending}", (ending,), overwrite=True)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_only_zarr_folders_are_replaced(result, tmp_path):
    endings = (".h5ad", ".zarr", ".h5")
    path = tmp_path / "x.zarr"
    assert paths.check_output(path, endings) == path
    path.mkdir()
    assert paths.check_output(path, endings) == path
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"contains notes\.txt, which is not part of a zarr"):
        paths.check_output(path, endings, overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces the next version of zarr
        result.write_zarr(tmp_path / "y.zarr")
    with pytest.raises(FileExistsError, match=r"y\.zarr exists: .* set overwrite=True"):
        paths.check_output(tmp_path / "y.zarr", endings)
    found = paths.check_output(tmp_path / "y.zarr", endings, overwrite=True)
    assert found == tmp_path / "y.zarr"
    (tmp_path / "z.zarr").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file, expected a zarr folder"):
        paths.check_output(tmp_path / "z.zarr", endings)


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt])
def test_folders_are_replaced_as_files_are(tmp_path, failure):
    path = tmp_path / "x.zarr"
    path.mkdir()
    (path / "older").write_text("")

    def write():
        with paths.replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "newer").write_text("")
            if failure is not None:
                raise failure

    if failure is None:
        write()
    else:
        with pytest.raises(failure):
            write()
    assert entries(tmp_path) == ["x.zarr"]
    assert entries(path) == ["newer" if failure is None else "older"]


def test_unwritable_folder_is_refused():
    # Root may write whatever the permission bits say, but not to this file system.
    with pytest.raises(PermissionError, match="/proc is not writable"):
        paths.check_output("/proc/x.h5ad", (".h5ad",))


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_older_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "x.rds"
    path.write_text("older")

    def write_half():
        with paths.replacing(path) as temporary:
            assert temporary.parent.parent == tmp_path
            temporary.write_text("half of the new")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert entries(tmp_path) == ["x.rds"]
    assert path.read_text() == "older"


def test_failing_writers_leave_nothing(result, tmp_path):
    result.uns["function"] = len
    with pytest.raises(Exception, match="function"):
        h5ad.write_h5ad(result, tmp_path / "x.h5ad")
    del result.uns["function"]
    result.X = result.X.astype(np.float32) / 2
    with pytest.raises(ValueError, match="not whole numbers"):
        ten_x.write_10x_h5(result, tmp_path / "x.h5")
    result.X = -result.layers["raw_counts"]
    with pytest.raises(ValueError, match="negative"):
        ten_x.write_10x_h5(result, tmp_path / "x.h5")
    assert entries(tmp_path) == []


# ---- 10x HDF5 --------------------------------------------------------------------------------


def test_10x_file_is_read_by_scanpy(result, tmp_path):
    path = ten_x.write_10x_h5(result, tmp_path / "x.h5", genome="GRCh38")
    read = scanpy.read_10x_h5(path)
    assert read.shape == result.shape
    np.testing.assert_array_equal(read.X.toarray(), result.X.toarray())
    assert list(read.obs_names) == list(result.obs_names)
    assert list(read.var_names) == list(result.var_names)
    assert list(read.var["gene_ids"]) == list(result.var["gene_ids"])
    assert set(read.var["genome"]) == {"GRCh38"}
    assert set(read.var["feature_types"]) == {"Gene Expression"}
    assert entries(tmp_path) == ["x.h5"]


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_10x_file_of_a_result_on_disk(trained_model, tmp_path, ending):
    how = {"transform_batch": "V3", "progress": False}
    counts = sb.corrected_counts(trained_model, out=tmp_path / f"x.{ending}", **how)
    written = scanpy.read_10x_h5(ten_x.write_10x_h5(counts, tmp_path / "x.h5"))
    assert (written.X != sb.corrected_counts(trained_model, **how).X).nnz == 0


def test_10x_file_has_the_layout_of_cell_ranger(result, tmp_path):
    result.var_names = [*result.var_names[:6], "gène"]
    path = ten_x.write_10x_h5(result, tmp_path / "x.h5")
    with h5py.File(path) as file:
        group = file["matrix"]
        assert group["shape"][:].tolist() == [7, 12]
        np.testing.assert_array_equal(group["data"][:], result.X.data)
        np.testing.assert_array_equal(group["indices"][:], result.X.indices)
        np.testing.assert_array_equal(group["indptr"][:], result.X.indptr)
        assert group["features/_all_tag_keys"][:].tolist() == [b"genome"]
        assert group["features/genome"][0] == b"unknown"
        assert group["features/name"][6].decode() == "gène"
        provenance = json.loads(file.attrs["scvibridge"])
    assert provenance["transform_batch"] == ["V3"]
    assert provenance["seed"] == 7


def test_10x_file_of_unsorted_dense_or_empty_counts(result, tmp_path):
    expected = result.X.toarray()
    reverse = [slice(a, b) for a, b in zip(result.X.indptr, result.X.indptr[1:], strict=False)]
    unsorted = result.X.copy()
    for row in reverse:
        unsorted.data[row] = unsorted.data[row][::-1]
        unsorted.indices[row] = unsorted.indices[row][::-1]
    unsorted.has_sorted_indices = False
    order = unsorted.indices.copy()
    for matrix in (unsorted, expected.astype(np.float64), sp.csc_matrix(result.X)):
        result.X = matrix
        path = ten_x.write_10x_h5(result, tmp_path / "x.h5", overwrite=True)
        read = scanpy.read_10x_h5(path)
        np.testing.assert_array_equal(read.X.toarray(), expected)
        assert read.X.has_sorted_indices
    np.testing.assert_array_equal(unsorted.indices, order)
    empty = ad.AnnData(sp.csr_matrix((12, 7), dtype=np.int32), obs=result.obs, var=result.var)
    path = ten_x.write_10x_h5(empty, tmp_path / "empty.h5")
    assert scanpy.read_10x_h5(path).X.nnz == 0
