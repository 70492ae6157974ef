"""The command line: what it writes, says and returns."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy
from anndata.tests.helpers import assert_equal
from preloaded import run_code

import scvibridge as sb
from scvibridge.cli import main

COMMAND = [sys.executable, "-m", "scvibridge"]
WITHOUT_DELAY = """
import sys
from scvibridge.cli import main as cli; from scvibridge._utils import progress
progress._BAR_DELAY = 0
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def files(model_folder, data_file):
    return [str(model_folder), "--adata", str(data_file)]


@pytest.fixture(scope="module")
def reference(model_folder, data_file):
    """What the public function gives for the arguments that most of these tests use."""
    model = sb.load(model_folder, adata=data_file)
    with pytest.warns(UserWarning, match="confounding was not checked"):
        return sb.corrected_counts(
            model, transform_batch="V3", labels_key="cell_type", seed=4, progress=False
        )


def correct(files, out, *more) -> list[str]:
    arguments = ["--transform-batch", "V3", "--labels-key", "cell_type", "--seed", "4"]
    return ["correct", *files, *arguments, "--out", str(out), *map(str, more)]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what is written -------------------------------------------------------------------------


def test_h5ad_by_the_installed_command(files, reference, tmp_path):
    done = subprocess.run(
        [*COMMAND, *correct(files, tmp_path / "x.h5ad")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'x.h5ad'}\n"
    assert names(tmp_path) == ["x.h5ad"]
    written = ad.read_h5ad(tmp_path / "x.h5ad")
    assert (written.X != reference.X).nnz == 0
    assert (written.layers["raw_counts"] != reference.layers["raw_counts"]).nnz == 0
    assert written.uns["scvibridge"]["transform_batch"].tolist() == ["V3"]
    # Standard error is no terminal here: plain lines, each one a sentence, no bar.
    assert "\r" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("reading the model in ")
    assert lines[1] == "correcting the cells, as if from V3"
    assert sum(line.startswith("warning: confounding was not checked") for line in lines) == 1
    assert lines[-1] == f"written {tmp_path / 'x.h5ad'}: 300 cells, 120 genes"
    assert len(lines) == 4


def test_10x_file_and_quiet(files, reference, tmp_path, capsys):
    assert main.main(correct(files, tmp_path / "x.h5", "--quiet")) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'x.h5'}\n", "")
    read = scanpy.read_10x_h5(tmp_path / "x.h5")
    np.testing.assert_array_equal(read.X.toarray(), reference.X.toarray())
    assert list(read.var_names) == list(reference.var_names)


def test_options_reach_the_functions(files, tmp_path, capsys):
    (tmp_path / "genes.txt").write_text("gene_0007\n\ngene_0001\n")
    options = ["--gene-list", str(tmp_path / "genes.txt"), "--quiet", "--batch-size", "50"]
    out = str(tmp_path / "x.h5ad")
    model = sb.load(files[0], adata=files[2])

    counts = ["--method", "sample", "--library-size", "observed", "--normalized", "--seed", "9"]
    several = ["--transform-batch", "V2", "V3", "--condition-key", "condition"]
    assert main.main(["correct", *files, *several, *counts, *options, "--out", out]) == 0
    expected = sb.corrected_counts(
        model,
        transform_batch=["V2", "V3"],
        condition_key="condition",
        method="sample",
        library_size="observed",
        normalized=True,
        seed=9,
        gene_list=["gene_0007", "gene_0001"],
        progress=False,
    )
    written = ad.read_h5ad(out)
    assert list(written.var_names) == ["gene_0007", "gene_0001"]
    assert (written.X != expected.X).nnz == 0
    np.testing.assert_array_equal(written.layers["normalized"], expected.layers["normalized"])

    target = ["--transform-batch", "V2", "--library-size", "500"]
    assert main.main(["normalize", *files, *target, *options, "--out", out]) == 2
    assert "x.h5ad exists: choose another name, or pass --overwrite" in capsys.readouterr().err
    arguments = ["normalize", *files, *target, *options, "--out", out, "--overwrite"]
    assert main.main(arguments) == 0
    written = ad.read_h5ad(out)
    expected = sb.normalized_expression(
        model,
        transform_batch="V2",
        library_size=500,
        gene_list=["gene_0007", "gene_0001"],
        progress=False,
    )
    np.testing.assert_allclose(written.X, expected.X, rtol=1e-6)

    assert main.main(["denoise", *files, "--quiet", "--out", out, "--overwrite"]) == 0
    expected = sb.denoised_expression(model, progress=False)
    np.testing.assert_allclose(ad.read_h5ad(out).X, expected.X, rtol=1e-6)
    assert capsys.readouterr().out == f"{out}\n" * 2


