"""Names stay names in code, on terminals and in tables: read back by Python, R, a shell and CSV."""

from __future__ import annotations

import argparse
import ast
import csv
import io
import json
import shlex
import subprocess
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge._utils import exit_codes
from scvibridge._utils.wording import (
    csv_cell,
    csv_table,
    from_csv_cell,
    printable,
    python_literal,
    r_argument,
    r_literal,
    shell_words,
)
from scvibridge.cli import console, main, options
from scvibridge.correction import confounding, given_dispersion
from scvibridge.diagnostics.report import provenance

ESCAPES = "\x1b]0;owned\x07\x1b[2J"
NAMES = [
    "plain",
    "with space",
    "",
    "quote \" and ' and ` and \\",
    '`x` = 1); system("touch marker"); list(`y`',
    '"); system("touch marker"); ("',
    "'); import os; ('",
    "$(touch marker) `touch marker` ${HOME} !! ; & | > *",
    "line\nbreak\r\ttab",
    ESCAPES,
    "\u202egnp.exe\u2066",
    "\u2028\u2029\x85\x7f\xa0",
    "\U0001f9ec \u00e9\u4e2d",
    "\\u0041 \\x41 \\n \\",
    "%s {0} {{x}} %%",
    "--out=x",
    "=1+1",
    "if",
    "TRUE",
    "..1",
    ".5",
    "_a",
    "a.b_c",
]


# ---- code ------------------------------------------------------------------------------------


def test_python_reads_names_back():
    assert ast.literal_eval(python_literal(NAMES)) == NAMES
    assert ast.literal_eval(python_literal({name: name for name in NAMES})) == dict(
        zip(NAMES, NAMES, strict=True)
    )
    for name in [*NAMES, "\0", "\udcff"]:
        literal = python_literal(name)
        assert literal.isprintable()
        assert ast.literal_eval(literal) == name


VALUES = [True, False, None, 3, -2, 0.1, 12345.678, 1e-9, 1e22, np.float32(0.5), np.int64(7)]


def test_python_reads_values_back():
    assert ast.literal_eval(python_literal(VALUES)) == VALUES
    assert eval(python_literal(float("-inf"))) == float("-inf")
    assert ast.literal_eval(python_literal(np.array(["a", "b"]))) == ["a", "b"]


def test_r_reads_names_and_values_back(run_r, tmp_path):
    """By R's own parser; that nothing is called but what makes vectors is seen in the code."""
    names = [name for name in NAMES if name]
    lines = {
        "names": r_literal(names),
        "entries": f"list({', '.join(r_argument(name, name) for name in names)})",
        "dictionary": r_literal({name: name for name in names}),
        "numbers": r_literal([0.1, 12345.678, 1e-9, 1e22, float("inf")]),
        "truth": r_literal([True, False]),
        "none": r_literal(None),
    }
    assert all(line.isprintable() for line in lines.values())
    code = """
    arguments <- commandArgs(trailingOnly = TRUE)
    lines <- jsonlite::fromJSON(file(arguments[1], encoding = "UTF-8"))
    parsed <- lapply(lines, function(line) parse(text = line, keep.source = FALSE))
    stopifnot(all(lengths(parsed) == 1))
    called <- unique(unlist(lapply(parsed, function(p) {
      setdiff(all.names(p), all.names(p, functions = FALSE))
    })))
    values <- lapply(parsed, function(p) eval(p[[1]]))
    values$called <- called
    values$entry_names <- names(values$entries)
    values$dictionary_names <- names(values$dictionary)
    values$entries <- unname(unlist(values$entries))
    values$dictionary <- unname(unlist(values$dictionary))
    values$inf <- is.infinite(values$numbers[5])
    writeLines(jsonlite::toJSON(values, digits = NA, null = "null"), arguments[2], useBytes = TRUE)
    """
    given, found = tmp_path / "given.json", tmp_path / "found.json"
    given.write_text(json.dumps(lines), encoding="utf-8")
    run_r(code, given, found, needs=("jsonlite",))
    values = json.loads(found.read_text(encoding="utf-8"))
    assert set(values["called"]) == {"c", "list"}
    for key in ("names", "entries", "entry_names", "dictionary", "dictionary_names"):
        assert values[key] == names, key
    assert values["numbers"][:4] == pytest.approx([0.1, 12345.678, 1e-9, 1e22], rel=1e-15)
    assert values["inf"] == [True]
    assert values["truth"] == [True, False]
    assert values["none"] is None or values["none"] == {}


