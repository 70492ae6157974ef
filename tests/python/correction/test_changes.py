"""Changes of means: several of them multiply, whatever the block."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from scvibridge.correction import changes
from scvibridge.correction.batch_effects import EFFECTS, GroupEffects, Shift
from scvibridge.correction.changes import Changes, GroupChange, SampleChange
from scvibridge.correction.effects import STRATEGIES
from scvibridge.correction.sample_factors import SampleFactors

N_CELLS, N_GENES = 40, 7


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    log_ratio, logits = rng.normal(size=(2, 5, N_GENES))
    effects = GroupEffects(Shift(log_ratio, logits), np.zeros((5, 1), dtype=int))
    factors = SampleFactors(np.zeros((4, 3), dtype=int), rng.lognormal(size=(4, N_GENES)))
    return (
        GroupChange(effects, rng.integers(5, size=N_CELLS)),
        SampleChange(factors, rng.integers(4, size=N_CELLS)),
    )


@pytest.mark.parametrize("most_entries", [0, 10**6])
def test_changes_multiply(given, most_entries, monkeypatch):
    monkeypatch.setattr(changes, "MOST_ENTRIES", most_entries)
    groups, samples = given
    positions = np.array([3, 0, 39, 17, 3])
    effect = np.exp(groups.effects.shift.log_ratio)[groups.rows[positions]]
    factor = samples.factors.ratio[samples.rows[positions]]
    found = Changes(given).take(positions)
    assert_array_equal(found.target.ratio[found.target.shift_row], effect * factor)
    assert_array_equal(found.source.ratio[found.source.shift_row], factor)
    zi_shift = groups.effects.shift.zi_shift[groups.rows[positions]]
    assert_array_equal(found.target.zi_shift[found.target.shift_row], zi_shift)
    assert found.source.zi_shift is None


def test_each_change_alone(given):
    groups, samples = given
    everyone = np.arange(N_CELLS)
    assert Changes((groups,)).take(everyone).source is None
    found = Changes((samples,)).take(everyone)
    for side in (found.source, found.target):
        assert_array_equal(side.ratio[side.shift_row], samples.factors.ratio[samples.rows])
    found = Changes(()).take(everyone)
    assert (found.source, found.target) == (None, None)


def test_each_effect_has_a_strategy():
    assert set(STRATEGIES) == set(EFFECTS)