READ_OBJECTS = """
folder <- commandArgs(TRUE)[1]
suppressPackageStartupMessages({library(SingleCellExperiment); library(SeuratObject)})
sce <- readRDS(file.path(folder, "sce.rds"))
seurat <- readRDS(file.path(folder, "seurat.rds"))
cat(class(sce), class(seurat), DefaultAssay(seurat), "\\n")
cat(as.matrix(assay(sce, "corrected")), "\\n")
cat(as.matrix(LayerData(seurat, "counts", assay = "corrected")), "\\n")
cat(as.matrix(LayerData(seurat, "counts", assay = "RNA")), "\\n")
ten_x <- HDF5Array::TENxMatrix(file.path(folder, "x.h5"), "matrix")
cat(as.matrix(ten_x), "\\n")
seurat_10x <- Seurat::Read10X_h5(file.path(folder, "x.h5"))
cat(as.matrix(seurat_10x), "\\n")
cat(rownames(seurat_10x), "\\n")
cat(colnames(ten_x), "\\n")
"""


def test_objects_and_10x_file_as_r_reads_them(files, reference, tmp_path, run_r):
    pytest.importorskip("rpy2", reason="needs rpy2")
    run_r("", needs=("SingleCellExperiment", "Seurat", "HDF5Array", "hdf5r"))
    assert main.main(correct(files, tmp_path / "sce.rds", "--quiet")) == 0
    assert main.main(correct(files, tmp_path / "seurat.rds", "--as", "seurat", "--quiet")) == 0
    assert main.main(correct(files, tmp_path / "x.h5", "--quiet")) == 0
    assert names(tmp_path) == ["sce.rds", "seurat.rds", "x.h5"]
    lines = run_r(READ_OBJECTS, tmp_path).splitlines()
    assert lines[0].split() == ["SingleCellExperiment", "Seurat", "RNA"]
    # R prints genes x cells by columns: our cells x genes by rows.
    corrected = reference.X.toarray().ravel()
    raw = reference.layers["raw_counts"].toarray().ravel()
    assert lines[6].split() == list(reference.var_names)
    assert lines[7].split() == list(reference.obs_names)
    for line, values in zip(
        lines[1:6], [corrected, corrected, raw, corrected, corrected], strict=True
    ):
        np.testing.assert_array_equal(np.array(line.split(), float), values)


# ---- exit codes and messages -----------------------------------------------------------------


