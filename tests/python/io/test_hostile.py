"""Hostile and broken files are refused by name, before they do harm: see `hostile.py`."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import anndata as ad
import h5py
import hostile
import hostile_place
import numpy as np
import pytest
import scipy.sparse as sp
from preloaded import run_code

import scvibridge as sb
from scvibridge.io import backed, h5ad, row_order, row_reader
from scvibridge.models.cell_data import canonical_counts

# What the message says, by the beginning of the case's name; the first that fits.
MESSAGES = {
    "h5ad: holds itself": r"data\.h5ad was not read: its element /uns/again contains itself",
    "h5ad: doubling": r"data\.h5ad was not read: its links produce more than 1,000,000 elements",
    "h5ad: endless fill": r"its element /obsm/endless claims 41,231,686,041,600 bytes .* 0 are sto",
    "h5ad: virtual": r"its element /obs/n_counts reads its values from the file .*secret\.h5ad",
    "h5ad: trained": r"its element /obs/n_counts reads its values from the file .*secret\.h5ad",
    "h5ad: external link below": r"its element /uns/elsewhere is a link to the file .*secret\.h5ad",
    "h5ad: external storage": r"its element /obs/n_counts keeps its values in the file .*secret",
    "h5ad: behind": r"/obs/n_counts\.attrs\['categories'\] keeps its values in the file .*secret",
    "h5ad: opened": r"its element /obs/n_counts keeps its values in the file .*secret",
    "h5ad: backed": r"data\.h5ad was not read: its element /X keeps its values in the file .*sec",
    "h5ad: 10x": r"counts\.h5 was not read: its element /matrix/data keeps its values in the file",
    "h5ad: command": r"^code 2: .* element /obs/n_counts keeps its values in the file .*secret",
    "h5ad: ": r"its element /obs/n_counts is a link to the file .*secret\.h5ad",
    "h5mu: ": r"its element /mod/rna/obs/number is a link to the file .*secret\.h5ad",
    "zarr: linked group": r"data\.zarr was not read: layers is a link to .*elsewhere",
    "zarr: group linked above": r"data\.zarr was not read: uns/above is a link to .*data\.zarr",
    "zarr: pipe": r"data\.zarr was not read: obs/number/\S+ is neither a file nor a folder",
    "zarr: names above": r"data\.zarr was not read: it describes an element \.\./secret",
    "zarr: claims": r"its element obs/number claims 1,099,511,627,776 values",
    "zarr: ": r"data\.zarr was not read: obs/number/\S+ is a link to .*secret",
    "folder: linked ": r"model was not read: (model\.pt|adata\.h5ad|extension\.npz) is a link to ",
    "memory: obsm": r"^obsm\['extra'\] is a damaged sparse matrix: index 1073741824 lies",
    "model: n_layers": r"requests n_layers = 10*(,000)+, which does not match the tensors",
    "model: n_hidden": r"requests n_hidden = 1(,000)+, which does not match the tensors",
    "model: n_latent": r"requests n_latent = 1(,000)+, which does not match the tensors",
    "model: n_batch": r"requests n_batch = 1(,000)+, which does not match the tensors",
    "model: wide and thin": r"network that is larger than the tensors in the file",
    "model: expanded": r"model_state_dict\['px_r'\] refers to .*_rebuild_tensor_v2 in a way",
    "model: the same": r"model_state_dict contains the same numbers many times",
    "model: long and empty": r"categorical_mapping'\] refers to .* in a way that scvi-tools",
    "model: nested key": r"a key is a tuple or a set",
    "model: long number": r"a number of 8000001 bits",
    "model: ": r"contains other values more often than the size of the file allows",
    "extension: inflating": r"extension\.npz could not be read .* its arrays are compressed",
    "extension: ": r"extension\.npz could not be read .* weights\.npy does not contain the numbers",
    "random bytes": r"could not be read|damaged|must hold counts|lack",
    "": r"is a damaged sparse matrix: (index|indptr) ",
}
# Seconds of the processor. What trains, computes or makes a file of gigabytes takes longer to
# prepare.
MOST_SECONDS = 1.0
SLOW = (
    "h5ad: report",
    "h5ad: damage",
    "extension: inflating",
    "zarr: claims",
    "model: long number",
)


@pytest.fixture(scope="module")
def outcomes(model_folder, simulated, data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    model = folder / "model"
    shutil.copytree(model_folder, model)
    simulated.write_h5ad(model / "adata.h5ad")
    (folder / "cases").mkdir()
    code = "import runpy; runpy.run_module('hostile', run_name='__main__')"
    done = run_code(code, model, data_file, folder / "cases", timeout=500)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (kind, message, seconds) for name, kind, message, seconds in lines}, done


def test_no_case_ends_the_process(outcomes):
    found, done = outcomes
    assert list(found) == [name for name, _ in hostile.cases()], done.stderr[-2000:]
    assert done.returncode == 0


@pytest.mark.parametrize("name", [name for name, _ in hostile.cases()])
def test_harm_is_refused_by_name(name, outcomes):
    assert name in outcomes[0], "the process ended before"
    kind, message, seconds = outcomes[0][name]
    assert kind in ("ValueError", "_RefusedError"), message
    expected = next(text for start, text in MESSAGES.items() if name.startswith(start))
    assert re.search(expected, message, re.DOTALL), message
    assert hostile_place.SECRET not in message
    if name not in SLOW:
        assert seconds < MOST_SECONDS


# ---- what is right stays right ---------------------------------------------------------------


@pytest.fixture
def small() -> ad.AnnData:
    return hostile_place.small()


def test_links_within_an_input_are_followed(small, tmp_path):
    """And those of the Hugging Face Hub, which keeps all files of a snapshot elsewhere."""
    path = tmp_path / "data.h5ad"
    small.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["layers/again"] = h5py.SoftLink("/layers/columns")
        file["layers/hard"] = file["layers/columns"]
    for read in (h5ad.read_anndata, backed.open_anndata):
        data = read(path)
        assert (data.to_memory().layers["again"] != small.X).nnz == 0
        assert (data.to_memory().layers["hard"] != small.X).nnz == 0

    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    small.write_zarr(snapshot / "data.zarr")
    for number, chunk in enumerate([p for p in (snapshot / "data.zarr").rglob("*") if p.is_file()]):
        shutil.move(chunk, blobs / str(number))
        chunk.symlink_to(os.path.relpath(blobs / str(number), chunk.parent))
    assert (h5ad.read_anndata(snapshot / "data.zarr").X != small.X).nnz == 0


def test_model_in_the_cache_of_the_hub_is_loaded(model_folder, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    shutil.copy(model_folder / "model.pt", blobs / "abc")
    (snapshot / "model.pt").symlink_to("../../blobs/abc")
    assert sb.load(snapshot, adata=False).is_trained


def test_model_behind_a_link_is_loaded_with_trust(model_folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pt").symlink_to(model_folder / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is a link to .*replace the link by a copy"):
        sb.load(tmp_path / "model", adata=False)
    assert sb.load(tmp_path / "model", adata=False, trust=True).is_trained


def test_virtual_dataset_within_the_file_is_read(small, tmp_path):
    path = tmp_path / "data.h5ad"
    small.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obs/hidden"] = np.arange(20) * 2
        layout = h5py.VirtualLayout(shape=(20,), dtype=int)
        layout[:] = h5py.VirtualSource(file["obs/hidden"])
        del file["obs/number"]
        made = file.create_virtual_dataset("obs/number", layout)
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    assert h5ad.read_anndata(path).obs["number"].tolist() == list(range(0, 40, 2))


def test_parts_of_an_interrupted_run_are_no_links(trained_model, tmp_path):
    out, parts = tmp_path / "out.h5ad", tmp_path / "out.h5ad.parts"
    parts.mkdir()
    (parts / "lock").touch()
    (tmp_path / "other.npz").touch()
    (parts / "block-000000.npz").symlink_to(tmp_path / "other.npz")
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"block-000000\.npz is a link to .*other\.npz"):
            sb.corrected_counts(
                trained_model, transform_batch="V3", out=out, resume=resume, progress=False
            )


# ---- sums of entries that are stored twice ---------------------------------------------------


def twice(dtype) -> tuple[sp.csr_matrix, np.ndarray]:
    """A matrix whose every entry is stored in two parts, and what it stands for."""
    dense = np.array([[0, 300, 0], [250, 0, 400], [0, 0, 0]])
    halves = [dense // 2, dense - dense // 2]
    rows, columns = np.nonzero(dense)
    order = np.argsort(np.r_[rows, rows], kind="stable")
    data = np.concatenate([half[rows, columns] for half in halves]).astype(dtype)[order]
    indices = np.r_[columns, columns][order]
    indptr = np.r_[0, np.cumsum(2 * np.bincount(rows, minlength=3))]
    return sp.csr_matrix((data, indices, indptr), shape=dense.shape), dense


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64, np.float32])
@pytest.mark.parametrize("genes", [None, np.array([2, 0, 1])])
@pytest.mark.parametrize("form", ["csr", "csc"])
def test_sums_fit_whatever_the_type(dtype, genes, form):
    matrix, dense = twice(dtype)
    if form == "csc":
        columns = matrix.tocoo()
        columns.has_canonical_format = True  # or scipy would sum
        matrix = columns.tocsc()
        assert matrix.nnz == 6
    expected = dense if genes is None else dense[:, genes]
    found = canonical_counts(matrix, genes)
    assert np.array_equal(found.toarray(), expected)
    assert found.nnz == 3


@pytest.mark.parametrize("dtype", ["f2", ">f4", "<f8", ">i8", ">u2", "g"])
def test_any_type_of_numbers_is_counted(dtype):
    dense = np.array([[0, 300, 0], [250, 0, 400]])
    given = dense.astype(dtype)
    assert np.array_equal(canonical_counts(given, None).toarray(), dense)
    assert given.dtype == np.dtype(dtype)


def test_truth_values_are_counted():
    matrix = sp.csr_matrix((np.ones(3, dtype=bool), [1, 1, 0], [0, 2, 3]), shape=(2, 2))
    assert canonical_counts(matrix, None).toarray().tolist() == [[0, 2], [1, 0]]


def test_sums_fit_where_columns_are_copied_to_rows(tmp_path):
    matrix, dense = twice(np.uint8)
    coo = matrix.tocoo()
    coo.has_canonical_format = True
    adata = ad.AnnData(sp.csr_matrix((3, 3), dtype=np.float32))
    adata.write_h5ad(tmp_path / "data.h5ad")
    columns = coo.tocsc()
    with h5py.File(tmp_path / "data.h5ad", "r+") as file:
        del file["X"]
        ad.io.write_elem(file, "X", columns)
    opened = backed.open_anndata(tmp_path / "data.h5ad").X
    rows = row_reader.RowReader(row_order.row_ordered(opened, Path(tmp_path / "scratch")))
    assert np.array_equal(canonical_counts(rows.read(slice(0, 3)), None).toarray(), dense)


def test_order_that_changed_since_scipy_noted_it(small):
    matrix = small.X.copy()
    assert matrix.has_sorted_indices
    first = slice(matrix.indptr[0], matrix.indptr[1])
    matrix.indices[first] = matrix.indices[first][::-1].copy()
    expected = small.X.toarray()
    columns = matrix.indices[first]
    expected[0, columns] = matrix.data[first]
    found = canonical_counts(matrix, None)
    assert np.array_equal(found.toarray(), expected)
    assert (np.diff(found.indices[first]) > 0).all()


def test_too_large_counts_are_refused_before_they_are_summed():
    matrix = sp.csr_matrix((np.array([2**63], dtype=np.uint64), [0], [0, 1]), shape=(1, 1))
    with pytest.raises(ValueError, match=r"counts must be below 2\*\*31"):
        canonical_counts(matrix, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint32])
def test_the_largest_count_is_the_same_in_every_type(dtype):
    """2**31 - 1 is no number of single precision, in which 2**31 is not above it."""
    largest = np.nextafter(dtype(2**31), dtype(0)) if dtype is np.float32 else dtype(2**31 - 1)
    for place in (0, 1):
        values = np.ones(2, dtype=dtype)
        values[place] = largest
        matrix = sp.csr_matrix((values, [0, 1], [0, 2]), shape=(1, 2))
        assert canonical_counts(matrix, None).data[place] == int(largest)
        matrix.data[place] = 2**31
        with pytest.raises(ValueError, match=r"counts must be below 2\*\*31"):
            canonical_counts(matrix, None)
