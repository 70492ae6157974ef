"""A result and its report.

Fixtures (all of the session; don't change them)
------------------------------------------------
result          corrected counts of `trained_model`, with normalized expression
result_file     `result` as an h5ad file
written         the page of its report, parsed
dense           raw and corrected counts as arrays, and which cells come from other batches
"""

from __future__ import annotations

import pytest
from report_page import Page, quietly

import scvibridge as sb


@pytest.fixture(scope="session")
def result(trained_model):
    return quietly(
        trained_model,
        transform_batch="V3",
        labels_key="cell_type",
        condition_key="condition",
        normalized=True,
        seed=3,
    )


@pytest.fixture(scope="session")
def result_file(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("result") / "corrected.h5ad"
    result.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def written(result_file, tmp_path_factory):
    """The report of the file, and the page parsed."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert sb.report(result_file, out, progress=False) == out
    return Page(out)


@pytest.fixture(scope="session")
def dense(result):
    """Raw and corrected counts as arrays, and which cells come from other batches."""
    others = (result.obs["batch"] != "V3").to_numpy()
    return result.layers["raw_counts"].toarray(), result.X.toarray(), others
