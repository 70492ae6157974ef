"""Data in several files, one for each sample: the same as if they stood in one."""

from __future__ import annotations

import errno
import os
import resource
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from scvibridge._utils import selections
from scvibridge.cli import main
from scvibridge.io import hdf5, joined_files, sparse_files

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]

HOW = {"transform_batch": "V3", "labels_key": "cell_type", "progress": False}


@pytest.fixture(scope="module")
def files(simulated, tmp_path_factory):
    """The batches of the data in files of different formats, orders of genes and further genes."""
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    paths = []
    for batch in ("V1", "V2", "V3"):
        part = simulated[simulated.obs["batch"] == batch].copy()
        del part.layers["mean"], part.varm["batch_effect"]
        part.obs["batch"] = part.obs["batch"].astype(str).astype("category")
        part.obsm["X_pca"] = rng.normal(size=(part.n_obs, 3 if batch == "V1" else 2))
        part.obsm["X_umap"] = rng.normal(size=(part.n_obs, 2))
        if batch == "V2":  # another order, and one more gene
            part = part[:, rng.permutation(part.n_vars)].copy()
            more = ad.AnnData(np.ones((part.n_obs, 1)), part.obs, pd.DataFrame(index=["more"]))
            part = ad.concat([part, more], axis="var", merge="unique")
            part.X = sp.csc_matrix(part.X)
            part.obs["of_v2"] = 1.0
        path = folder / f"{batch}.{'zarr' if batch == 'V3' else 'h5ad'}"
        (part.write_zarr if batch == "V3" else part.write_h5ad)(path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def whole(simulated):
    """The same cells in one AnnData, in the order of the files."""
    return simulated[np.argsort(simulated.obs["batch"].cat.codes, kind="stable")].copy()


@pytest.fixture(scope="module")
def expected(model_folder, whole):
    return sb.corrected_counts(sb.load(model_folder, adata=whole), **HOW)


def test_a_model_is_loaded_with_several_files(model_folder, files, whole, expected):
    model = sb.load(model_folder, adata=files)
    assert_array_equal(model.adata.obs_names, whole.obs_names)
    assert (model.adata.X != whole[:, model.adata.var_names].X).nnz == 0
    found = sb.corrected_counts(model, **HOW)
    assert (found.X != expected.X).nnz == 0
    assert_array_equal(found.var_names, expected.var_names)


def test_the_tables_of_files_are_joined(files, whole):
    joined = joined_files.join_files(files, None)
    assert_array_equal(joined.obs["batch"].astype(str), whole.obs["batch"].astype(str))
    assert joined.obs["batch"].dtype == "category"
    assert joined.obs["of_v2"].isna().sum() == (whole.obs["batch"] != "V2").sum()
    assert_array_equal(joined.var["symbol"], whole.var["symbol"])
    # The number of dimensions differs.
    assert list(joined.obsm) == ["X_umap"]
    assert "more" not in joined.var_names


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_more_files_are_joined_than_may_be_open(simulated, tmp_path, ending):
    cells = simulated[:36].copy()
    paths = [str(tmp_path / f"{number}.{ending}") for number in range(18)]
    for number, path in enumerate(paths):
        part = cells[2 * number : 2 * number + 2].copy()
        part.write_h5ad(path) if ending == "h5ad" else part.write_zarr(path)
    with open(os.devnull) as file:  # noqa: PTH123
        most = file.fileno() + 15
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        joined = [joined_files.join_files(paths, None, on_disk=disk) for disk in (False, True)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for found in joined:
        assert_array_equal(found.obs_names, cells.obs_names)
        assert (found.to_memory().X != cells.X).nnz == 0


@pytest.mark.parametrize("place", ["X", "dense"])
def test_a_file_that_is_replaced_while_it_is_read_is_told(simulated, tmp_path, place, monkeypatch):
    path = tmp_path / "x.h5ad"
    cells = simulated[:20].copy()
    if place == "dense":
        cells.X = cells.X.toarray()
    cells.write_h5ad(path)

    def replaced(*arguments):
        cells[:10].copy().write_h5ad(path)
        return check(*arguments)

    check = joined_files._check_cells
    monkeypatch.setattr(joined_files, "_check_cells", replaced)
    with pytest.raises(ValueError, match=r"x\.h5ad was replaced while it was read"):
        joined_files.join_files([path], None)


MIXED = {
    "numbers": ([1, 2], ["1", "3"], ["1", "2", "1", "3"]),
    "floats": ([1.0, 2.5], ["1", "2.5"], ["1", "2.5", "1", "2.5"]),
    "categories": (pd.Categorical([1, 2]), pd.Categorical(["2", "1"]), ["1", "2", "2", "1"]),
    "booleans": ([True, False], ["True", "no"], ["True", "False", "True", "no"]),
    "missing": ([1.0, np.nan], ["1", "a"], ["1", None, "1", "a"]),
    "alike": ([1, 2], [2.0, 3.0], [1, 2, 2, 3]),
}


@pytest.mark.parametrize("name", MIXED)
def test_numbers_in_one_file_and_text_in_another_become_text(simulated, tmp_path, name):
    """Otherwise 1 and "1" would be two batches."""
    *values, expected = MIXED[name]
    paths = [tmp_path / "0.h5ad", tmp_path / "1.h5ad"]
    for number, path in enumerate(paths):
        part = simulated[2 * number : 2 * number + 2].copy()
        part.obs["mixed"] = values[number]
        part.write_h5ad(path)
    found = joined_files.join_files(paths, None).obs["mixed"].astype(object)
    assert found.where(found.notna(), None).tolist() == expected


class FewBits:
    """numpy, but the largest 32-bit integer is 1,000: matrices of 2**31 counts are too large."""

    def __getattr__(self, name):
        return getattr(np, name)

    def iinfo(self, dtype):
        return SimpleNamespace(max=1000) if dtype is np.int32 else np.iinfo(dtype)


def test_more_counts_than_32_bits_can_number_are_joined(files, whole, monkeypatch):
    monkeypatch.setattr("anndata._core.sparse_dataset.np", FewBits())
    monkeypatch.setattr(joined_files, "_LARGEST_INT32", 1000)
    monkeypatch.setattr(joined_files, "_ENTRIES_PER_READ", 2000)
    joined = joined_files.join_files(files, None, on_disk=True)
    assert joined.X.group["indptr"].dtype == np.int64
    assert (joined.to_memory().X != whole[:, joined.var_names].X).nnz == 0


def test_pointers_of_joined_counts_are_of_one_type_if_they_can_be(files, whole):
    joined = joined_files.join_files(files, None, on_disk=True)
    types = {joined.X.group[name].dtype for name in ("indptr", "indices")}
    assert types == {np.dtype(np.int32)}
    rows = [5, 250, 2]
    assert_array_equal(joined.X[rows].toarray(), whole[rows, joined.var_names].X.toarray())


def test_functions_take_several_files(model_folder, files, expected, tmp_path, monkeypatch):
    """In memory, and streamed, block by block."""
    monkeypatch.setattr(joined_files, "_ENTRIES_PER_READ", 120 * 7)
    model = sb.load(model_folder, adata=False)
    found = sb.corrected_counts(model, adata=files, **HOW)
    assert (found.X != expected.X).nnz == 0
    out = tmp_path / "corrected.h5ad"
    sb.corrected_counts(model, adata=files, out=out, **HOW)
    written = ad.read_h5ad(out)
    assert (written.X != expected.X).nnz == 0
    assert_array_equal(
        written.layers["raw_counts"].toarray(), expected.layers["raw_counts"].toarray()
    )
    table = sb.batch_support(model, adata=files, transform_batch="V3", progress=False)
    assert len(table.cells) == expected.n_obs


def test_the_temporary_copy_is_removed(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(joined_files.tempfile, "tempdir", None)
    joined = joined_files.join_files(files, None, on_disk=True)
    assert list(tmp_path.glob("*/counts.h5"))
    del joined
    assert not list(tmp_path.iterdir())


def test_the_temporary_copy_is_removed_after_an_error(model_folder, files, tmp_path, monkeypatch):
    """Sessions keep the last error, and all that it refers to."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(joined_files.tempfile, "tempdir", None)
    model = sb.load(model_folder, adata=False)

    def failing(*_arguments):
        assert list(tmp_path.glob("*/counts.h5"))
        raise ValueError("for another reason")

    monkeypatch.setattr(selections, "resolve_indices", failing)
    with pytest.raises(ValueError, match="for another reason") as raised:
        sb.corrected_counts(model, adata=files, out=tmp_path / "x.h5ad", **HOW)
    assert not list(tmp_path.iterdir())
    del raised


def test_a_full_folder_for_temporary_files_is_told(model_folder, files, tmp_path, monkeypatch):
    """HDF5 itself would end the process."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(joined_files.tempfile, "tempdir", None)
    model = sb.load(model_folder, adata=False)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hdf5._Output, "_write_all", full)
    message = r"no space is left: the joined counts could not be written to .* \(set TMPDIR"
    with pytest.raises(OSError, match=message) as raised:
        sb.corrected_counts(model, adata=files, out=tmp_path / "x.h5ad", **HOW)
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
    del raised


def test_a_model_is_trained_on_several_files(files, whole):
    found = sb.train_scvi(files, "batch", n_top_genes=None, max_epochs=1, progress=False)
    one = sb.train_scvi(whole.copy(), "batch", n_top_genes=None, max_epochs=1, progress=False)
    assert_array_equal(found.adata.obs_names, one.adata.obs_names)
    assert (found.adata.X != one.adata[:, found.adata.var_names].X).nnz == 0


def test_genes_are_added_from_several_files(model_folder, whole, tmp_path):
    """Their genes are those that the model has and 20 others."""
    rng = np.random.default_rng(3)
    added = sp.random(whole.n_obs, 20, density=0.4, random_state=rng, format="csr")
    added.data = rng.poisson(3, added.nnz) + 1.0
    names = [f"added_{number}" for number in range(20)]
    rest = ad.AnnData(added, whole.obs[[]], pd.DataFrame(index=names))
    full = ad.concat([whole, rest], axis="var", merge="unique")
    batch = full.obs["batch"].astype(str)
    paths = []
    for name in ("V1", "V2", "V3"):
        part = full[batch == name].copy()
        part.X = sp.csr_matrix(part.X)
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        paths.append(tmp_path / f"{name}.h5ad")
    full.X = sp.csr_matrix(full.X)
    model = sb.load(model_folder, adata=False)
    how = {"max_epochs": 2, "ridge": 0.1, "progress": False}
    found = sb.extend_genes(model, paths, **how)
    one = sb.extend_genes(model, full, **how)
    assert_array_equal(found.genes, one.genes)
    pd.testing.assert_frame_equal(found.quality, one.quality)
    ours = sb.corrected_counts(found, adata=paths, **HOW)
    theirs = sb.corrected_counts(one, adata=full, **HOW)
    assert (ours.X != theirs.X).nnz == 0


def test_damage_and_the_report_take_several_files(model_folder, files, whole, expected, tmp_path):
    how = {"labels_key": "cell_type", "max_epochs": 1, "progress": False, "seed": 2}
    of_files = sb.damage(files, "batch", **how)
    pd.testing.assert_frame_equal(of_files, sb.damage(whole.copy(), "batch", **how))
    calibrated = sb.calibration(
        sb.load(model_folder, adata=False), adata=files, indices=whole.obs_names[::3],
        n_references=5, progress=False,
    )  # fmt: skip
    of_one = sb.calibration(
        sb.load(model_folder, adata=False), adata=whole, indices=whole.obs_names[::3],
        n_references=5, progress=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(calibrated.batches, of_one.batches)
    model = sb.load(model_folder, adata=False)
    for name, data in (("files", files), ("whole", whole)):
        page = tmp_path / f"{name}.html"
        sb.report(expected, page, model=model, adata=data, calibration=calibrated, progress=False)
    pages = [(tmp_path / f"{name}.html").read_text() for name in ("files", "whole")]
    assert pages[0] == pages[1]


def test_the_command_takes_several_files(model_folder, files, expected, tmp_path, capsys):
    out = tmp_path / "corrected.h5ad"
    arguments = ["correct", model_folder, "--adata", *files, "--transform-batch", "V3"]
    arguments += ["--labels-key", "cell_type", "--out", out, "--quiet"]
    assert main.main([str(value) for value in arguments]) == 0
    assert (ad.read_h5ad(out).X != expected.X).nnz == 0
    capsys.readouterr()
    repeated = [part for file in files for part in ("--adata", file)]
    again = ["correct", model_folder, *repeated, *arguments[3 + len(files) :], "--overwrite"]
    assert main.main([str(value) for value in again]) == 0
    assert (ad.read_h5ad(out).X != expected.X).nnz == 0
    capsys.readouterr()
    arguments[3] = str(tmp_path / "none.h5ad")
    arguments.append("--overwrite")
    assert main.main([str(value) for value in arguments]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_the_commands_of_raw_counts_take_several_files(files, whole, tmp_path, capsys):
    common = ["--batch-key", "batch", "--max-epochs", "1", "--quiet", "--device", "cpu"]
    out = tmp_path / "trained"
    assert main.main(["train", *files, *common, "--all-genes", "--out", str(out)]) == 0
    assert_array_equal(sb.load(out).adata.obs_names, whole.obs_names)
    table = tmp_path / "damage.csv"
    assert main.main(["damage", *files, *common, "--out", str(table)]) == 0
    expected = sb.damage(files, "batch", max_epochs=1, progress=False, device="cpu")
    assert_allclose(pd.read_csv(table)["after"], expected["after"], rtol=1e-12)
    capsys.readouterr()
    assert main.main(["train", files[0], str(tmp_path / "none.h5ad"), "--out", "x"]) == 2
    assert "there is no file" in capsys.readouterr().err


# -- input ---------------------------------------------------------------------------------------


def files_of_types(simulated, folder, types):
    """The batches in files whose counts have other types; those of V2 are large."""
    paths = []
    for batch, kind in types.items():
        part = simulated[simulated.obs["batch"] == batch, :].copy()
        counts = part.X.toarray()
        counts = counts + 300 if batch == "V2" else np.minimum(counts, 255)
        counts = np.log1p(counts) if kind == "log" else counts
        kept = ad.AnnData(sp.csr_matrix(counts.astype("float32" if kind == "log" else kind)))
        kept.obs, kept.var_names = part.obs[["batch", "cell_type"]], part.var_names
        paths.append(folder / f"{batch}.h5ad")
        kept.write_h5ad(paths[-1])
    return paths


@pytest.mark.parametrize("last", ["int32", "float32", "float64", "uint16"])
def test_counts_of_other_types_keep_their_values(model_folder, simulated, tmp_path, last):
    """HDF5 would cut off what does not fit into the type of the first file."""
    paths = files_of_types(simulated, tmp_path, {"V1": "uint8", "V2": last, "V3": "int16"})
    model = sb.load(model_folder, adata=False)
    together = ad.concat([ad.read_h5ad(path) for path in paths])
    expected = sb.corrected_counts(model, together, **HOW)
    for settings in ({}, {"out": tmp_path / "out.h5ad"}):
        found = sb.corrected_counts(model, paths, **HOW, **settings)
        found = found.to_memory() if "out" in settings else found
        raw = found.layers["raw_counts"].toarray()
        assert_array_equal(raw, together[:, found.var_names].X.toarray())
        assert (found.X != expected.X).nnz == 0


def test_logarithms_in_a_later_file_are_refused(model_folder, simulated, tmp_path):
    paths = files_of_types(simulated, tmp_path, {"V1": "int32", "V2": "log", "V3": "int32"})
    model = sb.load(model_folder, adata=False)
    for settings in ({}, {"out": tmp_path / "out.h5ad"}):
        with pytest.raises(ValueError, match="must hold raw counts"):
            sb.corrected_counts(model, paths, **HOW, **settings)


def test_cells_of_one_name_are_refused(model_folder, files, tmp_path):
    twin = tmp_path / "twin.h5ad"
    ad.read_h5ad(files[0])[:5].copy().write_h5ad(twin)
    with pytest.raises(
        ValueError, match=r"5 cells of .*twin.h5ad have the same names.*with the sample as a prefix"
    ):
        sb.load(model_folder, adata=[*files, twin])


@pytest.mark.parametrize("out", [None, "out.h5ad"])
def test_files_without_cells(model_folder, simulated, whole, tmp_path, out):
    simulated[:0].write_h5ad(tmp_path / "none.h5ad")
    out = None if out is None else tmp_path / out
    model = sb.load(model_folder, adata=whole)
    with pytest.raises(ValueError, match=r"there are no cells in '.*none\.h5ad'"):
        sb.corrected_counts(model, [tmp_path / "none.h5ad"], out=out, **HOW)
    simulated.write_h5ad(tmp_path / "all.h5ad")
    both = [tmp_path / "none.h5ad", tmp_path / "all.h5ad"]
    found = sb.corrected_counts(model, both, out=out, **HOW)
    assert found.shape == simulated.shape


def test_a_file_without_some_genes_is_named(model_folder, files, tmp_path):
    few = tmp_path / "few.h5ad"
    ad.read_h5ad(files[0])[:, 2:].copy().write_h5ad(few)
    for how in (
        lambda given: sb.load(model_folder, adata=given),
        lambda given: sb.corrected_counts(sb.load(model_folder, adata=False), adata=given, **HOW),
    ):
        with pytest.raises(ValueError, match=r"few.h5ad lacks 2 of the model's 120 genes.*gene_00"):
            how([str(few), *files[1:]])


def test_what_is_no_list_of_files_is_refused(model_folder, files, tmp_path, simulated):
    with pytest.raises(ValueError, match="empty list"):
        sb.load(model_folder, adata=[])
    with pytest.raises(TypeError, match=r"must hold paths.*got AnnData: join.*anndata.concat"):
        sb.load(model_folder, adata=[simulated, files[0]])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        sb.load(model_folder, adata=[files[0], str(tmp_path / "none.h5ad")])
    logged = tmp_path / "logged.h5ad"
    part = ad.read_h5ad(files[0])
    part.X = part.X.log1p()
    part.write_h5ad(logged)
    with pytest.raises(ValueError, match="not whole numbers"):
        sb.corrected_counts(
            sb.load(model_folder, adata=False), adata=[str(logged), *files[1:]], **HOW
        )
    with pytest.raises(ValueError, match="is a file that is being read"):
        sb.corrected_counts(
            sb.load(model_folder, adata=False), adata=files, out=files[0], overwrite=True, **HOW
        )


# -- other places of a matrix ----------------------------------------------------------------------


def test_counts_of_dask_are_computed(model_folder, whole, expected):
    array = pytest.importorskip("dask.array")
    lazy = whole.copy()
    lazy.X = array.from_array(whole.X.toarray(), chunks=(70, 50))
    found = sb.corrected_counts(sb.load(model_folder, adata=lazy), **HOW)
    assert (found.X != expected.X).nnz == 0
    given = sb.corrected_counts(sb.load(model_folder, adata=False), adata=lazy, **HOW)
    assert (given.X != expected.X).nnz == 0


def test_counts_on_a_gpu_are_refused():
    """A stand-in: cupy itself needs a GPU."""
    matrix = type("csr_matrix", (), {"__module__": "cupyx.scipy.sparse._csr"})()

    class Data:
        filename, is_view, X, layers = None, False, None, {"counts": matrix}

    with pytest.raises(TypeError, match=r"layers\['counts'\] of the data is in GPU memory.*to_CPU"):
        sparse_files.check_given(Data())
