"""Batches that are dates, times, periods or intervals: trained, saved, loaded and named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scvibridge as sb

TRAIN = {"n_top_genes": 30, "max_epochs": 2, "progress": False}
QUIET = {"library_size": "observed", "shrinkage": 0, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore")

DAYS = pd.to_datetime(["2024-01-01 10:00", "2024-02-01 00:00"])
KINDS = {
    "times": pd.Series(DAYS),
    "times in a zone": pd.Series(DAYS.tz_localize("UTC")),
    "dates": pd.Series(DAYS.normalize()),
    "objects": pd.Series(DAYS.date, dtype=object),
    "periods": pd.Series(DAYS.to_period("M")),
    "durations": pd.Series(pd.to_timedelta([1, 2], unit="D")),
    "intervals": pd.Series(pd.arrays.IntervalArray.from_breaks([0.0, 1.5, 3.0])),
    "categories": pd.Series(pd.Categorical(DAYS)),
}


@pytest.fixture(scope="module")
def cells(simulate):
    return simulate(n_cells=150, n_genes=30)


@pytest.fixture(scope="module")
def expected(cells):
    """Counts by a model whose batches are text."""
    data = cells.copy()
    data.obs["run"] = np.where(data.obs["batch"] == "V1", "a", "b")
    model = sb.train_scvi(data, "run", **TRAIN)
    return sb.corrected_counts(model, transform_batch="b", **QUIET).X


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_loaded_and_knows_its_batches(cells, expected, tmp_path, kind):
    values = KINDS[kind]
    data = cells.copy()
    column = values.iloc[np.where(data.obs["batch"] == "V1", 0, 1)]
    data.obs["run"] = column.set_axis(data.obs_names)
    model = sb.train_scvi(data, "run", save=tmp_path / "model", **TRAIN)
    result = sb.corrected_counts(model, transform_batch=values.iloc[1], **QUIET)
    assert (expected != result.X).nnz == 0
    assert result.obs["run"].equals(data.obs["run"])
    loaded = sb.load(tmp_path / "model")
    name = result.uns["scvibridge"]["transform_batch"][0]
    for target in (values.iloc[1], name):
        for given in (None, data):
            found = sb.corrected_counts(loaded, given, transform_batch=target, **QUIET)
            assert (expected != found.X).nnz == 0
