"""The notebooks of docs/ run from the first cell to the last, and show what their text says."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
if find_spec("ipykernel") is None:
    pytest.skip("needs ipykernel", allow_module_level=True)

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

if not NOTEBOOKS:
    pytest.skip("the notebooks are not part of the installed package", allow_module_level=True)


@pytest.fixture
def executed(tmp_path):
    """A function that runs a notebook in a folder of its own, and returns its outputs as text."""

    def run(name: str) -> list[str]:
        notebook = nbformat.read(FOLDER / name, as_version=4)
        client = nbclient.NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        return [
            "\n".join(_text(output) for output in cell.outputs)
            for cell in notebook.cells
            if cell.cell_type == "code"
        ]

    return run


def _text(output) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


@pytest.mark.r
def test_h5ad_to_seurat(executed, tmp_path, run_r):
    pytest.importorskip("rpy2", reason="needs rpy2")
    run_r("", needs=("Seurat", "SingleCellExperiment"))
    shown = "\n".join(executed("h5ad_to_seurat.ipynb"))
    assert "cells of V3 unchanged: True | type of the counts: int32" in shown
    assert {"cells.h5ad", "corrected.rds", "model_dir", "report.html"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assays = run_r(
        f'cat(SeuratObject::Assays(readRDS("{tmp_path}/corrected.rds")))', needs=("Seurat",)
    )
    assert set(assays.split()) == {"RNA", "corrected", "scvi_normalized"}


def test_differential_expression(executed):
    outputs = executed("differential_expression.ipynb")
    table = next(text for text in reversed(outputs) if "normalized expression" in text)
    rows = {
        match[1].strip(): (int(match[2]), int(match[3]))
        for match in re.finditer(r"^\d+\s+(.+?)\s+(\d+)\s+(\d+)$", table, re.MULTILINE)
    }
    with_batch, without = rows["raw counts, batch in the design"], rows["raw counts, no batch"]
    corrected = rows["corrected counts, no batch"]
    expression = rows["normalized expression, cells as replicates"]
    assert with_batch[0] > without[0]
    assert corrected[0] > without[0]
    assert max(with_batch[1], corrected[1]) <= 5
    assert expression[1] > 30
    assert outputs[-1].startswith("refused: ")
    assert "condition" in outputs[-1]


def test_progress_is_a_bar_in_a_kernel():
    cell = """
from scvibridge._utils import progress
with progress.counting(4, "Training", "epochs", enabled=True):
    print(type(progress.choose_reporter()).__name__)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=600).execute()
    assert _text(notebook.cells[0].outputs[-1]).strip() == "_Bar"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
