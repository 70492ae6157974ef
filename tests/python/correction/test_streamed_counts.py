"""Results that go to the disk block by block: the same as those in memory, from any input."""

from __future__ import annotations

import signal
import time

import anndata as ad
import h5py
import lazy
import numpy as np
import pytest
import scipy.sparse as sp
import streamed
from anndata.tests.helpers import assert_equal
from numpy.testing import assert_array_equal

import scvibridge as sb
from conftest import differing
from scvibridge.io import blocks
from scvibridge.models.adapters import adapter_for

QUIET = {"progress": False}
ARGUMENTS = {"transform_batch": "V3", "labels_key": "cell_type", "batch_size": 16, **QUIET}

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_ENTRIES_PER_BLOCK", 16 * 120)


@pytest.fixture(scope="module")
def model(simulate, train):
    return train(simulate(), max_epochs=3)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save(str(folder / "model"), save_anndata=True)
    return folder


@pytest.fixture(scope="module")
def expected_counts(model):
    """Return the counts of the data in memory."""
    return sb.corrected_counts(model, **ARGUMENTS)


def assert_same(on_disk, in_memory, kind="counts"):
    """All but the order of sums in single precision, and where the estimates came from."""
    on_disk = on_disk.to_memory()
    assert_array_equal(on_disk.obs_names, in_memory.obs_names)
    if kind == "counts":
        assert on_disk.X.dtype == np.int32
        assert differing(on_disk.X, in_memory.X) <= 1e-5
    else:
        np.testing.assert_allclose(on_disk.X, in_memory.X, rtol=1e-5)
    assert (on_disk.layers["raw_counts"] != in_memory.layers["raw_counts"]).nnz == 0
    np.testing.assert_allclose(
        on_disk.obsm["X_scvi"], in_memory.obsm["X_scvi"], rtol=1e-4, atol=1e-5
    )
    assert_equal(on_disk.obs, in_memory.obs)
    as_text = {"symbol": str}  # anndata writes text as categories
    assert_equal(on_disk.var.astype(as_text), in_memory.var.astype(as_text))
    changed = {"estimated_on", "notes"}
    for name, value in in_memory.uns["scvibridge"].items():
        if name not in changed:
            assert_equal(on_disk.uns["scvibridge"][name], value)


# -- from any input, to any file ------------------------------------------------------------------


def swap_bytes(file, name):
    """Store values in the byte order of other machines."""
    values, attributes = file[name][...], dict(file[name].attrs)
    del file[name]
    file[name] = values.astype(values.dtype.newbyteorder("S"))
    file[name].attrs.update(attributes)


def stored(adata, folder, how):
    """The data as they may lie on disk, and as they are handed in."""
    cells = adata.copy()
    kind, _, handed = how.partition(" ")
    if "csc" in kind:
        cells.X = cells.X.tocsc()
    if "dense" in kind:
        cells.X = cells.X.toarray()
    if "genes" in kind:  # further genes, in another order
        var = cells.var.reindex([*cells.var_names, *(f"more_{g}" for g in range(7))])
        var["symbol"] = var["symbol"].astype(object).fillna("")
        cells = ad.AnnData(sp.hstack([cells.X, cells.X[:, :7]]).tocsr(), obs=cells.obs, var=var)
        cells = cells[:, np.random.default_rng(0).permutation(cells.n_vars)].copy()
    path = folder / ("cells.zarr" if "zarr" in kind else "cells.h5ad")
    cells.write_zarr(path) if path.suffix == ".zarr" else cells.write_h5ad(path)
    if "swapped" in kind:
        with h5py.File(path, "r+") as file:
            swap_bytes(file, "X" if "dense" in kind else "X/data")
    if handed == "backed":
        return ad.read_h5ad(path, backed="r")
    if handed == "lazy":
        return lazy.read(path)
    return path


@pytest.mark.parametrize(
    "how",
    [
        "h5ad-csr",
        "h5ad-csc",
        "h5ad-dense",
        "h5ad-csr-swapped",
        "h5ad-csc-swapped",
        "h5ad-dense-swapped",
        "h5ad-genes",
        "zarr-csr",
        "zarr-csc",
        "zarr-dense",
        "h5ad-csr backed",
        "h5ad-dense backed",
        "h5ad-csr lazy",
        "zarr-csc lazy",
    ],
)
def test_any_input_gives_the_counts_of_the_data_in_memory(model, expected_counts, tmp_path, how):
    cells = stored(model.adata, tmp_path, how)
    without_data = sb.load(save(model, tmp_path), adata=False)
    for one in (model, without_data):
        out = tmp_path / "x.h5ad"
        found = sb.corrected_counts(one, cells, out=out, overwrite=True, **ARGUMENTS)
        assert_same(found, expected_counts)
    left = {path.name for path in tmp_path.iterdir()} - {"cells.h5ad", "cells.zarr"}
    assert left == {"x.h5ad", "model"}


