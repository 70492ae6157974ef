"""AnnData on the disk, and rows of any matrix: what they hold in memory, wherever they lie."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import resource
import shutil
import signal
import warnings
from contextlib import contextmanager

import anndata as ad
import h5py
import lazy
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import streamed
import zarr
import zarr_formats
from anndata.tests.helpers import assert_equal

from scvibridge.io import backed, h5ad, row_order, row_reader, ten_x
from scvibridge.io.opened_zarr import ReplacedFolderError

N_CELLS, N_GENES = 280, 130


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(8)
    counts = sp.random(N_CELLS, N_GENES, density=0.2, format="csr", random_state=4)
    counts.data = rng.integers(1, 900, counts.nnz)
    empty = [0, N_CELLS - 1, *rng.integers(0, N_CELLS, 24)]  # cells without counts
    counts.data[np.isin(counts.tocoo().row, empty)] = 0
    counts.eliminate_zeros()
    return counts.astype(np.float32)


@pytest.fixture(scope="module")
def stored(counts, tmp_path_factory):
    """The same counts in all layouts, as h5ad and as zarr."""
    folder = tmp_path_factory.mktemp("stored")
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(["a", "b"] * (N_CELLS // 2)),
            "text": [f"note {i % 3}" for i in range(N_CELLS)],
            "maybe": pd.array([True, None] * (N_CELLS // 2), dtype="boolean"),
            "depth": np.arange(N_CELLS) / 7,
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    layers = {"csc": counts.tocsc(), "dense": counts.toarray(), "integers": counts.astype(int)}
    adata = ad.AnnData(counts, obs=obs, layers=layers, obsm={"X_pca": np.ones((N_CELLS, 3))})
    adata.raw = adata[:, :90].copy()
    adata.obsp["distances"] = sp.eye(N_CELLS, format="csr")
    adata.uns["setting"] = {"a": 1, "b": np.array(["x", "y"], dtype=object)}
    paths = {}
    for name, settings in {"small": {"chunks": (50, 40)}, "plain": {}}.items():
        with h5py.File(folder / f"{name}.h5ad", "w") as file:
            ad.io.write_elem(file, "/", adata)
            del file["layers/dense"]
            dense = file.create_dataset("layers/dense", data=counts.toarray(), **settings)
            dense.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        paths[f"h5ad {name}"] = folder / f"{name}.h5ad"
        root = zarr_formats.new_group(folder / f"{name}.zarr")
        ad.io.write_elem(root, "/", adata)
        del root["layers/dense"]
        dense = zarr_formats.add_array(root, "layers/dense", counts.toarray(), **settings)
        dense.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        zarr.consolidate_metadata(root.store)
        paths[f"zarr {name}"] = folder / f"{name}.zarr"
    return paths


PLACES = ["h5ad small", "h5ad plain", "zarr small", "zarr plain"]


# ---- opening ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_opened_matrices_stay_on_the_disk(stored, place):
    opened = backed.open_anndata(stored[place])
    gc.collect()  # nobody but the matrices holds the file
    matrices = {"X": opened.X, "raw": opened.raw.X, **opened.layers, **opened.obsp}
    assert all(not isinstance(m, np.ndarray) and not sp.issparse(m) for m in matrices.values())
    assert isinstance(opened.obsm["X_pca"], np.ndarray)
    assert isinstance(opened.obs, pd.DataFrame)
    expected = h5ad.read_anndata(stored[place])
    assert_equal(expected, opened.to_memory(), exact=True)
    np.testing.assert_array_equal(expected.raw.X.toarray(), opened.raw.X.to_memory().toarray())
    assert len(opened) == N_CELLS


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rows", [slice(20, 40), [5, 3, 260], np.arange(N_CELLS) % 9 == 0])
def test_subsets_load_what_they_select(stored, counts, place, rows):
    if "zarr" in place and isinstance(rows, np.ndarray) and zarr_formats.IS_ZARR_2:
        pytest.skip("zarr 2 selects no rows of a dense matrix by a mask")
    subset = backed.open_anndata(stored[place])[rows]
    expected = h5ad.read_anndata(stored[place])[rows]
    np.testing.assert_array_equal(subset.X.toarray(), expected.X.toarray())
    for name in ("csc", "dense"):
        found = subset.layers[name]
        found = found.toarray() if sp.issparse(found) else np.asarray(found)
        np.testing.assert_array_equal(found, counts.toarray()[rows])
    assert_equal(subset.to_memory(), expected.copy())
    assert_equal(subset[:, :7].to_memory(), expected[:, :7].copy())


def test_results_of_all_kinds_are_opened(tmp_path):
    for ending in ("h5ad", "zarr", "h5"):
        plan = streamed.plan_of()
        plan = streamed.counts_plan(plan) if ending == "h5" else plan
        opened = backed.open_anndata(streamed.run(tmp_path / f"x.{ending}", plan))
        expected = streamed.whole(plan)
        assert opened.X.to_memory().dtype == np.int32
        np.testing.assert_array_equal(opened.X.to_memory().toarray(), expected.X.toarray())
        np.testing.assert_array_equal(opened[7:9].X.toarray(), expected.X[7:9].toarray())
        assert list(opened.obs_names) == list(expected.obs_names)
        assert list(opened.var_names) == list(expected.var_names)
        assert list(opened.var["gene_ids"]) == list(expected.var["gene_ids"])
        provenance = opened.uns["scvibridge"]
        assert provenance["kind"] == "corrected_counts"
        np.testing.assert_array_equal(provenance["depth"], [1.5, 2.0])
        assert "label" not in provenance
        assert opened.to_memory().shape == expected.shape


def test_10x_files_written_from_memory_are_opened(tmp_path):
    result = streamed.whole(streamed.counts_plan(streamed.plan_of()))
    opened = backed.open_anndata(ten_x.write_10x_h5(result, tmp_path / "x.h5", genome="hg38"))
    np.testing.assert_array_equal(opened.X.to_memory().toarray(), result.X.toarray())
    assert set(opened.var["genome"]) == {"hg38"}


def test_a_result_can_be_opened_while_a_newer_one_takes_its_place(tmp_path):
    path = streamed.run(tmp_path / "x.h5ad", streamed.plan_of())
    opened = backed.open_anndata(path)
    streamed.run(path, streamed.plan_of(n_cells=50))
    np.testing.assert_array_equal(
        opened.X.to_memory().toarray(), streamed.whole(streamed.plan_of()).X.toarray()
    )


@pytest.mark.parametrize("how", ["newer", "own", "removed"])
def test_a_zarr_folder_that_was_replaced_is_told(tmp_path, how):
    """To zarr, what does not exist is zero: a result would be empty, or a mixture of two."""
    path = streamed.run(tmp_path / "x.zarr", streamed.plan_of())
    opened = backed.open_anndata(path)
    reader = row_reader.RowReader(opened.X)
    expected = streamed.whole(streamed.plan_of()).X.toarray()
    np.testing.assert_array_equal(opened.X.to_memory().toarray(), expected)
    if how == "newer":
        streamed.run(path, streamed.plan_of(n_cells=50))
    elif how == "own":
        with pytest.raises(ReplacedFolderError, match=r"x\.zarr was replaced or removed"):
            opened.write_zarr(path)
    else:
        shutil.rmtree(path)
    for read in (opened.X.to_memory, opened[:3].to_memory, lambda: reader.read(slice(0, 3))):
        with pytest.raises((ReplacedFolderError, ValueError), match="was replaced or removed"):
            read()


def test_a_result_in_memory_can_be_written_to_its_own_folder(tmp_path):
    path = streamed.run(tmp_path / "x.zarr", streamed.plan_of())
    backed.open_anndata(path).to_memory().write_zarr(path)
    expected = streamed.whole(streamed.plan_of()).X.toarray()
    np.testing.assert_array_equal(backed.open_anndata(path).X.to_memory().toarray(), expected)


def test_files_that_cannot_be_opened(stored, tmp_path):
    def cut(name, share):
        content = stored["h5ad plain"].read_bytes()
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        return tmp_path / name

    for path in (cut("half.h5ad", 0.5), cut("almost.h5ad", 0.999), cut("nothing.h5ad", 0)):
        for read in (backed.open_anndata, h5ad.read_anndata):
            with pytest.raises(ValueError, match="could not be read as an h5ad file that holds"):
                read(path)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match="could not be read as a zarr folder that holds"):
        backed.open_anndata(tmp_path / "empty.zarr")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file.create_group("matrix")
    with pytest.raises(ValueError, match=r"10x HDF5 file: scvibridge did not write it; scanpy\."):
        backed.open_anndata(tmp_path / "foreign.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(IsADirectoryError, match="expected a 10x HDF5 file"):
        backed.open_anndata(tmp_path / "folder.h5")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*foreign\.h5"):
        backed.open_anndata(tmp_path / "forein.h5")
    with pytest.raises(ValueError, match=r"expected \.h5ad or \.zarr or \.h5"):
        backed.open_anndata("x.csv")


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning", "ignore::FutureWarning")
def test_files_without_encodings_are_loaded(stored, tmp_path):
    adata = h5ad.read_anndata(stored["h5ad plain"])
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        ad.io.write_elem(file, "/", ad.AnnData(adata.X, obs=adata.obs[["depth"]], var=adata.var))
        del file.attrs["encoding-type"], file.attrs["encoding-version"]
    opened = backed.open_anndata(path)
    np.testing.assert_array_equal(opened.X.toarray(), adata.X.toarray())


# ---- rows ------------------------------------------------------------------------------------


def in_memory(counts):
    return {
        "csr": counts,
        "csc": counts.tocsc(),
        "csr_array": sp.csr_array(counts),
        "dense": counts.toarray(),
        "fortran": np.asfortranarray(counts.toarray()),
        "integers": counts.astype(np.int64),
    }


def matrices_of(path):
    """All matrices by rows that are in a file, opened by anndata in all ways that it has."""
    opened = backed.open_anndata(path)
    yield from (opened.X, opened.layers["dense"], opened.layers["integers"])
    if path.suffix == ".h5ad":
        yield ad.read_h5ad(path, backed="r").X
    for read in lazy.if_possible(path):
        yield from (read.X, read.layers["dense"], read.layers["integers"])
        yield read.X.rechunk((60, -1))
        yield read.layers["dense"].rechunk((90, 50))


SELECTIONS = {
    "all": slice(None),
    "first": slice(0, 1),
    "some": slice(43, 131),
    "last": slice(250, 2000),
    "none": slice(30, 30),
    "steps": slice(5, 240, 7),
    "backwards": slice(200, 100, -3),
    "unsorted": np.random.default_rng(1).permutation(N_CELLS)[:76],
    "repeated": np.array([9, 9, 3, 279, 3, 0]),
    "sorted": np.flatnonzero(np.random.default_rng(2).random(N_CELLS) < 0.3),
    "far": np.array([240, 2, 3, 241]),
    "no position": np.array([], dtype=int),
}


# Another process opens the file again; from there on it selects rows by the same code.
SELECTIONS_OF_ANOTHER_PROCESS = ("all", "some", "unsorted")


def assert_rows_equal(matrix, counts):
    assert_reads(row_reader.RowReader(matrix), matrix, counts, SELECTIONS)
    elsewhere = sent(row_reader.RowReader(matrix))
    assert_reads(elsewhere, matrix, counts, SELECTIONS_OF_ANOTHER_PROCESS)


def sent(reader):
    """The reader as another process gets it."""
    reader.read(slice(3, 5))
    pickled = pickle.dumps(reader)
    assert len(pickled) < 2 * 8 * N_CELLS or not is_on_disk(reader)
    return pickle.loads(pickled)


def is_on_disk(reader) -> bool:
    return isinstance(reader._rows, row_reader._CSROnDisk | row_reader._DenseRows)


def assert_reads(reader, matrix, counts, selections):
    assert reader.shape == counts.shape
    assert reader.dtype == matrix.dtype
    for name in selections:
        rows = SELECTIONS[name]
        found = reader.read(rows)
        assert isinstance(found, sp.csr_matrix), name
        assert found.dtype == matrix.dtype, name
        np.testing.assert_array_equal(found.toarray(), counts[rows].toarray(), err_msg=name)


@pytest.mark.parametrize("kind", in_memory(sp.csr_matrix((2, 2))))
def test_rows_of_matrices_in_memory(counts, kind):
    assert_rows_equal(in_memory(counts)[kind], counts)


@pytest.mark.parametrize("place", PLACES)
def test_rows_of_matrices_on_the_disk(stored, counts, place):
    for matrix in matrices_of(stored[place]):
        assert row_order.row_ordered(matrix, None) is matrix
        assert_rows_equal(matrix, counts)


@pytest.mark.parametrize("place", ["h5ad small", "zarr plain"])
def test_rows_in_many_small_reads(stored, counts, place, monkeypatch):
    monkeypatch.setattr(row_reader, "_NEAR", 3)
    monkeypatch.setattr(row_reader, "_MAX_ROWS", 11)
    monkeypatch.setattr(row_reader, "_DENSE_BYTES", 4 * 1000)
    for matrix in matrices_of(stored[place]):
        assert_rows_equal(matrix, counts)


def test_positions_outside_are_refused(counts):
    reader = row_reader.RowReader(counts)
    for rows in ([N_CELLS], [-1], [0, N_CELLS + 5]):
        with pytest.raises(IndexError, match=f"within the {N_CELLS} of the matrix"):
            reader.read(np.array(rows))


def test_damaged_chunks_are_an_error(stored, tmp_path):
    path = tmp_path / "x.h5ad"
    adata = h5ad.read_anndata(stored["h5ad plain"])
    h5ad.write_h5ad(adata, path)
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 40] = bytes(40)
    path.write_bytes(bytes(content))
    reader = row_reader.RowReader(backed.open_anndata(path).X)
    with pytest.raises(ValueError, match="rows 0 to 9 could not be read"):
        reader.read(slice(0, 10))

    root = streamed.run(tmp_path / "x.zarr", streamed.plan_of())
    (chunk,) = (root / "X" / "data").rglob("0")  # in a folder of their own in zarr's format 3
    chunk.write_bytes(b"something else")
    reader = row_reader.RowReader(backed.open_anndata(root).X)
    with pytest.raises(ValueError, match="rows 0 to 9 could not be read"):
        reader.read(slice(0, 10))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("part", ["data", "indices"])
@pytest.mark.parametrize("read", [backed.open_anndata, h5ad.read_anndata])
def test_a_zarr_folder_that_was_copied_in_part_is_told(counts, tmp_path, part, zarr_format, read):
    """zarr reads zeros where a file is missing: other counts, or those of the first gene."""
    path = tmp_path / "x.zarr"
    with zarr_formats.written_as(zarr_format):
        ad.AnnData(sp.csr_matrix((N_CELLS, N_GENES)), layers={"counts": counts}).write_zarr(
            path, chunks=(50, N_GENES)
        )
    assert (read(path).layers["counts"][:] != counts).nnz == 0
    files = (path / "layers" / "counts" / part).rglob("*")
    chunk = next(file for file in files if file.name == "0")
    chunk.unlink()
    with pytest.raises(ValueError, match=rf"layers/counts/{part} is incomplete: .* values 0 to"):
        read(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_of_zeros_are_no_lost_chunks(tmp_path, zarr_format):
    """zarr need not write them: here the indices of cells that have only the first gene."""
    only_first = sp.csr_matrix(([5, 3, 2], ([0, 1, 3], [0, 0, 0])), shape=(4, 3))
    with zarr_formats.written_as(zarr_format):
        ad.AnnData(only_first).write_zarr(tmp_path / "x.zarr")
    for file in (tmp_path / "x.zarr/X/indices").rglob("0"):
        file.unlink()  # zarr 2 writes one
    opened = backed.open_anndata(tmp_path / "x.zarr")
    np.testing.assert_array_equal(opened.X.to_memory().toarray(), only_first.toarray())


def test_tables_read_lazily(stored):
    expected = h5ad.read_anndata(stored["h5ad plain"]).obs
    found = backed.as_data_frame(lazy.read(stored["h5ad plain"]).obs)
    # pandas has several types of text, and anndata reads another one here.
    pd.testing.assert_frame_equal(found, expected, check_names=False, check_dtype=False)
    assert backed.as_data_frame(expected) is expected


# ---- from columns to rows --------------------------------------------------------------------


def by_columns(path, kind):
    if kind == "csc":
        return backed.open_anndata(path).layers["csc"]
    if kind == "lazy":
        return lazy.read(path).layers["csc"].rechunk((-1, 40))
    return lazy.read(path).layers["dense"].rechunk((120, 40))


@pytest.mark.parametrize("place", ["h5ad small", "zarr plain"])
@pytest.mark.parametrize("kind", ["csc", "lazy", "lazy dense"])
@pytest.mark.parametrize("block", [1, 64, 10_000])
def test_rows_of_matrices_by_columns(stored, counts, tmp_path, place, kind, block, monkeypatch):
    monkeypatch.setattr(row_order, "_SPILL_LENGTH", 997)
    matrix = by_columns(stored[place], kind)
    if kind == "csc":
        with pytest.raises(TypeError, match=r"by column on disk \(CSC\)"):
            row_reader.RowReader(matrix)
    ordered = row_order.row_ordered(matrix, tmp_path / "scratch", block)
    if kind == "csc" or block < 120:
        assert sorted(p.name for p in (tmp_path / "scratch").iterdir()) == ["rows"]
    assert_rows_equal(ordered, counts)


def test_a_copy_by_rows_is_used_again_if_it_is_complete(stored, counts, tmp_path):
    matrix = by_columns(stored["h5ad plain"], "csc")
    row_order.row_ordered(matrix, tmp_path, 64)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").iterdir()}
    again = row_order.row_ordered(matrix, tmp_path, 64)
    assert written == {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").iterdir()}
    assert_rows_equal(again, counts)

    for damage in (os.unlink, lambda p: os.truncate(p, 8)):
        damage(tmp_path / "rows" / "000003.bin")
        assert_rows_equal(row_order.row_ordered(matrix, tmp_path, 64), counts)
    (tmp_path / "rows" / "manifest.json").write_text("{")
    assert_rows_equal(row_order.row_ordered(matrix, tmp_path, 64), counts)
    assert_rows_equal(row_order.row_ordered(matrix, tmp_path, 50), counts)


def test_a_copy_that_was_interrupted_is_made_again(stored, counts, tmp_path, monkeypatch):
    matrix = by_columns(stored["h5ad plain"], "csc")

    def interrupted(_):
        yield np.array([3]), np.array([4]), np.array([5.0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(row_order, "_entries_of_columns", interrupted)
        with pytest.raises(KeyboardInterrupt):
            row_order.row_ordered(matrix, tmp_path)
    assert not (tmp_path / "rows").exists()
    assert_rows_equal(row_order.row_ordered(matrix, tmp_path), counts)


def test_memory_of_a_copy_does_not_grow_with_the_number_of_cells(tmp_path):
    def memory_of(n_cells: int) -> int:
        # 200 counts in each cell, the same in every gene.
        indices = np.concatenate([np.arange(g % 5, n_cells, 5) for g in range(1000)])
        lengths = [len(range(g % 5, n_cells, 5)) for g in range(1000)]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        shape = (n_cells, 1000)
        counts = sp.csc_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=shape)
        path = tmp_path / f"{n_cells}.h5ad"
        ad.AnnData(counts).write_h5ad(path)
        scratch = tmp_path / f"{n_cells}"
        return streamed.in_child(
            streamed.highest_memory, streamed.read_all_rows, path, scratch
        ).result()

    few, many = memory_of(30_000), memory_of(90_000)
    # 60,000 cells more are 96 MB as they lie in memory.
    assert many - few < 25e6


def test_warnings_are_not_raised_by_opening(stored):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # what anndata is to mend, nobody sees
        for place in PLACES:
            backed.open_anndata(stored[place]).to_memory()


@contextmanager
def files_of_at_most(n_bytes):
    """Writing more to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_told_where_columns_are_copied_to_rows(stored, tmp_path):
    matrix = backed.open_anndata(stored["h5ad plain"]).layers["csc"]
    message = "larger than the file system allows: a copy of the counts by cell .*copy"
    with files_of_at_most(1000), pytest.raises(OSError, match=message) as raised:
        row_order.row_ordered(matrix, tmp_path / "copy")
    assert raised.value.errno == errno.EFBIG


@pytest.mark.parametrize("form", ["h5ad plain", "zarr plain"])
def test_matrices_are_found_from_another_working_directory(
    stored, counts, tmp_path, form, monkeypatch
):
    """As by the workers of a cluster."""
    path = stored[form]
    monkeypatch.chdir(path.parent)
    reader = row_reader.RowReader(backed.open_anndata(path.name).X)
    monkeypatch.chdir(tmp_path)
    for each in (reader, pickle.loads(pickle.dumps(reader))):
        np.testing.assert_array_equal(each.read(slice(0, 5)).toarray(), counts[:5].toarray())
