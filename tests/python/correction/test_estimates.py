"""The effects that corrected counts rest on: of which cells, and where they fall back."""

from __future__ import annotations

import copy

import numpy as np
import oracle
import pytest
from count_requests import QUIET, make_request
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from conftest import differing
from scvibridge.correction.estimates import estimate
from scvibridge.correction.reference import choose_reference
from scvibridge.correction.support import neighbours
from scvibridge.likelihood.cpu.philox import hash_names
from scvibridge.models.adapters import adapter_for

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:.*have no sample of at least"),
    pytest.mark.filterwarnings("ignore:there was nothing to correct"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


def test_conditions_weigh_equally(models):
    """With one more condition cell-rich than the other, D is the mean of the two means."""
    model = models["nb"]
    obs = model.adata.obs
    ours = sb.corrected_counts(
        model,
        transform_batch="V3",
        effect="global",
        condition_key="cell_type",
        library_size="observed",
        **QUIET,
    )
    own, target = (oracle.generative(model, b)["scale"] for b in (None, 2))
    ratio = np.log(target) - np.log(own)
    by_condition = [
        ratio[(obs["batch"] == "V1") & (obs["cell_type"] == c)].mean(axis=0)
        for c in obs["cell_type"].cat.categories
    ]
    cells = engine_groups(model, condition_key="cell_type")
    low = oracle.low_detection(model.adata.X.toarray(), obs["batch"].cat.codes.to_numpy(), [2])
    keep = low[(obs["batch"] == "V1").to_numpy().argmax()]
    assert_allclose(
        cells.shift.log_ratio[0], np.where(keep, 0, np.mean(by_condition, axis=0)), atol=1e-5
    )
    assert ours.uns["scvibridge"]["condition_key"] == "cell_type"


def engine_groups(model, **arguments):
    """The group effects that corrected_counts estimates."""
    adapter = adapter_for(model)
    request = make_request(model, effect="global", **arguments)
    reference = choose_reference(request)
    with adapter.on_device("cpu"):
        found = estimate(request, reference, lambda _, compute: compute())
    return found.mapped.effect.change.effects


def test_genes_hardly_seen_keep_their_frequency(models):
    model = models["nb"]
    result = sb.corrected_counts(
        model, transform_batch="V3", effect="cell", library_size="observed", **QUIET
    )
    low = result.var["scvibridge_low_detection"]
    seen = np.stack(
        [
            (model.adata.X.toarray()[model.adata.obs["batch"] == b] > 0).sum(axis=0)
            for b in ("V1", "V2", "V3")
        ],
        axis=1,
    )
    assert_array_equal(result.varm["scvibridge_detection"], seen)
    assert_array_equal(low, (seen < 5).any(axis=1))
    assert low.iloc[[5, 6]].all()
    unseen = np.flatnonzero(result.obs["batch"] == "V1")
    assert result.X[unseen, 5].sum() == 0  # nothing is invented


def test_small_groups_take_their_batchs_effect_and_are_flagged(models):
    result = sb.corrected_counts(
        models["nb"], transform_batch="V1", labels_key="cell_type", **QUIET
    )
    obs = result.obs
    small = (obs["batch"] == "V3") & (obs["cell_type"] == "NK")
    assert 0 < small.sum() < 20
    assert_array_equal(obs["scvibridge_effect_fallback"], small)
    assert set(obs["scvibridge_effect_group"][small]) == {"V3"}
    assert "V3 / B" in set(obs["scvibridge_effect_group"])


def test_missing_and_unknown_labels_fall_back(models):
    model = models["nb"]
    other = model.adata.copy()
    other.obs["cell_type"] = other.obs["cell_type"].cat.rename_categories({"B": "plasma"})
    other.obs.loc[other.obs_names[:4], "cell_type"] = np.nan
    with pytest.warns(UserWarning, match=r"the cells have 'plasma'"):
        result = sb.corrected_counts(
            model, other, transform_batch="V1", labels_key="cell_type", **QUIET
        )
    unknown = (other.obs["cell_type"] == "plasma") | other.obs["cell_type"].isna()
    elsewhere = result.obs["batch"] != "V1"
    assert_array_equal(result.obs["scvibridge_effect_fallback"][unknown], elsewhere[unknown])
    assert result.obs["cell_type"].isna().sum() == 4


def test_other_data_use_the_effects_of_the_models_own(models):
    model = models["nb"]
    rows = np.arange(0, model.adata.n_obs, 3)
    whole = sb.corrected_counts(model, transform_batch="V3", labels_key="cell_type", **QUIET)
    part = model.adata[rows].copy()
    result = sb.corrected_counts(model, part, transform_batch="V3", labels_key="cell_type", **QUIET)
    assert differing(whole.X[rows], result.X) <= 1e-5


@pytest.mark.parametrize("effect", ["global", "label"])
def test_some_cells_use_the_effects_of_all_cells_passed(models, effect):
    """The model's data lack a batch of the data passed, which the requested cells are not of."""
    whole = models["nb"].adata.copy()
    model = copy.copy(models["nb"])
    kept = (whole.obs["batch"] != "V1").to_numpy() & (np.arange(whole.n_obs) % 3 > 0)
    model.adata = whole[kept].copy()
    rows = np.flatnonzero(whole.obs["batch"] == "V2")
    given = {"transform_batch": "V3", "effect": effect, "labels_key": "cell_type", "shrinkage": 0}
    expected = sb.corrected_counts(models["nb"], whole, **given, **QUIET)
    for indices in (None, rows):
        found = sb.corrected_counts(model, whole, indices=indices, **given, **QUIET)
        assert differing(found.X, expected[found.obs_names].X) < 1e-3


def test_columns_that_only_the_given_data_have_are_used(models):
    model = models["nb"]
    other = model.adata.copy()
    other.obs["my_types"] = other.obs["cell_type"]
    expected = sb.corrected_counts(model, transform_batch="V3", labels_key="cell_type", **QUIET)
    result = sb.corrected_counts(model, other, transform_batch="V3", labels_key="my_types", **QUIET)
    assert (result.X != expected.X).nnz == 0
    assert result.uns["scvibridge"]["estimated_on"] == "the given data"
    assert any("have no column 'my_types'" in note for note in result.uns["scvibridge"]["notes"])


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        ({"method": "sample"}, False),
        ({"effect": "cell"}, False),
        ({"effect": "global"}, True),
    ],
)
def test_no_more_cells_are_encoded_than_estimates_need(models, monkeypatch, arguments, others):
    model = models["nb"]
    encoded = []
    original = type(adapter_for(model)).encode

    def counting(self, counts, covariates):
        encoded.append(counts.shape[0])
        return original(self, counts, covariates)

    whole = sb.corrected_counts(model, transform_batch="V3", **arguments, **QUIET)
    monkeypatch.setattr(neighbours, "MOST_REFERENCE_CELLS", 60)
    monkeypatch.setattr(type(adapter_for(model)), "encode", counting)
    some = sb.corrected_counts(model, transform_batch="V3", indices=[7, 3], **arguments, **QUIET)
    batch = model.adata.obs["batch"]
    compared, _ = neighbours.sample_cells(
        (batch == "V3").to_numpy(dtype=int), hash_names(model.adata.obs_names)
    )
    assert 50 < len(compared) < 70
    needed = set()
    if others:  # effects are estimated from the other batches, and judged by all held-out cells
        needed = set(np.flatnonzero(batch != "V3")) | set(model.validation_indices)
    assert sum(encoded) == len(needed | {3, 7} | set(compared))  # each of them once
    assert differing(whole.X[[7, 3]], some.X) <= 1e-5
