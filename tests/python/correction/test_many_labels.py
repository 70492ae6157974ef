"""Effects of many labels: in bounded memory, and the same numbers however they are cut."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose

import scvibridge as sb
from scvibridge.correction import batch_effects, changes, shrinkage
from scvibridge.models.adapters import Target

GIVEN = {"transform_batch": "V3", "labels_key": "cell_type", "device": "cpu", "progress": False}
pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
    pytest.mark.filterwarnings("ignore:.*have no sample of at least"),
]


@pytest.fixture(scope="module")
def model(simulate, train):
    data = simulate(n_cells=330, n_genes=40)
    data.obs["donor"] = np.where(np.arange(data.n_obs) % 2, "D1", "D2")
    return train(data, max_epochs=4, gene_likelihood="zinb")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"condition_key": "condition"},
        {"sample_key": "donor"},
        {"effect": "cell", "sample_key": "donor"},
        {"transform_batch": ["V1", "V3"]},
        {"effect": "global", "shrinkage": 0},
        {"gene_list": ["gene_0007", "gene_0003"]},
    ],
    ids=str,
)
def test_counts_do_not_depend_on_how_genes_are_cut(model, monkeypatch, given):
    given = {**GIVEN, **given}
    whole = sb.corrected_counts(model, **given)
    monkeypatch.setattr(batch_effects, "ENTRIES_AT_A_TIME", 100)
    monkeypatch.setattr(changes, "MOST_ENTRIES", 0)
    cut = sb.corrected_counts(model, **given)
    assert (whole.X != cut.X).nnz == 0
    for name in ("shrinkage_batch", "shrinkage_label"):
        assert whole.uns["scvibridge"].get(name) == cut.uns["scvibridge"].get(name)


def test_genes_are_cut_so_that_tables_are_bounded():
    cut = batch_effects.genes_at_a_time(15_000, 5_000)
    assert np.concatenate([np.arange(part.start, part.stop) for part in cut]).tolist() == list(
        range(5_000)
    )
    largest = max(part.stop - part.start for part in cut)
    assert largest * 15_000 <= batch_effects.ENTRIES_AT_A_TIME
    assert batch_effects.genes_at_a_time(10**9, 3) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert batch_effects.genes_at_a_time(10, 2_000) == [slice(0, 2_000)]


def grouping_of(n_labels, seed=0):
    """Groups of three batches, labels and two conditions, one of them missing here and there."""
    rng = np.random.default_rng(seed)
    keys = np.array([(b, c, k) for b in range(3) for c in range(n_labels) for k in (-1, 0, 1)]).T[
        :, rng.random(9 * n_labels) < 0.8
    ]
    sizes = rng.integers(1, 40, keys.shape[1])
    return batch_effects.Grouping(keys, np.arange(keys.shape[1]), sizes, by_label=True)


def test_means_of_groups_are_those_of_their_conditions():
    grouping = grouping_of(6)
    (batch, label, condition), sizes = grouping.keys, grouping.sizes
    selections = batch_effects.group_selections(grouping, 3, Target([2]))
    weights = batch_effects._weights(selections.members, condition, sizes).toarray()
    rows = {row: (b, None) for row, b in enumerate(range(3))}
    rows |= {row: (b, c) for (b, c), row in np.ndenumerate(selections.label_rows) if row >= 0}
    assert sorted(rows) == list(range(len(weights)))
    for b in range(3):
        for c in range(6):
            own = (batch == b) & (label == c)
            large = sizes[own].sum() >= 20 and ((batch == 2) & (label == c)).any()
            assert (selections.label_rows[b, c] >= 0) == large
    for row, (b, c) in rows.items():
        own = (batch == b) & (True if c is None else label == c)
        own = own & (condition >= 0) if (own & (condition >= 0)).any() else own
        expected = np.zeros(len(sizes))
        for k in np.unique(condition[own]):
            of_condition = own & (condition == k)
            expected[of_condition] = 1 / sizes[of_condition].sum()
        assert_allclose(weights[row], expected / len(np.unique(condition[own])), rtol=1e-14)


def test_thousands_of_labels_take_no_table_of_groups_by_groups():
    grouping = grouping_of(3_000)
    n_groups = grouping.keys.shape[1]
    tracemalloc.start()
    selections = batch_effects.group_selections(grouping, 3, Target([2]))
    batch_effects._weights(selections.members, grouping.keys[2], grouping.sizes)
    compare = shrinkage._comparison(grouping, 3, Target([2]))
    sums = np.random.default_rng(0).random((n_groups, 2))
    compared = compare(sums)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_groups > 20_000
    assert peak < 100e6 < n_groups**2 / 2
    in_target = grouping.keys[0] == 2
    batch, label = np.argwhere(selections.label_rows >= 0)[-1]
    row, same = selections.label_rows[batch, label], grouping.keys[1] == label
    assert_allclose(compared.target[row], sums[in_target & same].sum(axis=0))
    assert_allclose(compared.own[row], sums[(grouping.keys[0] == batch) & same].sum(axis=0))
    assert_allclose(compared.target[0], sums[in_target].sum(axis=0))
