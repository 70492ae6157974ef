"""The tables for machines, docs/decision.json and llms.txt, name what the package has."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import scvibridge as sb

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"

if not (DOCS / "decision.json").is_file():
    pytest.skip("the pages are not part of the installed package", allow_module_level=True)

TABLE = json.loads((DOCS / "decision.json").read_text(encoding="utf-8"))
MATRICES = TABLE["matrices"]


@pytest.fixture(scope="module")
def results(trained_model):
    """What the functions of the table return, by the name of the matrix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = {
            name: getattr(sb, matrix["function"])(
                trained_model,
                progress=False,
                **({"method": "sample"} if name == "simulated_counts" else {}),
                **({"transform_batch": "V3"} if name != "denoised_expression" else {}),
            )
            for name, matrix in MATRICES.items()
            if matrix["function"] is not None
        }
    made["raw_counts"] = made["latent_space"] = made["corrected_counts"]
    return made


@pytest.mark.parametrize("name", MATRICES)
def test_functions_and_arguments_are_those_of_the_package(name):
    matrix = MATRICES[name]
    if matrix["function"] is None:
        assert matrix["arguments"] == {}
        return
    assert matrix["function"] in sb.__all__
    parameters = inspect.signature(getattr(sb, matrix["function"])).parameters
    assert set(matrix["arguments"]) <= set(parameters)


@pytest.mark.parametrize("name", MATRICES)
def test_matrix_is_where_the_table_says(name, results):
    values = eval(f"result.{MATRICES[name]['anndata']}", {"result": results[name]})
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    assert len(values) == results[name].n_obs
    whole = bool((values == np.round(values)).all() and (values >= 0).all())
    assert whole == MATRICES[name]["is_counts"]


def test_names_in_r_are_those_of_the_conversions():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "R").glob("*.R"))
    quoted = {
        name
        for matrix in MATRICES.values()
        for key in ("sce", "seurat")
        for name in re.findall(r"'(\w+)'", matrix[key])
    }
    assert {"corrected", "scvi_normalized", "scvi"} <= quoted
    for name in sorted(quoted):
        parts = [name, name.removeprefix("scvi_")]
        assert any(f'"{part}"' in source for part in parts), name


def test_goals_name_matrices_and_recipes_that_exist():
    recipes = {path.stem for path in (DOCS / "recipes").glob("*.md")} - {"index"}
    for goal in TABLE["goals"]:
        assert goal["matrix"] in MATRICES
        assert set(goal["avoid"]) <= set(MATRICES) - {goal["matrix"]}
        if goal["recipe"] is None:
            continue
        text = (DOCS / goal["recipe"]).read_text(encoding="utf-8")
        for tool in goal["tools"]:
            assert all(word in text for word in tool.split()), (goal["recipe"], tool)
        recipes.discard(Path(goal["recipe"]).stem)
    assert not recipes, "recipes that the table does not list"


def test_warning_and_matrices_are_those_of_the_first_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = " ".join(readme.replace("> ", "").split())
    assert TABLE["warning"].removeprefix("If ") in text
    of_readme = re.findall(r"\*\*`(\w+_\w+)`\*\*", readme)
    assert set(of_readme) == {m["function"] for m in MATRICES.values()} - {None}


def test_llms_txt_lists_all_pages_and_public_functions():
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)]+)\)", text))
    for target in linked:
        assert (ROOT / target).is_file(), target
    pages = {str(path.relative_to(ROOT)) for path in DOCS.glob("*.md")}
    assert pages <= linked
    for name in set(sb.__all__) - {"__version__", "pl", "r"}:
        assert re.search(rf"\b{name}\b", text), name
