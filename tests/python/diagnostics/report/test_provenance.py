"""The lines of Python and shell in a report make its result again."""

from __future__ import annotations

import shlex
import warnings

import anndata as ad
import numpy as np
import pytest
from report_page import HOSTILE, hostile

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.diagnostics.report import provenance as made_by
from scvibridge.diagnostics.report.modelled import expression_of
from scvibridge.diagnostics.report.reading import open_result

pytest.importorskip("jinja2", reason="needs jinja2")
pytest.importorskip("matplotlib", reason="needs matplotlib")


def test_lines_of_python_and_shell_make_the_result_again(
    result, trained_model, data_file, tmp_path, monkeypatch
):
    # With the data, whose names tell which cells were held out.
    model_folder = tmp_path / "model"
    trained_model.save(str(model_folder), save_anndata=True)
    lines = {code.language: code.text for code in made_by.reproduction(open_result(result))}
    monkeypatch.chdir(tmp_path)
    python = lines["Python"].replace("MODEL_DIR", str(model_folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = eval(python.replace("DATA.h5ad", str(data_file)), {"scvibridge": sb})
    assert (again.X != result.X).nnz == 0
    assert "normalized" in again.layers
    places = {"MODEL_DIR": str(model_folder), "DATA.h5ad": str(data_file)}
    program, *words = [places.get(word, word) for word in shlex.split(lines["Shell"])]
    assert program == "scvibridge"
    assert main.main([*words, "--quiet"]) == 0
    assert (ad.read_h5ad(tmp_path / "corrected.h5ad").X != result.X).nnz == 0


def test_lines_name_samples_and_shrinkage(trained_model, model_folder, data_file, tmp_path):
    result = sb.corrected_counts(
        trained_model,
        transform_batch="V3",
        labels_key="cell_type",
        condition_key="condition",
        sample_key="batch",
        shrinkage=5,
        progress=False,
    )
    lines = {code.language: code.text for code in made_by.reproduction(open_result(result))}
    assert 'sample_key="batch"' in lines["Python"]
    assert "shrinkage = 5" in lines["R"]
    places = {"MODEL_DIR": str(model_folder), "DATA.h5ad": str(data_file)}
    places["corrected.h5ad"] = str(tmp_path / "corrected.h5ad")
    _, *words = [places.get(word, word) for word in shlex.split(lines["Shell"])]
    assert main.main([*words, "--quiet"]) == 0
    again = ad.read_h5ad(tmp_path / "corrected.h5ad")
    assert (again.X != result.X).nnz == 0
    assert again.uns["scvibridge"]["shrinkage"] == 5


def test_names_that_begin_with_a_dash_are_no_options(result):
    made = result.copy()
    made.uns["scvibridge"].update(transform_batch=np.array(["-3"], dtype=object), labels_key="--x")
    lines = {code.language: code.text for code in made_by.reproduction(open_result(made))}
    _, *words = shlex.split(lines["Shell"])
    options = main.parser().parse_args(words)
    assert options.transform_batch == ["-3"]
    assert options.labels_key == "--x"


def test_lines_carry_any_name_and_setting(result, run_r):
    made = hostile(result)
    made.uns["scvibridge"].update(
        transform_batch=np.array(HOSTILE, dtype=object),
        labels_key='it\'s \\ "x"',
        method="sample",
        effect=None,
        library_size=1e4,
        confounding="confounded, allowed by the user",
        zero_inflation=False,
    )
    lines = {code.language: code.text for code in made_by.reproduction(open_result(made))}
    calls = {}
    names = {"load": lambda *_a, **_k: None, "corrected_counts": lambda _m, **k: calls.update(k)}
    eval(lines["Python"], {"scvibridge": type("Package", (), names)})
    expected = {
        "transform_batch": list(HOSTILE), "method": "sample", "labels_key": "it's \\ \"x\"",
        "condition_key": "condition", "library_size": 10000, "allow_confounded": True,
        "zero_inflation": False, "normalized": True, "seed": 3,
    }  # fmt: skip
    assert calls == expected
    words = shlex.split(lines["Shell"])
    start = words.index("--transform-batch") + 1
    assert words[start : start + 3] == list(HOSTILE)
    assert words[words.index("--labels-key") + 1] == 'it\'s \\ "x"'
    assert {"--allow-confounded", "--no-zero-inflation", "--normalized"} <= set(words)
    code = (
        "load_scvi <- function(...) NULL\n"
        "corrected_counts <- function(model, ...) list(...)\n"
        f"found <- {lines['R']}\n"
        "writeLines(c(found$transform_batch, found$labels_key, format(found$library_size)))\n"
        "stopifnot(found$allow_confounded, !found$zero_inflation, found$seed == 3)\n"
    )
    assert run_r(code).splitlines() == [*HOSTILE, 'it\'s \\ "x"', "10000"]


def test_expression_of_another_call_is_not_taken_for_that_of_the_result(result):
    assert "normalized=True" in made_by.reproduction(open_result(result))[0].text
    merged = result.copy()
    merged.uns["scvibridge"]["others"] = {"normalized": {"kind": "normalized_expression"}}
    opened = open_result(merged)
    values, why = expression_of(opened, np.arange(2), None)
    assert values is None
    assert "normalized=True" in why
    assert "normalized=True" not in made_by.reproduction(opened)[0].text
