"""Warnings name the user's line, and commands show them."""

from __future__ import annotations

from pathlib import Path

import pytest

import scvibridge as sb
from scvibridge._utils import user_warnings
from scvibridge.cli import main


def lines(caught):
    return {(Path(one.filename), one.lineno) for one in caught}


def test_a_warning_names_the_line_of_the_call(trained_model):
    """From the checks before any work, and from the estimates."""

    def call():
        sb.corrected_counts(trained_model, transform_batch="V3", library_size=1e5, progress=False)

    with pytest.warns(UserWarning, match="confounding was not checked") as caught:
        call()
    messages = " ".join(str(one.message) for one in caught)
    assert "times their own depth" in messages
    assert lines(caught) == {(Path(__file__), call.__code__.co_firstlineno + 1)}


def test_functions_of_others_in_between_do_not_matter():
    def ours(call):
        scope = {"__name__": "scvibridge.somewhere", "call": call}
        exec("def function():\n    return call()", scope)
        return scope["function"]

    def call():
        ours(lambda: ours(lambda: user_warnings.warn("odd")))()()

    with pytest.warns(UserWarning, match="odd") as caught:
        call()
    assert lines(caught) == {(Path(__file__), call.__code__.co_firstlineno + 1)}


def test_commands_show_warnings(model_folder, data_file, tmp_path, capsys):
    given = [str(model_folder), "--adata", str(data_file), "--out", str(tmp_path / "x.h5ad")]
    assert main.main(["correct", *given, "--transform-batch", "V3"]) == 0
    assert "warning: confounding was not checked" in capsys.readouterr().err
