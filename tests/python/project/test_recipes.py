"""The recipes of docs/recipes run with the real tools, and pass on the matrix that they promise.

Those in R are run by test_docs.py, in one R process with the other pages.
"""

from __future__ import annotations

import functools
import re
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from pages import blocks_of, run_python

import scvibridge as sb

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docs" / "recipes"
SHORT = 2  # epochs of extend_genes
A_SCREEN = 66  # lines
INSTALL = "pip install --group recipes"

if not FOLDER.is_dir():
    pytest.skip("the pages are not part of the installed package", allow_module_level=True)

RECIPES = sorted(page for page in FOLDER.glob("*.md") if page.name != "index.md")
BY_NAME = {page.stem: page for page in RECIPES}


@pytest.fixture
def recipe(folder_of_docs, tmp_path, monkeypatch):
    """A function that runs the Python code of a recipe and returns what it defines."""

    def run(name: str) -> dict:
        monkeypatch.chdir(shutil.copytree(folder_of_docs, tmp_path / "docs"))
        monkeypatch.setattr(
            sb, "extend_genes", functools.partial(sb.extend_genes, max_epochs=SHORT)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run_python(BY_NAME[name])

    return run


def log_normalised(counts) -> np.ndarray:
    """Counts of one depth, 1e4, as natural logarithms: independent of scanpy."""
    values = counts.toarray().astype(float)
    return np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)


def test_cnmf_factorizes_the_corrected_counts(recipe, monkeypatch):
    cnmf = pytest.importorskip("cnmf", reason=f"needs cnmf: {INSTALL}")
    prepare = cnmf.cNMF.prepare

    def prepare_short_runs(*arguments, **given):
        cheaper = {"components": [7], "n_iter": 4, "num_highvar_genes": 200, "max_NMF_iter": 20}
        return prepare(*arguments, **{**given, **cheaper})

    monkeypatch.setattr(cnmf.cNMF, "prepare", prepare_short_runs)
    names = recipe("cnmf")
    counts = names["counts"]
    assert (counts.layers["raw_counts"] != counts.X).nnz > 0
    values = counts.X.toarray().astype(float)
    tpm = ad.read_h5ad(names["run"].paths["tpm"]).X.toarray()
    np.testing.assert_allclose(tpm, values / values.sum(axis=1, keepdims=True) * 1e6, rtol=1e-5)
    usage = names["usage"]
    assert list(usage.index) == list(counts.obs_names)
    assert usage.shape[1] == 7
    assert (usage.to_numpy() >= 0).all()


def test_pyscenic_gets_the_corrected_counts(recipe):
    pytest.importorskip("arboreto", reason=f"needs arboreto: {INSTALL}")
    names = recipe("pyscenic")
    counts = names["counts"]
    read = pd.read_csv("for_scenic.csv", index_col=0)
    assert list(read.columns) == list(counts.var_names)
    np.testing.assert_array_equal(read.to_numpy(), counts.X.toarray())
    links = names["adjacencies"]
    assert set(links["target"]) == {"LYZ", "CD74", "CCL5"}
    assert set(links["TF"]) <= {"SPI1", "IRF8", "FOS", "KLF6"}
    assert links.groupby("target")["importance"].sum().gt(0).all()
    # SPI1, the factor of myeloid cells, explains LYZ best.
    assert links[links["target"] == "LYZ"].iloc[0]["TF"] == "SPI1"


def test_liana_reads_the_corrected_counts_of_all_genes(recipe, monkeypatch):
    li = pytest.importorskip("liana", reason=f"needs liana: {INSTALL}")
    method = type(li.mt.rank_aggregate)
    of_few_permutations = functools.partialmethod(method.__call__, n_perms=5)
    monkeypatch.setattr(method, "__call__", of_few_permutations)
    names = recipe("liana-cell2cell")
    found = names["counts"].uns["liana_res"]
    assert set(found["donor"]) == {"D1", "D2"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = sb.corrected_counts(
            names["extended"],
            adata="all_genes.h5ad",
            transform_batch="V3",
            labels_key="cell_type",
            condition_key="condition",
            sample_key="donor",
            progress=False,
        )
    assert counts.var["scvibridge_added"].any()
    values = pd.DataFrame(log_normalised(counts.X), counts.obs_names, counts.var_names)

    def mean(gene: str, cell_type: str, donor: str) -> float:
        obs = counts.obs
        rows = (obs["cell_type"] == cell_type) & (obs["donor"] == donor)
        return values.loc[rows.to_numpy(), gene].mean()

    simple = found[~found["ligand_complex"].str.contains("_")]
    simple = simple[~simple["receptor_complex"].str.contains("_")]
    assert len(simple) > 0
    for row in simple.head(20).itertuples():
        ligand = mean(row.ligand_complex, row.source, row.donor)
        receptor = mean(row.receptor_complex, row.target, row.donor)
        assert row.lr_means == pytest.approx((ligand + receptor) / 2, rel=1e-4)


def test_r_code_that_is_not_run_is_r_code(run_r, tmp_path):
    blocks = [b for page in RECIPES for b in blocks_of(page) if b.language == "r" and b.not_run]
    assert blocks
    for i, block in enumerate(blocks):
        (tmp_path / f"{i}.R").write_text(block.text)
    parsed = run_r(f'for (f in list.files("{tmp_path}", "R$", full.names = TRUE)) parse(f)\ncat(1)')
    assert parsed == "1"


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_recipe_fits_a_screen_and_says_what_was_run(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= A_SCREEN
    assert text.index("**Matrix:**") < text.index("```")
    assert "**What to avoid**" in text or "do not use" in text
    notes = " ".join(re.findall(r"^\*(.+?)\*(?:$| A worked)", text, re.MULTILINE | re.DOTALL)[-1:])
    assert "ur tests" in notes
    has_more = any(block.not_run for block in blocks_of(page))
    assert has_more == bool(re.search(r"\bbut\s+not\b", notes)) or page.stem == "liana-cell2cell"


def test_index_lists_each_recipe():
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([\w-]+)\.md\)", index)) == set(BY_NAME)
