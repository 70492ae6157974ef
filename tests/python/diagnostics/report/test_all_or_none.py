"""Genes that one side lacks are listed, with the argument that leaves them alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from report_page import Page, quietly

import scvibridge as sb
from scvibridge.diagnostics.report import all_or_none
from scvibridge.diagnostics.report import provenance as made_by
from scvibridge.diagnostics.report.reading import open_result
from scvibridge.diagnostics.report.tallies import tally

pytest.importorskip("jinja2", reason="needs jinja2")
pytest.importorskip("matplotlib", reason="needs matplotlib")


@pytest.fixture(scope="module")
def sexed(result):
    """A result in whose raw counts the target lacks XIST, V1 a gene, and V2 nearly one."""
    made = result.copy()
    made.var_names = ["XIST", "RARE", *made.var_names[2:]]
    raw = made.layers["raw_counts"].toarray()
    batch = made.obs["batch"].to_numpy()
    raw[:, 0] = np.where(batch == "V3", 0, 2)
    raw[:, 1] = np.where(batch == "V3", 0, np.arange(made.n_obs) % 50 == 0)  # 2 % of the cells
    raw[:, 2] = np.where(batch == "V1", 0, 1)
    raw[:, 3] = 1
    raw[np.flatnonzero(batch == "V2")[2:], 3] = 0  # two of about 100 cells show it
    made.layers["raw_counts"] = sp.csr_matrix(raw)
    return made


def found_in(result):
    opened = open_result(result)
    return opened, all_or_none.find(opened, tally(opened, 0, progress=False))


def test_genes_are_found_by_the_shares_of_cells_that_show_them(sexed):
    opened, found = found_in(sexed)
    ours = {(opened.genes[one.gene], one.batch): (one.own, one.target) for one in found}
    raw, batch = sexed.layers["raw_counts"].toarray() > 0, sexed.obs["batch"]
    target = raw[(batch == "V3").to_numpy()].mean(axis=0)
    expected = {}
    for name in ("V1", "V2"):
        own = raw[(batch == name).to_numpy()].mean(axis=0)
        for gene in np.flatnonzero(
            (np.maximum(own, target) >= 0.1) & (np.minimum(own, target) <= 0.005)
        ):
            expected[sexed.var_names[gene], name] = (own[gene], target[gene])
    assert ours.keys() == expected.keys()
    for key, shares in expected.items():
        assert ours[key] == pytest.approx(shares)
    assert {("XIST", "V1"), ("XIST", "V2"), (sexed.var_names[2], "V1")} <= set(ours)
    assert not {"RARE", sexed.var_names[3]} & {gene for gene, _ in ours}


def test_the_page_names_them_and_the_argument(sexed, tmp_path):
    sb.report(sexed, tmp_path / "report.html", progress=False)
    text = Page(tmp_path / "report.html").text
    assert "is all or none" in text
    assert "leave the counts of such genes unchanged, pass genes_kept= (--genes-kept)" in text
    assert "sex-linked: such genes differ between donors" in text
    assert "Genes whose batch effect is all or none" in text


def test_genes_that_were_kept_are_not_listed(sexed):
    made = sexed.copy()
    made.uns["scvibridge"]["genes_kept"] = np.array(["XIST"], dtype=object)
    opened, found = found_in(made)
    assert "XIST" not in {opened.genes[one.gene] for one in found}


def test_the_reason_depends_on_what_is_known(sexed):
    opened, found = found_in(sexed)
    others = [one for one in found if opened.genes[one.gene] != "XIST"]
    (text,) = all_or_none.finding(opened, others)
    assert "Such genes often mark a difference between donors" in text.text
    opened.provenance["batch_is_replicate"] = "each batch holds one sample alone"
    (text,) = all_or_none.finding(opened, others)
    assert "If batches are donors" in text.text
    assert not list(all_or_none.finding(opened, []))
    opened.provenance.pop("batch_is_replicate")


def test_lines_name_the_cells_and_genes(trained_model):
    made = quietly(
        trained_model,
        transform_batch="V3",
        labels_key="cell_type",
        estimate_on={"condition": "ctrl"},
        genes_kept=["gene_0001"],
    )
    lines = {code.language: code.text for code in made_by.reproduction(open_result(made))}
    assert 'estimate_on={"condition": "ctrl"}' in lines["Python"]
    assert 'genes_kept=["gene_0001"]' in lines["Python"]
    assert 'estimate_on = list(condition = "ctrl")' in lines["R"]
    assert "--estimate-on condition=ctrl" in lines["Shell"]
    assert "--genes-kept gene_0001" in lines["Shell"]
    given = dict(trained_model.adata.obs["condition"] == "ctrl")
    made = quietly(trained_model, transform_batch="V3", estimate_on=pd.Series(given))
    assert made_by.given_apart(open_result(made)) == ["cells (estimate_on=)"]