def test_help_and_version(capsys):
    for arguments in (["--help"], ["correct", "--help"], ["normalize", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            main.main(arguments)
        assert stopped.value.code == 0
        assert capsys.readouterr().out.startswith("usage: scvibridge")
    with pytest.raises(SystemExit):
        main.main(["--version"])
    assert capsys.readouterr().out == f"scvibridge {sb.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["corect"], "invalid choice: 'corect'"),
        (["correct", "model"], "required: --out"),
        (["correct", "model", "--out", "x.h5ad", "--method", "mean"], "invalid choice: 'mean'"),
        (["correct", "model", "--out", "x.h5ad", "--batch-size", "V3"], "invalid int value: 'V3'"),
    ],
)
def test_usage_errors_are_one_line_and_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--out", "{folder}/missing/x.h5ad"], "missing does not exist"),
        (["--out", "{folder}/x.csv"], "ends in .csv, expected .h5ad or .zarr or .rds or .h5"),
        (["--as", "seurat"], "--as seurat requires an .rds file"),
        (["--out", "{folder}/x.h5", "--normalized"], "can only hold the counts"),
        (["--library-size", "-3"], "library_size must be positive"),
        (["--library-size", "inf"], "library_size must be positive and finite"),
        (["--library-size", "medain"], "did you mean 'median'?"),
        (["--gene-list", "{folder}/none.txt"], "none.txt could not be read"),
        (["--adata", "{folder}/none.h5ad"], "there is no file"),
        (["--transform-batch", "v3"], "did you mean 'V3'?"),
        (["--labels-key", "celltype"], "celltype"),
        (["--effect", "label", "--labels-key", ""], "labels_key"),
        (["--seed", "-1"], "seed must be"),
        (["--device", "gpu"], "device must be"),
    ],
)
def test_bad_input_is_one_line_and_2_and_writes_nothing(files, tmp_path, capsys, changed, message):
    more = [part.format(folder=tmp_path) for part in changed]
    assert main.main(correct(files, tmp_path / "x.h5ad", "--quiet", *more)) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith("scvibridge: ")
    assert message in error
    assert error.count("\n") == 1
    assert names(tmp_path) == []


def test_folder_without_a_model(files, tmp_path, capsys):
    arguments = correct([str(tmp_path), *files[1:]], tmp_path / "x.h5ad")
    assert main.main(arguments) == 2
    assert "not the folder of a saved scvi-tools model" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_bad_input(files, tmp_path, capsys):
    assert main.main(correct(files, tmp_path / "x.csv", "--debug")) == 2
    assert "Traceback" in capsys.readouterr().err


