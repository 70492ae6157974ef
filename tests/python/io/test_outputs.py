"""Outputs: what exists is replaced on request alone, and what is read never."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import stat
import warnings

import anndata as ad
import h5py
import lazy
import mudata
import numpy as np
import pytest
from preloaded import run_code
from zarr_formats import written_as

import scvibridge as sb
from scvibridge._utils.failures import WriteError
from scvibridge.cli import main
from scvibridge.io import (
    h5ad,
    opened_files,
    parts_folder,
    paths,
    readback,
    scratch,
    zarr_folders,
)
from scvibridge.r import descriptions, latent

FUNCTIONS = [sb.corrected_counts, sb.normalized_expression, sb.denoised_expression]
READ_HERE = "being read|is the data file"


def make(function, model, data=None, **arguments):
    target = {} if function is sb.denoised_expression else {"transform_batch": "V3"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(model, data, progress=False, **target, **arguments)


@pytest.fixture
def saved(trained_model, tmp_path):
    """The folder of a model with its data."""
    trained_model.save(str(tmp_path / "m"), save_anndata=True)
    return tmp_path / "m"


@pytest.fixture
def cells(simulated, tmp_path):
    path = tmp_path / "cells.h5ad"
    simulated.write_h5ad(path)
    return path


# ---- what exists -----------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_what_exists_is_replaced_on_request_alone(trained_model, tmp_path, function, ending):
    out = tmp_path / f"x.{ending}"
    make(function, trained_model, out=out)
    first = contents(out)
    with pytest.raises(FileExistsError, match=rf"x\.{ending} exists: .* set overwrite=True"):
        make(function, trained_model, out=out, indices=range(50))
    assert contents(out) == first
    result = make(function, trained_model, out=out, indices=range(50), overwrite=True)
    assert result.n_obs == 50
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def contents(path):
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {p: p.read_bytes() for p in found if p.is_file()}


def test_a_foreign_file_is_not_replaced(trained_model, tmp_path):
    out = tmp_path / "x.h5ad"
    out.write_text("mine")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="set overwrite=True"):
            make(sb.corrected_counts, trained_model, out=out, resume=resume)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("ending", ["h5ad", "zarr", "h5"])
def test_a_finished_result_is_kept_where_it_is_resumed(trained_model, tmp_path, ending):
    out = tmp_path / f"x.{ending}"
    first = make(sb.corrected_counts, trained_model, out=out).to_memory()
    before = contents(out)
    again = make(sb.corrected_counts, trained_model, out=out, resume=True).to_memory()
    assert contents(out) == before
    assert (again.X != first.X).nnz == 0
    with pytest.raises(FileExistsError, match="set overwrite=True"):
        make(sb.corrected_counts, trained_model, out=out, resume=True, seed=1)
    assert contents(out) == before
    other = make(sb.corrected_counts, trained_model, out=out, resume=True, seed=1, overwrite=True)
    assert (other.to_memory().X != first.X).nnz > 0
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_all_that_writes_has_one_rule(trained_model, tmp_path):
    counts = make(sb.corrected_counts, trained_model)
    report = tmp_path / "r.html"
    report.write_text("older")
    pytest.importorskip("jinja2")
    with pytest.raises(FileExistsError, match=r"r\.html exists: .* set overwrite=True"):
        sb.report(counts, report, progress=False)
    assert report.read_text() == "older"
    assert sb.report(counts, report, progress=False, overwrite=True) == report
    assert "<html" in report.read_text(encoding="utf-8")
    rds = tmp_path / "x.rds"
    rds.write_text("older")
    with pytest.raises(FileExistsError, match=r"x\.rds exists: .* set overwrite=True"):
        sb.r.write_rds(counts, rds)


def test_permissions_are_those_of_the_older_file(trained_model, tmp_path):
    for name in ("x.h5ad", "x.zarr"):
        out = tmp_path / name
        make(sb.denoised_expression, trained_model, out=out, indices=[1, 2])
        mode = 0o700 if out.is_dir() else 0o600
        out.chmod(mode)
        make(sb.denoised_expression, trained_model, out=out, overwrite=True)
        assert stat.S_IMODE(out.stat().st_mode) == mode
    table = tmp_path / "t.csv"
    table.touch(0o640)
    with paths.replacing(table) as temporary:
        temporary.write_text("new")
        assert not temporary.parent.stat().st_mode & 0o077  # nobody else reads what is not done
    assert stat.S_IMODE(table.stat().st_mode) == 0o640


def test_a_link_that_leads_nowhere_is_told_before_any_work(trained_model, tmp_path):
    (tmp_path / "x.h5ad").symlink_to(tmp_path / "absent" / "x.h5ad")
    with pytest.raises(FileNotFoundError, match=r"out: the folder .*absent does not exist"):
        make(sb.corrected_counts, trained_model, out=tmp_path / "x.h5ad")
    (tmp_path / "absent").mkdir()
    make(sb.corrected_counts, trained_model, out=tmp_path / "x.h5ad")
    assert (tmp_path / "absent" / "x.h5ad").is_file()


@pytest.mark.parametrize("call", ["os.chown", "pathlib.Path.chmod"])
def test_a_file_system_without_permissions_takes_results(
    trained_model, tmp_path, monkeypatch, call
):
    """FAT, and shares and buckets that are mounted."""
    out = tmp_path / "x.h5ad"
    make(sb.denoised_expression, trained_model, out=out, indices=[1, 2])

    def unsupported(*_arguments, **_keywords):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    with monkeypatch.context() as patched:
        patched.setattr(call, unsupported)
        made = make(sb.denoised_expression, trained_model, out=out, overwrite=True)
    assert made.n_obs == trained_model.adata.n_obs
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5ad"]


def test_what_cannot_be_read_again_replaces_nothing(simulated, tmp_path, monkeypatch):
    path = h5ad.write_h5ad(simulated[:5].copy(), tmp_path / "x.h5ad")
    before = path.read_bytes()
    write_elements = h5ad.write_elements

    def lose_a_column(file, content, **how):
        write_elements(file, content, **how)
        del file["obs/batch"]

    monkeypatch.setattr(h5ad, "write_elements", lose_a_column)
    with pytest.raises(WriteError, match="could not be read back"):
        h5ad.write_h5ad(simulated, path, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5ad"]


# ---- what is read ----------------------------------------------------------------------------


def named_otherwise(path, how):
    """Another name for a file or a folder."""
    if how == "itself":
        return path
    if how == "relative":
        return path.parent / "." / ".." / path.parent.name / path.name
    other = path.with_name(f"other{path.suffix}")
    if how == "hard link":
        os.link(path, other)
    else:
        other.symlink_to(path)
    return other


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("how", ["itself", "relative", "hard link", "link"])
def test_the_file_of_the_data_stays(trained_model, cells, function, how):
    before, out = cells.read_bytes(), named_otherwise(cells, how)
    kinds = [cells, str(cells), ad.read_h5ad(cells, backed="r")]
    for data in kinds + lazy.if_possible(cells):
        with pytest.raises(ValueError, match=READ_HERE):
            make(function, trained_model, data, out=out, overwrite=True)
    assert cells.read_bytes() == before


@pytest.fixture
def with_raw(simulated, tmp_path):
    """Cells whose ``raw`` refers to them, as they to it, and their file."""
    cells = simulated.copy()
    cells.raw = cells.copy()
    cells.write_h5ad(tmp_path / "raw.h5ad")
    return cells, tmp_path / "raw.h5ad"


READERS = {
    "counts": lambda model, path, out: make(sb.corrected_counts, model, path, out=out),
    "counts of files": lambda model, path, out: make(sb.corrected_counts, model, [path], out=out),
    "counts in memory": lambda model, path, _: make(sb.corrected_counts, model, [path]),
    "means": lambda model, path, out: make(sb.denoised_expression, model, path, out=out),
    "training": lambda _, path, __: sb.train_scvi(path, "batch", max_epochs=1, progress=False),
    "latent": lambda model, path, _: latent.latent(model, str(path), progress=False),
    "number": lambda model, path, _: descriptions.count_cells(model, str(path)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_file_that_was_read_can_be_written_again(trained_model, with_raw, tmp_path, read):
    """HDF5 would not write to it as long as it is open."""
    cells, path = with_raw
    gc.disable()
    try:
        read(trained_model, path, tmp_path / "out.h5ad")
        cells.write_h5ad(path)
    finally:
        gc.enable()


def test_a_copy_by_cell_is_removed_after_an_error(trained_model, tmp_path, monkeypatch):
    columns = trained_model.adata.copy()
    columns.X = columns.X.tocsc()
    columns.write_h5ad(tmp_path / "columns.h5ad")

    def failing(*_arguments):
        assert list(tmp_path.glob(".x.h5ad.scratch-*/rows"))
        raise ValueError("for another reason")

    monkeypatch.setattr("scvibridge.correction.corrected_counts.choose_reference", failing)
    with pytest.raises(ValueError, match="for another reason") as raised:
        make(
            sb.corrected_counts,
            trained_model,
            tmp_path / "columns.h5ad",
            out=tmp_path / "x.h5ad",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["columns.h5ad"]
    del raised


def test_a_file_can_be_written_again_after_an_error(trained_model, with_raw, tmp_path):
    """Sessions keep the last error, and all that it refers to."""
    cells, path = with_raw
    logged = cells.copy()
    logged.X = logged.X.log1p()
    logged.write_h5ad(path)
    with pytest.raises(ValueError, match="must hold raw counts") as raised:
        make(sb.corrected_counts, trained_model, path, out=tmp_path / "out.h5ad")
    cells.write_h5ad(path)
    del raised


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_file_that_the_model_was_loaded_with_stays(saved, cells, function):
    before = cells.read_bytes()
    for data in (cells, ad.read_h5ad(cells, backed="r")):
        model = sb.load(saved, adata=data)
        with pytest.raises(ValueError, match=READ_HERE):
            make(function, model, out=cells, overwrite=True)
    assert cells.read_bytes() == before


def test_the_data_of_a_saved_model_stay(saved, simulated):
    before = (saved / "adata.h5ad").read_bytes()
    for model in (sb.load(saved), sb.load(saved, adata=False)):
        for how in ("itself", "link"):
            out = named_otherwise(saved / "adata.h5ad", how)
            with pytest.raises(ValueError, match=READ_HERE):
                make(sb.corrected_counts, model, simulated, out=out, overwrite=True)
            (saved / "other.h5ad").unlink(missing_ok=True)
    assert (saved / "adata.h5ad").read_bytes() == before
    (saved / "adata.h5ad").unlink()
    with pytest.raises(ValueError, match="is the data file"):
        make(sb.denoised_expression, model, simulated, out=saved / "adata.h5ad")


def test_zarr_folders_that_are_read_stay(trained_model, simulated, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simulated.write_zarr(tmp_path / "in.zarr")
    before = contents(tmp_path / "in.zarr")
    inside = tmp_path / "in.zarr" / "layers"
    within = tmp_path / "over.zarr"
    within.mkdir()
    for out in (tmp_path / "in.zarr", inside / "x.h5ad", inside / "x.zarr"):
        with pytest.raises(ValueError, match=READ_HERE):
            make(sb.denoised_expression, trained_model, tmp_path / "in.zarr", out=out,
                 overwrite=True)  # fmt: skip
    assert contents(tmp_path / "in.zarr") == before
    simulated.write_h5ad(within / "cells.h5ad")
    with pytest.raises(ValueError, match="is the folder of"):
        make(sb.denoised_expression, trained_model, within / "cells.h5ad", out=within,
             overwrite=True)  # fmt: skip
    assert (within / "cells.h5ad").exists()


def test_zarr_folders_that_hold_other_files_stay(trained_model, tmp_path):
    out = tmp_path / "x.zarr"
    make(sb.denoised_expression, trained_model, out=out, indices=[0, 1])
    assert zarr_folders.foreign_entry(out) is None
    for place in ("notes.txt", "layers/notes.txt", "obsm/X_scvi/figures/a.png", "obs/my folder/b"):
        path = out / place
        made = next(p for p in [*reversed(path.parents), path] if not p.exists())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        with pytest.raises(FileExistsError, match="not part of a zarr folder"):
            make(sb.denoised_expression, trained_model, out=out, overwrite=True)
        assert path.read_text() == "mine"
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    make(sb.denoised_expression, trained_model, out=out, overwrite=True)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_all_of_a_zarr_folder_is_known(simulated, tmp_path, zarr_format):
    data = simulated[:30].copy()
    data.obsm["m"] = np.arange(60.0).reshape(30, 2)
    data.uns["nested"] = {"a": np.array(1.5), "b": "text", "c": np.arange(3)}
    with warnings.catch_warnings(), written_as(zarr_format):
        warnings.simplefilter("ignore")
        data.write_zarr(tmp_path / "x.zarr", chunks=(7, 11))
    assert zarr_folders.foreign_entry(tmp_path / "x.zarr") is None


def test_sources_of_a_mudata_are_known(simulated, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mudata.MuData({"rna": simulated[:20].copy()}).write_h5mu(tmp_path / "x.h5mu")
        opened = mudata.read_h5mu(tmp_path / "x.h5mu", backed="r")
    assert tmp_path / "x.h5mu" in opened_files.files_of(opened)


def test_a_report_replaces_nothing_that_it_reads(trained_model, tmp_path):
    pytest.importorskip("jinja2")
    out = tmp_path / "x.h5ad"
    make(sb.corrected_counts, trained_model, out=out)
    (tmp_path / "r.html").symlink_to(out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=READ_HERE):
        sb.report(out, tmp_path / "r.html", overwrite=True, progress=False)
    assert out.read_bytes() == before


# ---- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["correct", "normalize", "denoise"])
def test_the_command_line_replaces_no_input(saved, cells, capsys, command):
    before = cells.read_bytes()
    target = [] if command == "denoise" else ["--transform-batch", "V3"]
    for data in ([], ["--adata", str(cells)]):
        for out in (saved / "adata.h5ad", cells) if data else (saved / "adata.h5ad",):
            arguments = [command, str(saved), *data, *target, "--out", str(out), "--overwrite"]
            assert main.main([*arguments, "--quiet"]) == 2
            assert "choose another name" in capsys.readouterr().err
    assert cells.read_bytes() == before


def test_tables_of_the_command_line_have_the_rule(saved, tmp_path, capsys):
    theta = tmp_path / "t.csv"
    theta.write_text("older")
    arguments = ["support", str(saved), "--transform-batch", "V3", "--out", str(theta), "--quiet"]
    assert main.main(arguments) == 2
    assert "t.csv exists: choose another name, or pass --overwrite" in capsys.readouterr().err
    assert theta.read_text() == "older"
    assert main.main([*arguments, "--overwrite"]) == 0
    assert theta.read_text().startswith("label")
    both = ["calibration", str(saved), "--out", str(theta), "--theta", str(theta), "--overwrite"]
    assert main.main(both) == 2
    assert "are the same file" in capsys.readouterr().err


def test_a_second_process_with_the_same_output_ends_with_one_sentence(saved, tmp_path):
    out = tmp_path / "x.h5ad"
    lock = scratch.take_lock(parts_folder.parts_folder(out), out)
    command = "from scvibridge.cli import main; main.command()"
    done = run_code(command, "denoise", saved, "--out", out, "--quiet")
    assert done.returncode == 1
    assert f"is being written by process {os.getpid()}" in done.stderr
    assert "unexpected" not in done.stderr
    assert done.stderr.count("\n") == 1
    os.close(lock)


def test_results_carry_the_digest_of_what_they_are_of(trained_model, tmp_path):
    out = tmp_path / "x.h5ad"
    make(sb.denoised_expression, trained_model, out=out, indices=[0, 1])
    assert len(readback.result_of(out)) == 32
    with h5py.File(out, "a") as file:
        del file.attrs[readback.RESULT_ATTRIBUTE]
    assert readback.result_of(out) is None
    with pytest.raises(FileExistsError):
        make(sb.denoised_expression, trained_model, out=out, indices=[0, 1], resume=True)
