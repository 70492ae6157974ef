"""A result and its report.

Fixtures (all of the session; don't change them)
------------------------------------------------
result          corrected counts of `trained_model`, with normalized expression
result_file     `result` as an h5ad file
written         the page of its report, parsed
dense           raw and corrected counts as arrays, and which cells come from other batches
layouts         known layouts of cells in the plane (for `known_layouts`)

And of a test:
known_layouts   lay out the same cells once, for all tests that ask for this
"""

from __future__ import annotations

import pytest
from report_page import Page, quietly

import scvibridge as sb
from scvibridge.diagnostics.report import evidence


@pytest.fixture(scope="session")
def layouts():
    return {}


@pytest.fixture
def known_layouts(layouts, monkeypatch):
    """Take the layout of cells that were laid out before, which is the same and takes seconds."""
    lay_out = evidence._in_the_plane

    def known(components, start, seed):
        key = components.shape, components.tobytes(), start.tobytes(), seed
        if key not in layouts:
            layouts[key] = lay_out(components, start, seed)
        return layouts[key].copy()

    monkeypatch.setattr(evidence, "_in_the_plane", known)


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
