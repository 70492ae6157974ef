"""Columns that scvibridge or scvi-tools write: of an earlier result, or the user's own."""

from __future__ import annotations

import pytest

import scvibridge as sb

QUIET = {"transform_batch": "V3", "library_size": "observed", "shrinkage": 0, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore")


def own(table):
    return sorted(name for name in table.columns if name.startswith("scvibridge_"))


def test_a_new_result_has_no_columns_of_an_earlier_one(trained_model):
    first = sb.corrected_counts(trained_model, **QUIET)
    assert "scvibridge_effect_group" in first.obs
    again = {
        "sample": sb.corrected_counts(
            trained_model, first, transform_batch="V3", method="sample", progress=False
        ),
        "expression": sb.normalized_expression(trained_model, first, progress=False),
    }
    assert "scvibridge_effect_group" not in again["sample"].obs
    assert own(again["expression"].obs) == own(again["expression"].var) == []
    assert "cell_type" in again["expression"].obs


@pytest.mark.parametrize("argument", ["labels_key", "condition_key", "sample_key"])
def test_a_column_that_results_overwrite_is_refused(trained_model, simulated, argument):
    data = simulated.copy()
    data.obs["scvibridge_effect_group"] = data.obs["cell_type"]
    with pytest.raises(ValueError, match=f"{argument}='scvibridge_effect_group' is a column"):
        sb.corrected_counts(trained_model, data, **QUIET, **{argument: "scvibridge_effect_group"})


@pytest.mark.parametrize(
    "keys",
    [
        {"batch_key": "_scvi_batch"},
        {"batch_key": "batch", "categorical_covariate_keys": ["_scvi_batch"]},
        {"batch_key": "scvibridge_supported"},
    ],
)
def test_training_on_such_a_column_is_refused(simulated, keys):
    data = simulated.copy()
    data.obs["_scvi_batch"] = data.obs["scvibridge_supported"] = 1
    with pytest.raises(ValueError, match="would overwrite"):
        sb.train_scvi(data, **keys, max_epochs=2, progress=False)