def save(model, folder):
    # With the data, whose names tell which cells were held out.
    model.save(str(folder / "model"), overwrite=True, save_anndata=True)
    return folder / "model"


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "sample", "labels_key": None},
        {"effect": "cell", "normalized": True},
        {"indices": [250, 3, 4, 5, 100], "gene_list": ["gene_0101", "gene_0007"]},
    ],
)
def test_any_request_streams(model, tmp_path, ending, arguments):
    arguments = {**ARGUMENTS, **arguments}
    out = tmp_path / f"x.{ending}"
    found = sb.corrected_counts(model, out=out, **arguments)
    expected = sb.corrected_counts(model, **arguments)
    assert_same(found, expected)
    if "normalized" in arguments:
        np.testing.assert_allclose(
            found.layers["normalized"][:], expected.layers["normalized"], rtol=1e-5
        )
    read = ad.read_h5ad(out) if ending == "h5ad" else ad.read_zarr(out)
    assert_equal(read, found.to_memory(), exact=True)


def test_10x_file_holds_the_counts(model, tmp_path):
    import scanpy

    found = sb.corrected_counts(model, out=tmp_path / "x.h5", **ARGUMENTS)
    expected = sb.corrected_counts(model, **ARGUMENTS)
    read = scanpy.read_10x_h5(tmp_path / "x.h5")
    assert_array_equal(read.X.toarray(), found.X[:].toarray())
    assert differing(sp.csr_matrix(read.X), expected.X) <= 1e-5
    assert_array_equal(read.obs_names, expected.obs_names)
    with pytest.raises(ValueError, match="can only hold the counts"):
        sb.corrected_counts(model, out=tmp_path / "y.h5", normalized=True, **ARGUMENTS)


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_expressions_stream(model, tmp_path, ending):
    cells = stored(model.adata, tmp_path, "h5ad-csr")
    for function, settings in (
        (sb.normalized_expression, {"transform_batch": ["V1", "V3"], "n_samples": 2}),
        (sb.denoised_expression, {"library_size": "median"}),
    ):
        arguments = {**settings, "batch_size": 16, **QUIET}
        out = tmp_path / f"{function.__name__}.{ending}"
        found = function(model, cells, out=out, **arguments)
        assert_same(found, function(model, **arguments), "expression")


@pytest.mark.parametrize("library_size", [None, "median", 2000.0])
def test_models_with_a_latent_library_stream(simulate, train, tmp_path, library_size):
    model = train(simulate(), max_epochs=2, use_observed_lib_size=False)
    arguments = {**ARGUMENTS, "library_size": library_size}
    found = sb.corrected_counts(model, out=tmp_path / "x.h5ad", **arguments)
    assert_same(found, sb.corrected_counts(model, **arguments))


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["h5ad-csr", "zarr-csc", "h5ad-dense backed"])
def test_values_that_are_no_counts_are_found_before_any_work(model, tmp_path, monkeypatch, how):
    """The bad value lies in the last cell, so that all have to be read to see it."""
    cells = model.adata.copy()
    counts = cells.X.tolil()
    counts[-1, -1] = 1.5
    cells.X = counts.tocsr()
    handed = stored(cells, tmp_path, how)
    before = set(tmp_path.iterdir())

    def encode(*_):
        raise AssertionError("work has begun")

    monkeypatch.setattr(type(adapter_for(model)), "encode", encode)
    with pytest.raises(ValueError, match="not whole numbers"):
        sb.corrected_counts(model, handed, out=tmp_path / "x.h5ad", **ARGUMENTS)
    assert set(tmp_path.iterdir()) == before


def test_the_data_are_not_written_over(model, tmp_path):
    for how in ("h5ad-csr", "h5ad-csr backed"):
        cells = stored(model.adata, tmp_path, how)
        before = (tmp_path / "cells.h5ad").read_bytes()
        for function in (sb.corrected_counts, sb.normalized_expression):
            with pytest.raises(ValueError, match="is a file that is being read"):
                function(model, cells, out=tmp_path / "cells.h5ad", transform_batch="V3", **QUIET)
        assert (tmp_path / "cells.h5ad").read_bytes() == before


