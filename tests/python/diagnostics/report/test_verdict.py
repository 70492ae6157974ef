"""The verdict of a report: confounding, and a correction that did nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from scvibridge.diagnostics import report
from scvibridge.diagnostics.report import evidence, sections
from scvibridge.diagnostics.report.reading import open_result

pytest.importorskip("jinja2", reason="needs jinja2")
pytest.importorskip("matplotlib", reason="needs matplotlib")

pytestmark = pytest.mark.usefixtures("known_layouts")


@pytest.mark.parametrize(
    ("confounding", "level", "words"),
    [
        ("confounded, allowed by the user", "stop", "Do not compare conditions"),
        ("partly confounded", "caution", "Usable with care"),
        ("not checked", "caution", "unless condition_key was passed"),
        ("balanced", None, "exploring conditions, to be confirmed"),
    ],
)
def test_confounding_decides_the_verdict(result, confounding, level, words):
    made = result.copy()
    made.uns["scvibridge"]["confounding"] = confounding
    if confounding == "not checked":
        del made.uns["scvibridge"]["condition_key"]
    opened = open_result(made)
    found = report._evidence(opened, None, None, 0, False)
    # The model of the tests is trained for a few epochs: as if it had mixed the batches.
    well_corrected = evidence.Spread(1.0, 0.2, 0.1, 100, together=0.1)
    found = replace(found, spread=well_corrected, support=None)
    verdict = report.judge(found)
    told = [
        verdict.headline,
        *(i for block in sections.what_for(opened).blocks for i in block.items),
    ]
    assert any(words in text for text in told)
    if level is not None:
        assert verdict.level == level


def test_confounding_is_checked_where_it_was_not(result):
    made = result.copy()
    made.uns["scvibridge"]["confounding"] = "not checked"
    del made.uns["scvibridge"]["condition_key"]
    made.obs["dose"] = np.where(made.obs["batch"] == "V1", "low", "high")
    assert open_result(made).confounding == "not checked"
    assert open_result(made, condition_key="condition").confounding == "balanced"
    assert open_result(made, condition_key="dose").confounding == "confounded"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "There is a single batch: only the depth could be corrected"),
        ({"transform_batch": ["V2", "V3"]}, "the design is balanced"),
        (
            {"transform_covariates": {"age": [1.0]}, "batches": ["all cells"]},
            "Only covariates other than the batch were changed",
        ),
    ],
)
def test_a_single_batch_may_have_been_corrected(result, changed, words):
    made = result[result.obs["batch"] == "V3"].copy()
    made.uns["scvibridge"] = {**made.uns["scvibridge"], **changed}
    verdict = report.judge(report._evidence(open_result(made), None, None, 0, False))
    texts = [finding.text for finding in verdict.findings]
    assert any(words in text for text in texts)
    assert any("only the depth could" in text for text in texts) == (not changed)


def test_masked_cells_are_not_called_unchanged(result):
    made = result.copy()
    home = (made.obs["batch"] == "V3").to_numpy()
    made.obs["scvibridge_supported"] = home
    made.X = sp.csr_matrix(made.layers["raw_counts"].toarray() * home[:, None])
    found = {"unsupported": "mask", "corrected_cells": 0}
    made.uns["scvibridge"] = {**made.uns["scvibridge"], **found}
    verdict = report.judge(report._evidence(open_result(made), None, None, 0, False))
    texts = " ".join(finding.text for finding in verdict.findings)
    assert verdict.level == "stop"
    assert "identical to the raw counts" not in texts
    assert "No batch effect was removed from any cell; the cells of other batches have" in texts


def test_correction_that_did_nothing_is_told(result):
    made = result.copy()
    made.X = made.layers["raw_counts"].copy()
    verdict = report.judge(report._evidence(open_result(made), None, None, 0, False))
    assert verdict.level == "stop"
    assert verdict.headline == "Nothing was corrected: these are the raw counts"
