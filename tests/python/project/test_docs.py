"""The examples of README.md and docs/ run, in order, and the pages hold together.

Fenced blocks of python, r and console are run in a folder with `model_dir` and `data.h5ad`, except
those after a line `<!-- not run: reason -->`. Of console blocks the lines that begin with "$ " run.
Those of ipython are cells of a notebook, run by test_jupyter.py.

The pages train models for as many epochs as scvi-tools chooses, as users should. Here trainings are
short, which the pages do not show.
"""

from __future__ import annotations

import functools
import re
import shutil
import warnings
from pathlib import Path

import anndata as ad
import pytest
from pages import anchors, blocks_of, r_code, run_blocks, run_python
from preloaded import preloaded_workers

import scvibridge as sb
from scvibridge.cli import main

ROOT = Path(__file__).resolve().parents[3]
CONFOUNDING = (
    "if your batch is the replicate, correction removes the condition and the variance between "
    "replicates; use raw counts."
)
MOST_LINES = 150  # of README.md
SHORT = 5  # epochs
# Functions of R that train, in front of those of the package.
SHORT_IN_R = "\n".join(
    f"{name} <- function(...) scvibridge::{name}(..., max_epochs = {SHORT})"
    for name in ("train_scvi", "scvi_damage")
)
R_PACKAGES = ("scvibridge", "SingleCellExperiment", "Seurat", "HDF5Array", "scater")
R_PACKAGES_OF_RECIPES = ("scran", "DESeq2", "edgeR")
# In recipes genes are added in fewer epochs, too.
SHORT_IN_R_RECIPES = "extend_genes <- function(...) scvibridge::extend_genes(..., max_epochs = 2)"
# What a page defined and attached is gone before the next one.
ANEW = """
for (package in setdiff(search(), attached)) detach(package, character.only = TRUE)
rm(list = setdiff(ls(), "attached"))
"""

if not (ROOT / "README.md").is_file():
    pytest.skip("the pages are not part of the installed package", allow_module_level=True)

RUN_HERE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Their code in Python is run by test_recipes.py.
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
PAGES = [*RUN_HERE, *RECIPES]


def pages_with(language: str) -> list[Path]:
    return [page for page in RUN_HERE if run_blocks(page, language)]


@pytest.fixture
def fresh_folder(folder_of_docs, tmp_path):
    """A copy of the folder, in which no other page has written anything."""
    return shutil.copytree(folder_of_docs, tmp_path / "docs")


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_python_examples_run(page, fresh_folder, monkeypatch, run_r):
    blocks = run_blocks(page, "python")
    if any("sb.r." in block.text for block in blocks):
        pytest.importorskip("rpy2", reason="needs rpy2")
        run_r("", needs=R_PACKAGES[1:3])
    monkeypatch.chdir(fresh_folder)
    for function in ("train_scvi", "damage"):
        short = functools.partial(getattr(sb, function), max_epochs=SHORT)
        monkeypatch.setattr(sb, function, short)
    with warnings.catch_warnings(), preloaded_workers():
        warnings.simplefilter("ignore")
        run_python(page)


def test_r_examples_run(folder_of_docs, fresh_folder, tmp_path, run_r):
    """Those of the pages, then recipe by recipe: the start of R and of its Python takes long."""
    of_recipes = shutil.copytree(folder_of_docs, tmp_path / "recipes")
    code = ["attached <- search()", "pdf(NULL)", f'setwd("{fresh_folder}")', SHORT_IN_R]
    code += [r_code(page) for page in pages_with("r")]
    code.append(f'setwd("{of_recipes}")')
    recipes = [page for page in RECIPES if run_blocks(page, "r")]
    assert [page.stem for page in recipes] == [
        "cellchat",
        "deconvolution",
        "deseq2-edger",
        "hdwgcna",
        "infercnv",
        "scran-scater",
        "seurat-findmarkers",
    ]
    code += [f"{ANEW}\n{SHORT_IN_R_RECIPES}\n{r_code(page)}" for page in recipes]
    run_r("\n".join(code), needs=(*R_PACKAGES, *R_PACKAGES_OF_RECIPES), timeout=1200)


@pytest.mark.parametrize("page", pages_with("console"), ids=lambda page: page.name)
def test_console_examples_run(page, fresh_folder, monkeypatch, capsys):
    monkeypatch.chdir(fresh_folder)
    whole = ad.read_h5ad("data.h5ad")
    for batch in ("V2", "V3"):
        whole[whole.obs["batch"] == batch].write_h5ad(f"only_{batch}.h5ad")
    train = sb.train_scvi
    monkeypatch.setattr(sb, "train_scvi", lambda *a, **k: train(*a, **{**k, "max_epochs": SHORT}))
    for block in run_blocks(page, "console"):
        commands = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
        assert commands, f"{page.name}:{block.line} has no line that begins with '$ '"
        for command in commands:
            program, *arguments = command.split()
            assert program == "scvibridge", command
            assert main.main(arguments) == 0, f"{command}\n{capsys.readouterr().err}"
            assert (fresh_folder / capsys.readouterr().out.strip()).exists()


def test_error_in_the_python_page_is_the_real_one(folder_of_docs, monkeypatch):
    page = ROOT / "docs" / "python.md"
    promised = re.search(r"print\(error\) +# (.*)", page.read_text(encoding="utf-8"))[1]
    monkeypatch.chdir(folder_of_docs)
    model = sb.load("model_dir", adata="data.h5ad")
    with pytest.raises(ValueError, match=re.escape(promised)):
        sb.corrected_counts(model, transform_batch="v3")


# ---- the pages -------------------------------------------------------------------------------


def test_first_screens_have_the_warning_the_quick_starts_and_the_table():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    first = " ".join(" ".join(lines[:25]).replace("> ", "").split())
    assert CONFOUNDING in first
    assert "](docs/images/before_after.png)" in first
    positions = [
        lines.index(line)
        for line in ("```python", "```r", "```console", "## Which matrix do I want?")
    ]
    assert positions == sorted(positions)
    assert positions[-1] < 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_somewhere(page):
    source = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", source):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_run_or_say_why_not(page):
    known = {"python", "ipython", "r", "console"}
    fences = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences) - {""} <= known
    assert len(blocks_of(page)) == fences.count("") == len(fences) / 2
