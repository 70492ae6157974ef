"""Parts that belong to another model or target, and results without their target."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest

import scvibridge as sb

QUIET = {"progress": False}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def result(trained_model):
    return sb.corrected_counts(
        trained_model, transform_batch="V3", library_size="observed", shrinkage=0, **QUIET
    )


def text_of(path):
    return " ".join(re.sub("<[^>]+>", " ", path.read_text(encoding="utf-8")).split())


def test_a_calibration_of_another_model_is_refused(trained_model, simulate, train):
    other = train(simulate(n_cells=300, n_genes=trained_model.adata.n_vars), max_epochs=2)
    fit = sb.calibration(trained_model, n_references=5, **QUIET)
    genes = trained_model.adata.var_names
    fit = replace(fit, theta=pd.Series(2.0, index=genes))
    found = sb.corrected_counts(trained_model, transform_batch="V3", dispersion=fit, **QUIET)
    assert found.uns["scvibridge"]["theta_from"] == "calibration"
    with pytest.raises(ValueError, match="calibration of another model"):
        sb.corrected_counts(other, transform_batch="V3", dispersion=fit, **QUIET)


def test_a_report_refuses_the_support_of_another_target(trained_model, result, tmp_path):
    pytest.importorskip("matplotlib")
    support = sb.batch_support(trained_model, transform_batch="V1", **QUIET)
    with pytest.raises(ValueError, match="support= is for the target 'V1', but the counts are for"):
        sb.report(result, tmp_path / "x.html", support=support, **QUIET)
    assert not list(tmp_path.iterdir())


def test_a_report_without_the_target_does_not_call_counts_fit(result, tmp_path):
    pytest.importorskip("matplotlib")
    some = result[result.obs["batch"] != "V3"].copy()
    some.uns["scvibridge"]["confounding"] = "balanced"
    text = text_of(sb.report(some, tmp_path / "x.html", **QUIET))
    assert "The result has no cells of the target" in text
    assert "Suitable for tools that need counts" not in text
    assert "There is a single batch" not in text
