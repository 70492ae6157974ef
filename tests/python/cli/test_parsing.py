"""Options with several values: repeated, and not mistaken for the arguments without a name."""

from __future__ import annotations

import argparse

import anndata as ad
import pytest

from scvibridge.cli import main, parsing


def commands() -> dict[str, parsing.Parser]:
    (found,) = (
        action.choices
        for action in main.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return found


def refused(arguments, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        main.main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_usage_has_the_arguments_without_a_name_first():
    usages = {name: command.format_help().split("\n\n")[0] for name, command in commands().items()}
    assert usages["correct"] == "usage: scvibridge correct MODEL_DIR --out FILE [OPTION ...]"
    assert usages["support"].endswith("MODEL_DIR [OPTION ...]")
    assert usages["train"] == "usage: scvibridge train DATA --out FOLDER [OPTION ...]"
    assert main.parser().format_help().startswith("usage: scvibridge COMMAND [OPTION ...]\n")
    texts = [command.format_help() for command in commands().values()]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 100


def test_each_option_with_several_values_can_be_repeated():
    several = [
        action
        for command in commands().values()
        for action in command._actions
        if action.nargs in ("+", "*")
    ]
    assert len(several) > 10
    assert all(isinstance(action, parsing.Several) for action in several)


def test_values_of_a_repeated_option_are_collected():
    first = ["--adata", "a.h5ad", "--transform-batch", "V1", "V2", "--estimate-on", "pool=A"]
    again = ["--adata", "b.h5ad", "c.h5ad", "--transform-batch=V3", "--adata=d.h5ad"]
    again += ["--estimate-on", "pool=B", "condition=ctrl"]
    given = main.parser().parse_args(["correct", "model", *first, "--out", "x.h5ad", *again])
    assert given.adata == ["a.h5ad", "b.h5ad", "c.h5ad", "d.h5ad"]
    assert given.transform_batch == ["V1", "V2", "V3"]
    assert given.estimate_on == [("pool", "A"), ("pool", "B"), ("condition", "ctrl")]
    one = main.parser().parse_args(["support", "model", "--adata=a.h5ad", "--transform-batch=V3"])
    assert (one.adata, one.transform_batch) == ("a.h5ad", ["V3"])
    data = main.parser().parse_args(["train", "a.h5ad", "b.h5ad", "--out", "model"])
    assert data.data == ["a.h5ad", "b.h5ad"]
    assert main.parser().parse_args(["damage", "a.h5ad", "--batch-key", "b"]).data == "a.h5ad"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["correct", "--adata", "{data}", "{data}", "{model}", "--out", "x.h5ad"], "--adata"),
        (["correct", "--out", "x.h5ad", "--transform-batch", "V3", "{model}"], "--transform-batch"),
        (["correct", "--out", "x.h5ad", "--genes-kept", "XIST", "{model}"], "--genes-kept"),
        (["support", "--transform-batch", "V3", "{model}", "--adata={data}"], "--transform-batch"),
        (["choose-batch", "--adata", "{data}", "{model}"], "--adata"),
    ],
)
def test_an_option_that_took_the_model_is_named(command, option, model_folder, data_file, capsys):
    arguments = [part.format(data=data_file, model=model_folder) for part in command]
    error = refused(arguments, capsys)
    assert "required: MODEL_DIR" in error
    assert f"if '{model_folder}' is MODEL_DIR, put it first" in error
    assert f"here it is a value of {option} (see" in error


@pytest.mark.parametrize(
    ("command", "argument", "option"),
    [
        (["train", "--batch-key=b", "--continuous-covariate-keys", "age"], "DATA", "--continuous"),
        (["report", "--model", "model_dir", "--adata", "a.h5ad"], "RESULT", "--adata"),
    ],
)
def test_an_option_that_took_the_data_is_named(command, argument, option, data_file, capsys):
    error = refused([*command, data_file, "--out", "out"], capsys)
    assert f"if '{data_file}' is {argument}, put it first: here it is a value of {option}" in error


def test_nothing_is_guessed_where_the_model_is_missing(data_file, capsys):
    given = ["--adata", data_file, "--transform-batch", "V3", "--out", "x.h5ad"]
    assert "put it first" not in refused(["correct", *given], capsys)


def test_the_model_may_follow_two_dashes(model_folder, data_file, tmp_path):
    out = tmp_path / "x.h5ad"
    given = ["--out", out, "--labels-key", "cell_type", "--adata", data_file, "--quiet"]
    command = ["correct", *given, "--transform-batch", "V3", "--", model_folder]
    assert main.main([str(argument) for argument in command]) == 0
    assert set(ad.read_h5ad(out).uns["scvibridge"]["transform_batch"]) == {"V3"}