def test_r_has_no_zero_byte():
    assert r_literal("a\0b\ud800") == '"a\ufffdb\ufffd"'


def test_shells_read_names_back():
    line = shell_words(NAMES)
    assert line.isprintable()
    checked = subprocess.run(["bash", "-n", "-c", line], check=False, capture_output=True)
    assert checked.returncode == 0
    told = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], check=True, capture_output=True, cwd="/"
    )
    assert told.stdout.decode().split("\0")[:-1] == NAMES
    shown = [name for name in NAMES if name.isprintable()]
    assert shlex.split(shell_words(shown)) == shown


def result_with(**made):
    """What the lines that do a result again are made of."""
    targets = made.get("transform_batch", ["V3"])
    adata = SimpleNamespace(layers={}, X=None)
    return SimpleNamespace(
        provenance={"seed": 1, **made}, targets=targets, adata=adata, has_normalized=False
    )


COVARIATES = {'`x` = 1); system("touch marker"); list(`y`': ["a"], "donor": ["D1", "D2"]}


def test_lines_of_a_report_hold_any_covariate(run_r):
    made = result_with(
        transform_covariates=COVARIATES, transform_batch=["V3"], library_size=1234.5678
    )
    lines = {code.language: code.text for code in provenance.reproduction(made)}
    call = ast.parse(lines["Python"]).body[0].value
    found = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    single = {key: v[0] if len(v) == 1 else v for key, v in COVARIATES.items()}
    assert found["transform_covariates"] == single
    assert found["library_size"] == 1234.5678
    out = run_r(
        "p <- parse(text = commandArgs(trailingOnly = TRUE)[1])\n"
        "stopifnot(length(p) == 1)\n"
        "covariates <- eval(p[[1]]$transform_covariates)\n"
        "cat(all.names(p[[1]]), names(covariates), unlist(covariates), sep = '\\n')",
        lines["R"],
    )
    told = out.splitlines()
    assert told[-5:] == [*COVARIATES, "a", "D1", "D2"]
    assert "system" not in told[:-5]
    assert "Shell" not in lines  # an equals sign in the name of a covariate


@pytest.mark.parametrize(
    "made",
    [
        {"transform_batch": ["-a", "b"]},
        {"transform_covariates": {"a=b": ["c"]}},
        {"transform_covariates": {"-a": ["c"]}},
    ],
)
def test_no_line_is_better_than_one_that_does_something_else(made):
    lines = provenance.reproduction(result_with(**made))
    assert [code.language for code in lines] == ["Python", "R"]


def test_a_covariate_of_the_shell_line_is_read_back():
    made = result_with(transform_covariates={"a b'c": ["x=y", "-1"]}, transform_batch=[ESCAPES])
    (line,) = (c.text for c in provenance.reproduction(made) if c.language == "Shell")
    told = subprocess.run(
        ["bash", "-c", line.replace("scvibridge", "printf '%s\\0'", 1)],
        check=True,
        capture_output=True,
    )
    options = main.parser().parse_args(told.stdout.decode().split("\0")[:-1])
    assert options.transform_batch == [ESCAPES]
    assert options.transform_covariates == [("a b'c", "x=y"), ("a b'c", "-1")]


# ---- terminals -------------------------------------------------------------------------------


def test_what_a_terminal_obeys_is_escaped():
    assert printable(ESCAPES) == r"\x1b]0;owned\x07\x1b[2J"
    assert printable("a\u202eb\U000e0041\ud800\n") == r"a\u202eb\U000e0041\ud800\n"
    assert printable("a\nb\x9b", keep="\n") == "a\nb\\x9b"
    assert printable("\u00e9 \u4e2d") == "\u00e9 \u4e2d"


def shown(capsys) -> str:
    told = capsys.readouterr()
    text = told.out + told.err
    assert printable(text, keep="\n") == text
    return text


