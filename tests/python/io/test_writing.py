"""Files written block after block: as anndata and Cell Ranger would have written them."""

from __future__ import annotations

import dataclasses
import errno
import json
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scanpy
import scipy.sparse as sp
import streamed
import zarr
from anndata.tests.helpers import assert_equal
from zarr_formats import format_of, is_consolidated, written_as

from scvibridge.io import block_writer, h5ad, hdf5, stores, ten_x

FULL = Path("/dev/full")  # takes no byte


def write(path, plan, blocks=None):
    """Write a result from its blocks; zarr and HDF5 alike."""
    blocks = blocks or [streamed.block(plan, index) for index in range(len(plan.blocks))]
    lengths = {
        field.name: np.concatenate([np.diff(block[field.name].indptr) for block in blocks])
        for field in plan.fields
        if field.sparse
    }
    tables = h5ad.writable(streamed.skeleton(plan))
    unmarked = dataclasses.replace(plan, fingerprint={})  # as what is written from memory
    block_writer.write(path, unmarked, tables, iter(blocks), lengths)
    return path


def reference(plan, path):
    """The same result as anndata writes it from memory: h5ad's text plain.

    Not by `write_h5ad` and `write_zarr`, which in anndata 0.11 always make categories of text.
    """
    result = h5ad.writable(streamed.whole(plan))
    if path.suffix == ".h5ad":
        with h5py.File(path, "w") as file, ad.settings.override(allow_write_nullable_strings=False):
            ad.io.write_elem(file, "/", result)
            file.pop("raw", None)  # null since anndata 0.12, and left out by `write_h5ad`
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata announces the next version of zarr
            root = zarr.open_group(path, mode="w", **block_writer._zarr_format())
            ad.io.write_elem(root, "/", result)
            if "raw" in root:
                del root["raw"]  # null, which anndata 0.11 cannot read
            zarr.consolidate_metadata(root.store)
    return path


def assert_same_contents(found, expected):
    assert found.keys() == expected.keys()
    for name, (attributes, kind, values) in expected.items():
        assert found[name][:2] == (attributes, kind), name
        if values is not None:
            np.testing.assert_array_equal(found[name][2], values, err_msg=name)


@pytest.mark.parametrize(("n_nonzero", "expected"), [(127, np.int8), (128, np.int64)])
def test_pointers_are_wide_where_they_have_to_be(tmp_path, n_nonzero, expected):
    field = next(field for field in streamed.plan_of().fields if field.name == "X")
    with hdf5.new_hdf5(tmp_path / "x.h5") as file, stores.Chunks(file) as chunks:
        store = stores.HDF5Store(file, chunks)
        lengths = np.array([n_nonzero - 60, 60])
        block_writer._SparseMatrix(store, "X", (2, 100), lengths, field, np.int8)
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["X/indptr"].dtype == expected
        np.testing.assert_array_equal(file["X/indptr"][...], [0, n_nonzero - 60, n_nonzero])


# Matrices that end within a chunk of either direction, and ones of one row, block and value.
@pytest.mark.parametrize(
    ("n_cells", "n_genes", "step"), [(900, 700, 130), (230, 60, 40), (256, 512, 256), (1, 1, 1)]
)
def test_h5ad_is_what_anndata_writes(tmp_path, n_cells, n_genes, step):
    plan = streamed.plan_of(n_cells, n_genes, step)
    path = write(tmp_path / "x.h5ad", plan)
    expected = reference(plan, tmp_path / "expected.h5ad")
    with h5py.File(path) as found, h5py.File(expected) as other:
        assert_same_contents(streamed.contents(found), streamed.contents(other))
        assert found["X/indptr"].dtype == found["X/indices"].dtype == np.int32
        assert found["X/data"].dtype == np.int32
    assert_equal(ad.read_h5ad(expected), ad.read_h5ad(path), exact=True)


@pytest.mark.parametrize(("n_cells", "n_genes", "step"), [(1100, 1100, 130), (1, 1, 1)])
def test_zarr_is_what_anndata_writes(tmp_path, n_cells, n_genes, step):
    plan = streamed.plan_of(n_cells, n_genes, step)
    path = write(tmp_path / "x.zarr", plan)
    expected = reference(plan, tmp_path / "expected.zarr")
    found, other = zarr.open_group(path, mode="r"), zarr.open_group(expected, mode="r")
    assert_same_contents(streamed.contents(found), streamed.contents(other))
    assert format_of(found) == format_of(other)
    assert is_consolidated(other)
    assert is_consolidated(found)
    assert_equal(ad.read_zarr(expected), ad.read_zarr(path), exact=True)


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding", "ignore:Consolidated metadata")
def test_zarr_follows_the_setting_of_anndata(tmp_path):
    plan = streamed.plan_of(50, 20, 20)
    with written_as(3):
        path = write(tmp_path / "x.zarr", plan)
        expected = reference(plan, tmp_path / "expected.zarr")
    assert format_of(zarr.open_group(path, mode="r")) == 3
    assert_equal(ad.read_zarr(expected), ad.read_zarr(path), exact=True)


