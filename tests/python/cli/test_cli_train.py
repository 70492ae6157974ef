"""``scvibridge train`` and ``choose-batch``: the whole way in the shell, from raw counts."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge.cli import main

SHORT = ["--max-epochs", "2", "--n-latent", "4", "--seed", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "model_dir"
    columns = ["--batch-key", "batch", "--labels-key", "cell_type"]
    arguments = ["train", str(data_file), *columns, *SHORT, "--n-top-genes", "50", "--quiet"]
    assert main.main([*arguments, "--out", str(folder)]) == 0
    return folder


def test_model_is_the_one_that_the_function_trains(trained, data_file):
    read = sb.load(trained)
    expected = sb.train_scvi(
        data_file,
        batch_key="batch",
        labels_key="cell_type",
        n_top_genes=50,
        n_latent=4,
        max_epochs=2,
        seed=3,
        device="cpu",
        progress=False,
    )
    assert list(read.adata.var_names) == list(expected.adata.var_names)
    assert read.adata.n_vars == 50
    np.testing.assert_array_equal(
        read.get_latent_representation(), expected.get_latent_representation()
    )


def test_each_argument_of_the_function_is_an_option():
    given = vars(main.parser().parse_args(["train", "x.h5ad", "--out", "model_dir"]))
    renamed = {
        "adata": "data",
        "early_stopping": "no_early_stopping",
        "progress": "quiet",
        "save": "out",
    }
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(sb.train_scvi).parameters.items()
    }
    for name, default in defaults.items():
        option = renamed.get(name, name)
        assert option in given, name
        if name not in renamed:
            assert given[option] == default, name


def test_messages_path_and_options_that_reach_the_training(data_file, simulated, tmp_path, capsys):
    genes = tmp_path / "genes.txt"
    out = tmp_path / "of_forty_genes"
    names = list(simulated.var_names[:40])
    genes.write_text("\n".join(names))
    more = ["--gene-list", str(genes), "--gene-likelihood", "zinb", "--no-early-stopping"]
    assert main.main(["train", str(data_file), *SHORT, *more, "--out", str(out)]) == 0
    printed, said = capsys.readouterr()
    assert printed == f"{out}\n"
    lines = said.splitlines()
    assert lines[0] == f"training on {data_file}"
    assert lines[-1] == f"written {out}: 300 cells, 40 genes, 2 epochs"
    model = sb.load(out)
    assert sorted(model.adata.var_names) == sorted(names)
    assert model.module.gene_likelihood == "zinb"


def test_all_genes(data_file, tmp_path):
    out = tmp_path / "all"
    arguments = ["train", str(data_file), *SHORT, "--all-genes", "--quiet"]
    assert main.main([*arguments, "--out", str(out)]) == 0
    assert sb.load(out).adata.n_vars == 120


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{data}", "--batch-key", "Batch"], "did you mean 'batch'"),
        (["missing.h5ad"], "missing.h5ad"),
        (["{data}", "--max-epochs", "0"], "max_epochs must be a whole number of at least 1"),
        (["{data}", "--layer", "spliced"], "spliced"),
        (["{data}", "--gene-list", "none.txt"], "--gene-list none.txt could not be read"),
    ],
)
def test_bad_input_is_refused_before_work(arguments, said, data_file, tmp_path, capsys):
    out = tmp_path / "model_dir"
    arguments = [argument.format(data=data_file) for argument in arguments]
    assert main.main(["train", *arguments, "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_folder_that_exists_is_kept(trained, data_file, capsys):
    before = sorted(path.name for path in trained.iterdir())
    assert main.main(["train", str(data_file), *SHORT, "--out", str(trained)]) == 2
    assert (
        f"--out: {trained} exists: choose another name, or pass --overwrite"
        in capsys.readouterr().err
    )
    assert sorted(path.name for path in trained.iterdir()) == before


def test_two_choices_of_genes_are_a_usage_error(data_file, capsys):
    arguments = ["train", str(data_file), "--all-genes", "--gene-list", "x", "--out", "y"]
    with pytest.raises(SystemExit) as ending:
        main.main(arguments)
    assert ending.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_model_that_cannot_be_saved_is_a_failure(data_file, tmp_path, capsys, monkeypatch):
    from scvibridge.models.training import saving

    def full(*_arguments, **_settings):
        raise OSError("No space left on device")

    monkeypatch.setattr(saving, "write_new_h5ad", full)
    out = tmp_path / "model_dir"
    assert main.main(["train", str(data_file), *SHORT, "--out", str(out)]) != 0
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "could not be saved" in said
    assert "No space left on device" in said
    assert not out.exists()


def test_choose_batch_prints_and_writes_the_table(trained, tmp_path, capsys):
    given = ["choose-batch", str(trained), "--labels-key", "cell_type", "--quiet"]
    assert main.main(given) == 0
    printed = capsys.readouterr().out
    out = tmp_path / "batches.csv"
    assert main.main([*given, "--condition-key", "condition", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    expected = sb.choose_batch(
        sb.load(trained), labels_key="cell_type", condition_key="condition", progress=False
    )
    written = pd.read_csv(out, index_col=0, keep_default_na=False, na_values=[""])
    assert list(written.index) == list(expected.index)
    assert list(written.columns) == list(expected.columns)
    np.testing.assert_allclose(written["supported"], expected["supported"])
    np.testing.assert_allclose(written["n_cells"], expected["n_cells"])
    rows = printed.splitlines()
    assert [row.split()[0] for row in rows if row.split()[0] in expected.index] == list(
        expected.index
    )


def test_the_whole_way_needs_no_other_data(trained, tmp_path, capsys):
    out = tmp_path / "corrected.h5ad"
    arguments = ["correct", str(trained), "--transform-batch", "V3", "--labels-key", "cell_type"]
    assert main.main([*arguments, "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.is_file()
