"""The command ``scvibridge extend``: what it writes, and what it refuses."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from extension import QUIET
from numpy.testing import assert_array_equal

import scvibridge as sb
from scvibridge.cli.main import main

HOW = {"max_epochs": 2, "ridge": 0.1, "seed": 3}
pytestmark = pytest.mark.filterwarnings("ignore:confounding was not checked")
OPTIONS = ["--max-epochs", "2", "--ridge", "0.1", "--seed", "3", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def all_genes(simulated, simulate, tmp_path_factory):
    """The cells of the model by its own genes and 20 others, in a file."""
    further = simulate(seed=2)[:, :20].copy()
    further.var_names = [f"further_{gene}" for gene in further.var_names]
    path = tmp_path_factory.mktemp("all") / "all_genes.h5ad"
    ad.concat([simulated, further], axis="var", merge="first").write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def expected(model_folder, all_genes):
    """What the function gives."""
    return sb.extend_genes(sb.load(model_folder, adata=False), str(all_genes), **HOW, **QUIET)


def test_the_saved_model_is_that_of_the_function(
    model_folder, all_genes, expected, tmp_path, capsys
):
    out, quality = tmp_path / "extended", tmp_path / "quality.csv"
    files = [str(model_folder), "--adata", str(all_genes), "--out", str(out)]
    assert main(["extend", *files, *OPTIONS, "--quality", str(quality)]) == 0
    assert capsys.readouterr() == (f"{out}\n", "")
    expected.save(tmp_path / "by_function")
    with np.load(out / "extension.npz") as a, np.load(tmp_path / "by_function/extension.npz") as b:
        assert sorted(a.files) == sorted(b.files)
        for name in a.files:
            assert_array_equal(a[name], b[name])
    table = pd.read_csv(quality, index_col="gene", keep_default_na=False)
    pd.testing.assert_frame_equal(table, expected.quality.rename_axis("gene"), check_dtype=False)

    loaded = sb.load(out, adata=str(all_genes))
    given = {"transform_batch": "V3", "labels_key": "cell_type", **QUIET}
    ours = sb.corrected_counts(loaded, **given)
    theirs = sb.corrected_counts(expected, str(all_genes), **given)
    assert_array_equal(ours.X.toarray(), theirs.X.toarray())


def test_options_reach_the_function(model_folder, all_genes, tmp_path, capsys):
    genes = ["further_gene_0007", "further_gene_0001"]
    (tmp_path / "genes.txt").write_text("\n".join(genes))
    arguments = ["extend", str(model_folder), "--adata", str(all_genes)]
    arguments += ["--out", str(tmp_path / "x"), "--gene-list", str(tmp_path / "genes.txt")]
    arguments += ["--labels-key", "cell_type", *OPTIONS[:-1]]
    assert main(arguments) == 0
    assert "SCVI extended by 2 genes" in capsys.readouterr().err
    found = sb.load(tmp_path / "x", adata=False)
    assert list(found.head.genes) == genes
    assert found.settings["ridge"] == 0.1
    assert (found.settings["max_epochs"], found.settings["seed"]) == (2, 3)
    # The folder of an older model is replaced when this is asked for alone.
    assert main(arguments) == 2
    assert "x exists: choose another name, or pass --overwrite" in capsys.readouterr().err
    (tmp_path / "genes.txt").write_text(genes[0])
    assert main([*arguments, "--overwrite"]) == 0
    assert list(sb.load(tmp_path / "x", adata=False).head.genes) == genes[:1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-epochs", "0"], "max_epochs must be a whole number, 1 or more, got 0"),
        (["--ridge", "atuo"], "did you mean 'auto'"),
        (["--ridge", "-1"], "ridge must be 'auto' or a number from 0"),
        (["--seed", "-1"], "seed"),
        (["--device", "gpu"], "device must be"),
        (["--quality", "table.xlsx"], "--quality='table.xlsx' ends in .xlsx, expected .csv"),
        (["--gene-list", "none.txt"], "--gene-list none.txt could not be read"),
        (["--adata", "none.h5ad"], "there is no file none.h5ad"),
        (["--labels-key", "celltype"], "did you mean 'cell_type'"),
        (["--out", "."], "exists: choose another"),
    ],
)
def test_bad_options_are_told_in_one_line(
    model_folder, all_genes, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    files = [str(model_folder), "--adata", str(all_genes), "--out", "extended", "--quiet"]
    assert main(["extend", *files, *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_the_model_is_no_output(model_folder, all_genes, capsys):
    before = sorted(path.name for path in model_folder.iterdir())
    files = [str(model_folder), "--adata", str(all_genes), "--out", str(model_folder)]
    assert main(["extend", *files, "--overwrite", *OPTIONS]) == 2
    assert "is the folder of the model itself" in capsys.readouterr().err
    assert sorted(path.name for path in model_folder.iterdir()) == before
