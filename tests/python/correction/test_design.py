"""Conditions and batches: how unbalanced they are, what cannot be checked, and replicates."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy.stats.contingency import association

import scvibridge as sb
from scvibridge.correction import confounding
from scvibridge.diagnostics import report
from scvibridge.diagnostics.report.reading import open_result

QUIET = {"progress": False, "device": "cpu", "library_size": "observed"}
NAMES = {"batch": ["V1", "V2", "V3"], "condition": ["ctrl", "stim", "third"], "label": ["B", "T"]}
pytestmark = pytest.mark.filterwarnings("ignore:support")


def cells(table):
    """Codes of batch and condition, from numbers of cells by both."""
    table = np.asarray(table)
    batch, condition = (part.ravel() for part in np.indices(table.shape))
    return np.repeat(batch, table.ravel()), np.repeat(condition, table.ravel())


def check(table, labels=None):
    return confounding.check_confounding(*cells(table), labels, NAMES, 20)


# -- figures -------------------------------------------------------------------------------------

TABLES = [[[300, 60], [60, 300]], [[50, 20, 40], [30, 60, 10]], [[90, 3], [50, 20], [10, 70]]]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_cramers_v_is_scipys_without_its_bias(table):
    found = confounding.cramers_v(*cells(table))
    n, (r, k) = np.sum(table), np.shape(table)
    chi2 = scipy.stats.chi2_contingency(table, correction=False).statistic
    r_, k_ = r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)
    unbiased = np.sqrt(max(0, chi2 / n - (r - 1) * (k - 1) / (n - 1)) / (min(r_, k_) - 1))
    assert found == pytest.approx(unbiased)
    assert found == pytest.approx(association(np.array(table), method="cramer"), abs=0.02)


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_variance_inflation_is_that_of_a_regression(table):
    batch, condition = cells(table)
    design = pd.get_dummies(batch).to_numpy(dtype=float)
    found = []
    for c in np.unique(condition):
        y = (condition == c).astype(float)
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        found.append(y.var() / (residual**2).mean())
    assert confounding.variance_inflation(batch, condition) == pytest.approx(max(found))


# -- status --------------------------------------------------------------------------------------

DESIGNS = {
    "even": ([[100, 100], [100, 100]], "balanced"),
    "a little uneven": ([[120, 80], [90, 110]], "balanced"),
    "donors 4:2 and 2:4": ([[400, 200], [200, 400]], "unbalanced"),
    "donors 5:1 and 1:5": ([[500, 100], [100, 500]], "unbalanced"),
    "nested": ([[200, 0], [0, 200]], "confounded"),
    "nested but for a cell": ([[60, 1], [1, 60]], "confounded"),
    "nested but for two of many": ([[2000, 2], [0, 2000]], "confounded"),
    "one batch mixed": ([[100, 100], [0, 200]], "partly confounded"),
    "constant": ([[100], [200]], "not checked: all cells have one condition, 'ctrl'"),
    "one batch": ([[100, 50]], "not checked: the condition is known only in batch 'V1'"),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_designs_are_graded(name):
    table, status = DESIGNS[name]
    found = check(table)
    assert found.status == status
    assert bool(found.refusals) == (status == "confounded")
    assert bool(found.warnings) == (status not in ("balanced", "confounded"))


def test_how_unbalanced_is_said_and_more_without_labels():
    table = [[500, 100], [100, 500]]
    (without,) = check(table).warnings
    labels = np.arange(1200) % 2
    (with_labels,) = check(table, labels).warnings
    for text in (without, with_labels):
        assert "Cramér's V 0.67, above 0.3" in text
        assert "variance inflation of the condition 1.8" in text
        assert "~ batch + condition" in text
    assert "do not test the condition without the batch" in without
    assert "Without labels_key" not in with_labels


def test_labels_that_are_unbalanced_within_are_named():
    batch, condition = cells([[200, 200], [200, 200]])
    labels = np.zeros(800, dtype=int)
    # Of label T, batch and condition go together; of B, the other way round.
    labels[np.flatnonzero(batch == condition)[::2]] = 1
    labels[np.flatnonzero(batch != condition)[::20]] = 1
    found = confounding.check_confounding(batch, condition, labels, NAMES, 20)
    assert found.status == "unbalanced"
    assert "within labels (Cramér's V above 0.3: 'T' 0.8" in found.warnings[0]


def test_random_conditions_of_few_cells_are_balanced():
    rng = np.random.default_rng(0)
    statuses = []
    for _ in range(50):
        batch, condition = rng.integers(3, size=150), rng.integers(2, size=150)
        found = confounding.check_confounding(
            batch, condition, rng.integers(2, size=150), NAMES, 20
        )
        statuses.append(found.status)
    assert statuses.count("balanced") >= 45


def test_missing_conditions_are_said():
    batch, condition = cells([[100, 100], [100, 100], [50, 50]])
    condition[batch == 2] = -1
    found = confounding.check_confounding(batch, condition, None, NAMES, 20)
    assert found.status == "partly checked"
    assert found.warnings == [
        (
            "100 of 500 cells have no condition and were left out of the check, including all "
            "cells of 'V3'"
        )
    ]
    condition[:] = -1
    assert confounding.check_confounding(batch, condition, None, NAMES, 20).status == (
        "not checked: no cell has a condition"
    )


# -- results -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(simulate, train):
    return train(simulate(n_cells=330, n_genes=30), max_epochs=2)


@pytest.fixture
def obs(model):
    kept = model.adata.obs.copy()
    yield model.adata.obs
    model.adata.obs = kept


def arm(obs, share):
    """Conditions of which the first batch has so many, and the others as few."""
    rng = np.random.default_rng(1)
    first = obs["batch"] == "V1"
    return np.where(rng.random(len(obs)) < np.where(first, share, 1 - share), "ctrl", "stim")


def verdict_of(result):
    return report.judge(report._evidence(open_result(result), None, None, 0, False))


def test_imbalance_is_in_warning_provenance_and_report(model, obs):
    obs["arm"] = arm(obs, 5 / 6)
    with pytest.warns(UserWarning, match=r"confounding: conditions are unbalanced.*Without labels"):
        result = sb.corrected_counts(model, transform_batch="V3", condition_key="arm", **QUIET)
    made = result.uns["scvibridge"]
    assert made["confounding"] == "unbalanced"
    expected = association(pd.crosstab(obs["batch"], obs["arm"]).to_numpy(), method="cramer")
    assert made["confounding_cramers_v"] == pytest.approx(expected, abs=0.02)
    assert made["confounding_variance_inflation"] > 1.3
    texts = [finding.text for finding in verdict_of(result).findings]
    assert any(f"Cramér's V {made['confounding_cramers_v']:.2f}" in text for text in texts)


def test_conditions_that_cannot_be_compared_are_not_balanced(model, obs):
    obs["same"] = "ctrl"
    with pytest.warns(UserWarning, match="confounding was not checked: all cells have one"):
        result = sb.corrected_counts(model, transform_batch="V3", condition_key="same", **QUIET)
    assert result.uns["scvibridge"]["confounding"].startswith("not checked: all cells")
    assert verdict_of(result).level != "good"
    obs["partly"] = np.where(obs["batch"] == "V1", obs["condition"].astype(object), None)
    with pytest.warns(UserWarning, match="condition is known only in batch 'V1'"):
        sb.corrected_counts(model, transform_batch="V3", condition_key="partly", **QUIET)


def test_a_condition_that_a_few_cells_tell_from_the_batch_is_refused(model, obs):
    nested = np.where(obs["batch"] == "V1", "ctrl", "stim")
    for batch in ("V1", "V2", "V3"):
        first = np.flatnonzero(obs["batch"] == batch)[0]
        nested[first] = "stim" if batch == "V1" else "ctrl"
    obs["arm"] = nested
    with pytest.raises(
        ValueError, match=r"depends on a few cells\), overall: ctrl in 'V1' \(and 2"
    ):
        sb.corrected_counts(model, transform_batch="V3", condition_key="arm", **QUIET)


# -- replicates ----------------------------------------------------------------------------------


def test_a_batch_that_is_the_sample_is_warned_of(model, obs):
    obs["donor"] = obs["batch"].astype(str).radd("donor of ").to_numpy()
    given = {"transform_batch": "V3", "condition_key": "condition", **QUIET}
    with pytest.warns(UserWarning, match="each batch has a single sample.*raw counts"):
        result = sb.corrected_counts(model, sample_key="donor", **given)
    assert "a single sample" in result.uns["scvibridge"]["batch_is_replicate"]
    assert any("a single sample" in finding.text for finding in verdict_of(result).findings)


@pytest.mark.parametrize(
    ("n_donors", "crossed", "is_warned"), [(2, False, True), (4, False, False), (2, True, False)]
)
def test_batches_of_few_samples_are_warned_of(model, obs, n_donors, crossed, is_warned):
    donor = (np.arange(len(obs)) % n_donors).astype(str)
    obs["donor"] = donor if crossed else np.char.add(obs["batch"].astype(str).to_numpy("U"), donor)
    given = {"transform_batch": "V3", "condition_key": "condition", **QUIET}
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        result = sb.corrected_counts(model, sample_key="donor", **given)
    message = r"batches have few samples \(sample_key='donor', median 2\).*~ batch \+ condition"
    texts = [
        "\n".join(str(w.message) for w in issued),
        "\n".join(result.uns["scvibridge"]["notes"]),
    ]
    for text in texts:
        assert (re.search(message, text) is not None) == is_warned


def test_a_batch_that_looks_like_the_replicate_is_warned_of(model, obs):
    obs["patient_id"] = obs["batch"].map({"V1": "P1", "V2": "P2", "V3": "P3"}).to_numpy()
    message = r"confounding was not checked.*Each batch has a single 'patient_id'.*raw counts"
    with pytest.warns(UserWarning, match=message):
        result = sb.corrected_counts(model, transform_batch="V3", **QUIET)
    assert "patient_id" in result.uns["scvibridge"]["batch_is_replicate"]


def test_a_batch_that_is_called_a_donor_is_warned_of(simulate, train):
    data = simulate(n_cells=120, n_genes=20)
    data.obs["donor"] = data.obs["batch"]
    model = train(data, batch_key="donor", max_epochs=1)
    with pytest.warns(UserWarning, match="The batch column 'donor' looks like the replicate"):
        sb.corrected_counts(model, transform_batch="V3", **QUIET)


@pytest.mark.parametrize("column", ["n_samples", "sampled", "donors_of_batch", "animal"])
def test_other_batches_are_not_called_replicates(model, obs, column):
    obs[column] = np.where(np.arange(len(obs)) % 2, "D1", "D2")
    with pytest.warns(UserWarning, match="confounding was not checked.*If your batch is"):
        result = sb.corrected_counts(model, transform_batch="V3", **QUIET)
    assert "batch_is_replicate" not in result.uns["scvibridge"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("sample_barcode", [f"cell of {n}" for n in range(10_000)]),
        ("mouse_counts", range(10_000)),
        ("patient_notes", [["a", "list"]] * 10_000),
    ],
)
def test_columns_that_hold_no_replicates_are_passed_over(model, obs, column, values):
    """Nobody asked for them: what they hold is no reason to refuse a correction."""
    plain = sb.corrected_counts(model, transform_batch="V3", **QUIET)
    obs[column] = list(values)[: len(obs)]
    obs["patient_id"] = obs["batch"].map({"V1": "P1", "V2": "P2", "V3": "P3"}).to_numpy()
    with pytest.warns(UserWarning, match="Each batch has a single 'patient_id'"):
        result = sb.corrected_counts(model, transform_batch="V3", **QUIET)
    assert (result.X != plain.X).nnz == 0


# -- depth ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:confounding was not checked")
def test_low_depth_is_warned_of_and_observed_depth_advised(model, obs):
    obs["donor"] = np.where(np.arange(len(obs)) % 2, "D1", "D2")
    given = {"transform_batch": "V3", "library_size": 200, "progress": False}
    with pytest.warns(
        UserWarning, match="330 of 330 cells are scaled to less than 0.5 times"
    ) as told:
        result = sb.corrected_counts(model, sample_key="donor", **given)
    assert any("library_size='observed' keeps each cell's own" in str(w.message) for w in told)
    assert (result.obs["scvibridge_depth_ratio"] < 0.5).all()
    texts = [finding.text for finding in verdict_of(result).findings]
    assert any("of the cells were scaled to less than half" in text for text in texts)
    with pytest.warns(UserWarning, match="less than 0.5 times") as told:
        sb.corrected_counts(model, **given)
    assert not any("library_size='observed'" in str(w.message) for w in told)
    given["library_size"] = 20000
    with pytest.warns(UserWarning, match=r"more than 2 times.*library_size='observed'"):
        sb.corrected_counts(model, sample_key="donor", **given)