@pytest.mark.parametrize("ending", ["h5ad", "h5"])
def test_hdf5_is_compressed_by_filters_that_every_reader_has(tmp_path, ending):
    plan = streamed.plan_of(900, 700, 130)
    matrices = ["X/data", "X/indices", "layers/normalized", "obsm/X_scvi"]
    if ending == "h5":
        plan, matrices = streamed.counts_plan(plan), ["matrix/data", "matrix/indices"]
    with h5py.File(write(tmp_path / f"x.{ending}", plan)) as file:
        filters = set()

        def look(_, element):
            if isinstance(element, h5py.Dataset):
                pipeline = element.id.get_create_plist()
                filters.update(pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters()))

        file.visititems(look)
        assert filters == {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
        for name in matrices:
            dataset = file[name]
            assert dataset.id.get_storage_size() < 0.95 * dataset.size * dataset.dtype.itemsize
            assert np.prod(dataset.chunks) * dataset.dtype.itemsize <= 2**19
        assert file[matrices[0]].id.get_num_chunks() > 1


@pytest.mark.parametrize("n_cells", [230, 1])
def test_10x_file_is_what_is_written_from_memory(tmp_path, n_cells):
    plan = streamed.counts_plan(streamed.plan_of(n_cells, 40, 50))
    path = write(tmp_path / "x.h5", plan)
    result = h5ad.writable(streamed.whole(plan))
    expected = ten_x.write_10x_h5(result, tmp_path / "expected.h5")
    with h5py.File(path) as found, h5py.File(expected) as other:
        assert_same_contents(streamed.contents(found), streamed.contents(other))
        assert json.loads(found.attrs["scvibridge"])["depth"] == [1.5, 2.0]
    read = scanpy.read_10x_h5(path)
    np.testing.assert_array_equal(read.X.toarray(), result.X.toarray())
    assert list(read.obs_names) == list(result.obs_names)


@pytest.mark.parametrize("ending", ["h5ad", "zarr", "h5"])
def test_blocks_without_any_count(tmp_path, ending):
    plan = streamed.counts_plan(streamed.plan_of(50, 20, 20))
    sizes = [block.stop - block.start for block in plan.blocks]
    blocks = [{"X": sp.csr_matrix((size, 20), dtype=np.int32)} for size in sizes]
    path = write(tmp_path / f"x.{ending}", plan, blocks)
    read = scanpy.read_10x_h5(path) if ending == "h5" else h5ad.read_anndata(path)
    assert read.X.nnz == 0
    assert read.shape == (50, 20)


@pytest.mark.parametrize("ending", ["h5ad", "zarr", "h5"])
def test_pointers_beyond_32_bits(tmp_path, ending):
    # The vectors that these lengths ask for are never filled, so they take no room.
    plan = streamed.counts_plan(streamed.plan_of(2, 20, 2))
    tables = h5ad.writable(streamed.skeleton(plan))
    path = tmp_path / f"x.{ending}"
    block_writer.write(path, plan, tables, iter([]), {"X": np.array([2**31, 5])})
    root = zarr.open_group(path, mode="r") if ending == "zarr" else h5py.File(path)
    group = root["matrix" if ending == "h5" else "X"]
    assert group["indptr"][:].tolist() == [0, 2**31, 2**31 + 5]
    assert group["data"].shape == group["indices"].shape == (2**31 + 5,)


@pytest.mark.parametrize("ending", ["h5ad", "zarr", "h5"])
def test_an_error_between_blocks_is_passed_on(tmp_path, ending):
    plan = streamed.counts_plan(streamed.plan_of(900, 700, 130))

    def blocks():
        yield streamed.block(plan, 0)
        raise RuntimeError("no more blocks")

    tables = h5ad.writable(streamed.skeleton(plan))
    with pytest.raises(RuntimeError, match="no more blocks"):
        block_writer.write(
            tmp_path / f"x.{ending}", plan, tables, blocks(), {"X": np.full(900, 300)}
        )


def fill(file):
    values = np.random.default_rng(1).random((500, 300))
    for name in ("a", "b"):
        file.create_dataset(name, data=values, compression="gzip")
    np.testing.assert_array_equal(file["a"][:], values)  # read back from where it is held


def test_hdf5_does_not_see_that_nothing_can_be_written():
    # HDF5 itself would end the process with a segmentation fault, if not at the first time.
    for _ in range(3):
        with pytest.raises(OSError, match="No space left") as raised, hdf5.new_hdf5(FULL) as file:
            fill(file)
        assert raised.value.errno == errno.ENOSPC
        assert not file  # closed


def test_writing_stops_where_it_is_asked_whether_it_goes_well():
    asked = []

    def write():
        with hdf5.new_hdf5(FULL) as file:
            for step in range(100):
                file[f"{step}"] = np.full(10_000, step)
                file.flush()
                asked.append(step)
                file.check()

    with pytest.raises(OSError, match="No space left"):
        write()
    assert asked == [0]


@pytest.mark.parametrize("length", [1, 7, 40, 1000])
def test_pieces_come_out_whole_and_in_order(length):
    values = np.arange(300).reshape(150, 2)
    got = []
    pieces = stores.Pieces(length, lambda start, rows: got.append((start, rows.copy())))
    for part in np.split(values, [0, 3, 3, 60, 61, 140]):
        own = part.copy()
        pieces.append(own)
        own[:] = -1  # what is held does not depend on it any more
    pieces.close()
    assert [start for start, _ in got] == list(range(0, 150, length))
    assert all(len(rows) == length for _, rows in got[:-1])
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in got]), values)


def test_memory_of_narrow_and_wide_matrices_is_bounded():
    # A chunk holds as many values whatever the number of columns, so what is held back does too.
    for shape in ((10**7, 10), (10**7, 3), (10**6, 40_000), (5, 10**6)):
        rows, columns = stores._dense_chunk(shape, 256, 512)
        assert rows * columns <= 256 * 512
        assert rows <= shape[0]
        assert columns <= shape[1]