def test_the_data_are_not_written_over_by_any_name(model, tmp_path, monkeypatch):
    """The home folder's, the working folder's, or one relative to another working folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    stored(model.adata, tmp_path, "h5ad-csr")
    before = (tmp_path / "cells.h5ad").read_bytes()
    save(model, tmp_path)
    monkeypatch.chdir(tmp_path)
    loaded = sb.load("~/model", "cells.h5ad")  # remembers a relative name
    monkeypatch.chdir(folder)
    given = {"transform_batch": "V3", "overwrite": True, **QUIET}
    for function in (sb.corrected_counts, sb.normalized_expression):
        for data, out in (
            ("~/cells.h5ad", "~/cells.h5ad"),
            ("../cells.h5ad", "~/cells.h5ad"),
            ("~/cells.h5ad", tmp_path / "cells.h5ad"),
            (None, "../cells.h5ad"),
            (None, "~/cells.h5ad"),
        ):
            with pytest.raises(ValueError, match="is a file that is being read"):
                function(loaded, data, out=out, **given)
        with pytest.raises(ValueError, match="is the data file of the model in"):
            function(loaded, out="~/model/adata.h5ad", **given)
    assert (tmp_path / "cells.h5ad").read_bytes() == before
    assert list(folder.iterdir()) == []


def test_a_result_in_the_home_folder_is_resumed(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = sb.corrected_counts(model, out="~/x.h5ad", **ARGUMENTS)
    again = sb.corrected_counts(model, out="~/x.h5ad", resume=True, **ARGUMENTS)
    assert (first.to_memory().X != again.to_memory().X).nnz == 0


@pytest.mark.parametrize("out", ["", "\0.h5ad", "x" * 260 + ".h5ad"])
def test_what_cannot_be_a_name_is_refused(model, out):
    with pytest.raises((TypeError, ValueError), match=r"^out"):
        sb.corrected_counts(model, out=out, **ARGUMENTS)


def test_a_file_that_is_cut_off_is_refused(model, tmp_path):
    path = stored(model.adata, tmp_path, "h5ad-csr")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cells\.h5ad"):
        sb.corrected_counts(model, path, out=tmp_path / "x.h5ad", **ARGUMENTS)
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]


def test_resume_needs_a_file_and_the_same_settings(model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="needs out="):
        sb.corrected_counts(model, resume=True, **ARGUMENTS)
    out = tmp_path / "x.h5ad"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            sb.corrected_counts(model, out=out, **ARGUMENTS)
    with pytest.raises(FileExistsError, match="use resume=True to continue"):
        sb.corrected_counts(model, out=out, **ARGUMENTS)
    with pytest.raises(ValueError, match="seed: 0 then, 1 now"):
        sb.corrected_counts(model, out=out, resume=True, seed=1, **ARGUMENTS)
    other = model.adata[::-1].copy()
    with pytest.raises(ValueError, match="other settings"):
        sb.corrected_counts(model, other, out=out, resume=True, **ARGUMENTS)
    found = sb.corrected_counts(model, out=out, resume=True, **ARGUMENTS)
    assert_same(found, sb.corrected_counts(model, **ARGUMENTS))


def interrupt_after(patch, n_blocks):
    from scvibridge.correction.count_blocks import Correction

    original, made = Correction.pieces, []

    def pieces(self, selection):
        made.append(selection)
        if len(made) > n_blocks:
            raise KeyboardInterrupt
        return original(self, selection)

    patch.setattr(Correction, "pieces", pieces)


# -- interruptions --------------------------------------------------------------------------------


def test_killed_runs_go_on_to_the_same_bits(model, folder, tmp_path):
    """A real run is killed at random moments, again and again, until it is through."""
    cells, out, whole = stored(model.adata, tmp_path, "h5ad-csc"), tmp_path / "x.h5ad", "whole.h5ad"
    arguments = (streamed.correct, folder / "model", cells)
    streamed.in_child(*arguments, tmp_path / whole).result()
    rng = np.random.default_rng(3)
    kills = 0
    while True:
        before = {*tmp_path.glob("x.h5ad.parts/*")}
        child = streamed.in_child(*arguments, out)
        if kills < 3:
            while {*tmp_path.glob("x.h5ad.parts/*")} == before and child.process.is_alive():
                time.sleep(0.002)
            time.sleep(rng.uniform(0.02, 0.5))
            child.kill()
        else:
            child.result()
        if child.process.exitcode == 0:
            break
        assert child.process.exitcode == -signal.SIGKILL
        if out.exists():  # killed after the last step: what has the name is complete
            assert_equal(ad.read_h5ad(out), ad.read_h5ad(tmp_path / whole), exact=True)
        kills += 1
    assert kills >= 1
    assert_equal(ad.read_h5ad(out), ad.read_h5ad(tmp_path / whole), exact=True)
    assert {p.name for p in tmp_path.iterdir()} == {"cells.h5ad", "x.h5ad", whole}