def test_messages_of_commands_are_escaped(capsys, tmp_path):
    model = str(tmp_path / f"model{ESCAPES}")
    assert main.main(["support", model, "--transform-batch", ESCAPES]) == exit_codes.BAD_INPUT
    assert r"\x1b[2J" in shown(capsys)
    with pytest.raises(SystemExit):
        main.main(["correct", model, "--out", "x.h5ad", f"--{ESCAPES}"])
    assert r"\x1b[2J" in shown(capsys)
    with pytest.raises(SystemExit):
        main.main(["report", "x", "--seed", ESCAPES])
    assert r"\x1b[2J" in shown(capsys)
    options.tell(argparse.Namespace(quiet=False), f"reading {ESCAPES}")
    assert r"\x1b[2J" in shown(capsys)

    def fail():
        raise KeyError(ESCAPES)

    assert console.run("scvibridge", fail, debug=True) == exit_codes.FAILED
    assert "Traceback" in shown(capsys)


def test_warnings_of_commands_are_escaped(capsys):
    with console.plain_warnings():
        warnings.warn_explicit(f"label {ESCAPES}", UserWarning, confounding.__file__, 1)
    assert r"warning: label \x1b]0;owned" in shown(capsys)


def test_output_is_escaped_on_a_terminal_alone(capsys, monkeypatch):
    console.show(f"a\n{ESCAPES}")
    assert capsys.readouterr().out == f"a\n{ESCAPES}\n"  # a path, for a program to read
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    console.show(f"a\n{ESCAPES}")
    assert shown(capsys) == f"a\n{printable(ESCAPES)}\n"


def test_notes_and_support_show_no_escapes(trained_model, simulated):
    data = simulated.copy()
    types = data.obs["cell_type"].cat.rename_categories({"NK": f"NK{ESCAPES}"})
    data.obs["cell_type"] = types
    with pytest.warns(UserWarning, match="labels_key='cell_type': 60 of 191 cells") as caught:
        found = sb.batch_support(
            trained_model, data, transform_batch="V3", labels_key="cell_type", progress=False
        )
    message = str(caught[0].message)
    assert printable(message) == message
    assert r"NK\x1b]0;owned" in message
    assert printable(found.summary(), keep="\n") == found.summary()
    assert r"NK\x1b]0;owned" in found.summary()


# ---- tables ----------------------------------------------------------------------------------

CELLS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''-1", "'a", "a=1", "", "1"]


def test_cells_are_no_formulas_and_are_read_back():
    for cell in CELLS:
        written = csv_cell(cell)
        assert not written.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert from_csv_cell(written) == cell
    assert csv_cell(-1.5) == -1.5
    assert csv_cell(None) is None


def test_tables_are_no_formulas(tmp_path):
    table = pd.DataFrame(
        {
            "=column": CELLS[:3],
            "category": pd.Categorical(["-a", "b", None]),
            "number": [-1.0, 2.0, np.nan],
        },
        index=pd.Index(["@gene", "-x", "y"], name="=name"),
    )
    path = tmp_path / "table.csv"
    options.write_table(table, path, index=True, overwrite=False)
    rows = list(csv.reader(io.StringIO(path.read_text())))
    assert rows == [
        ["'=name", "'=column", "category", "number"],
        ["'@gene", "'=1+1", "'-a", "-1.0"],
        ["'-x", "'+1", "b", "2.0"],
        ["y", "'-1", "", ""],
    ]
    assert (
        csv_table(table["number"]).to_csv()
        == table[["number"]]
        .rename_axis("'=name")
        .rename(index={"@gene": "'@gene", "-x": "'-x"})
        .to_csv()
    )


def test_dispersions_keep_the_names_of_genes_and_batches(tmp_path):
    theta = pd.DataFrame({"=a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["-gene", "'=x"])
    options.write_table(theta, tmp_path / "theta.csv", index=True, overwrite=False)
    read = given_dispersion.read_dispersion(tmp_path / "theta.csv")
    assert read.columns.tolist() == ["=a", "b"]
    assert read.index.tolist() == ["-gene", "'=x"]
    assert np.array_equal(read.to_numpy(), theta.to_numpy())
