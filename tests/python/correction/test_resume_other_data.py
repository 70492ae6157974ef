"""A finished result is not taken for that of other data: those of the depth, or other tables."""

from __future__ import annotations

import numpy as np
import pytest

import scvibridge as sb

QUIET = {"transform_batch": "V3", "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_depth_is_that_of_the_data_at_hand(trained_model, model_folder, simulated, tmp_path):
    some = simulated[:40].copy()
    how = {**QUIET, "adata": some, "library_size": "median"}
    out = {"out": tmp_path / "x.h5ad", "resume": True}
    first = sb.normalized_expression(trained_model, **how, **out).to_memory()
    same = sb.normalized_expression(trained_model, **how, **out).to_memory()
    np.testing.assert_array_equal(same.X, first.X)
    deeper = simulated.copy()
    deeper.X = deeper.X * 3
    model = sb.load(model_folder, deeper)
    with pytest.raises(FileExistsError, match="overwrite"):
        sb.normalized_expression(model, **how, **out)
    found = sb.normalized_expression(model, **how, **out, overwrite=True).to_memory()
    np.testing.assert_allclose(found.X, 3 * first.X, rtol=1e-4)


def test_tables_are_those_of_the_data_at_hand(trained_model, simulated, tmp_path):
    data = simulated.copy()
    how = {**QUIET, "out": tmp_path / "x.h5ad", "resume": True, "shrinkage": 0}
    sb.corrected_counts(trained_model, data, **how)
    kept = sb.corrected_counts(trained_model, data, **how)
    assert kept.obs["cell_type"].astype(str).tolist() == data.obs["cell_type"].tolist()
    data.obs["cell_type"] = "renamed"
    with pytest.raises(FileExistsError, match="overwrite"):
        sb.corrected_counts(trained_model, data, **how)
    found = sb.corrected_counts(trained_model, data, **how, overwrite=True)
    assert set(found.obs["cell_type"]) == {"renamed"}