def test_unexpected_failure_is_1_and_one_line(files, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        return None.n_obs

    monkeypatch.setattr(sb, "corrected_counts", fail)
    arguments = correct(files, tmp_path / "x.h5ad", "--quiet")
    assert main.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("scvibridge: unexpected failure: AttributeError: ")
    assert error.endswith("(--debug shows where)\n")
    assert error.count("\n") == 1
    assert main.main([*arguments, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("more", "unwritten"),
    [(["--trust"], "could not be"), ([], "a copy of the model could not be")],
    ids=["result", "model"],
)
def test_full_disk_is_1_and_leaves_nothing(more, unwritten, files, tmp_path):
    command = "from scvibridge.cli import main; main.command()"
    arguments = correct(files, tmp_path / "x.h5ad", "--quiet", *more)
    done = run_code(command, *arguments, largest_file=10_000)
    assert done.returncode == 1, done.stderr
    # Behind it, numpy 1 may complain of its own file.
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("scvibridge: ")]
    assert "larger than the file system allows" in last
    assert f"{unwritten} written" in last
    assert names(tmp_path) == []


def test_resume_goes_on_after_a_kill(files, tmp_path, monkeypatch, capsys):
    """The blocks that a killed run finished are used, and the result is that of a run in one go."""
    out = tmp_path / "x.h5ad"
    arguments = correct(files, out, "--quiet", "--batch-size", "8")
    kill = (
        "import os, signal, sys\n"
        "from scvibridge.cli import main\n"
        "from scvibridge.io import blocks, shard_store\n"
        "blocks._ENTRIES_PER_BLOCK = 2000\n"
        "write = shard_store.write_shard\n"
        "def then_die(folder, index, *rest):\n"
        "    write(folder, index, *rest)\n"
        "    if index == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "shard_store.write_shard = then_die\n"
        "main.main(sys.argv[1:])"
    )
    assert run_code(kill, *arguments).returncode == -signal.SIGKILL
    assert "x.h5ad.parts" in names(tmp_path)
    assert not out.exists()
    monkeypatch.setattr("scvibridge.io.blocks._ENTRIES_PER_BLOCK", 2000)
    assert main.main(arguments) == 2
    assert "use resume=True to continue" in capsys.readouterr().err
    assert main.main([*arguments, "--resume"]) == 0
    whole = tmp_path / "whole.h5ad"
    assert main.main(correct(files, whole, "--quiet", "--batch-size", "8")) == 0
    assert names(tmp_path) == ["whole.h5ad", "x.h5ad"]
    assert_equal(ad.read_h5ad(out), ad.read_h5ad(whole), exact=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruption_is_told_by_its_code_and_leaves_nothing(files, tmp_path, number):
    with subprocess.Popen(
        [*COMMAND, *correct(files, tmp_path / "x.h5ad")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr.readline().startswith("reading the model")
        process.send_signal(number)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output == ""
    assert error.splitlines()[-1] == "scvibridge: interrupted, nothing written"
    assert names(tmp_path) == []


def test_a_terminal_gets_a_bar(files, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = correct(files, tmp_path / "x.h5ad", "--batch-size", "20")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: "".join(read_terminal(ours)))
        try:
            # Short work shows no bar: here it is not waited whether the work is long.
            done = run_code(WITHOUT_DELAY, *arguments, streams={2: os.ttyname(theirs)})
        finally:
            os.close(theirs)
        shown = reading.result()
    assert done.returncode == 0, shown
    assert "Computing counts:   0%|" in shown
    assert "written" in shown
    assert done.stdout == f"{tmp_path / 'x.h5ad'}\n"


def read_terminal(number: int):
    """Yield what is written to a terminal until its other end is closed."""
    while True:
        try:
            text = os.read(number, 4096)
        except OSError:  # Linux says so where the other end is closed
            text = b""
        if not text:
            os.close(number)
            return
        yield text.decode(errors="replace")


# ---- names that a shell, or the parser, would take for something else ------------------------

ODD_NAMES = ["-x", "--help", "a; touch marker", "$(touch marker)", "`touch marker`", "a\nb", "../b"]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("ending", [".h5ad", ".zarr", ".h5", ".rds"])
def test_odd_names_are_names_and_nothing_else(name, ending, files, tmp_path, monkeypatch, run_r):
    """Files, folders, batches, columns; what lies beside them stays as it was."""
    if ending == ".rds":
        pytest.importorskip("rpy2", reason="needs rpy2")
        run_r("", needs=("SingleCellExperiment",))
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    model, data, out = (f"{name}{kind}" for kind in (".model", ".data.h5ad", ending))
    shutil.copytree(files[0], model)
    cells = ad.read_h5ad(files[2])
    cells.obs[name.replace("/", "_")] = cells.obs["cell_type"]
    cells.write_h5ad(data)
    before = {*names(tmp_path), *names(inside)}
    arguments = [f"--adata={data}", f"--out={out}", "--transform-batch", "V3", "--quiet"]
    arguments.append(f"--labels-key={name.replace('/', '_')}")
    assert main.main(["correct", *arguments, "--", model]) == 0
    assert {*names(tmp_path), *names(inside)} == before | {Path(out).name}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_batch_is_told_in_one_line(name, files, tmp_path, capsys):
    arguments = ["correct", *files, f"--transform-batch={name}", "--out", str(tmp_path / "x.h5ad")]
    assert main.main([*arguments, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is not among 'V1', 'V2', 'V3'" in error
    assert names(tmp_path) == []


def test_commands_are_known_without_torch():
    # It takes seconds to import, which --help should not wait for.
    code = "import sys, scvibridge.cli.main as cli; cli.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("word", ["donor", "=D1", ""])
def test_covariate_without_value_is_a_usage_error(word, capsys):
    command = ["correct", "model", "--transform-covariates", word, "--out", "x.h5ad"]
    with pytest.raises(SystemExit) as stopped:
        main.main(command)
    assert stopped.value.code == 2
    assert "expected COVARIATE=VALUE" in capsys.readouterr().err
