"""Names that are joined stay apart."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge._utils.spelling import join, spelled
from scvibridge.expression import results
from scvibridge.models.adapters.strata import Strata

PARTS = ["a", "b / c", "a / b", "c", "a /", "/ b", "/", " ", "", "'a'", "'b / c'", '"a', "CD4/CD8"]


@pytest.mark.parametrize("separator", [" / ", ", "])
def test_different_parts_have_different_names(separator):
    parts = [*PARTS, "a, b", "b,", ",", ", "]
    pairs = [*product(parts, parts), *((part,) for part in parts)]
    assert len({join(pair, separator) for pair in pairs}) == len(pairs)


def test_common_names_are_joined_as_they_are():
    assert join(["V2", "CD4/CD8 T"], " / ") == "V2 / CD4/CD8 T"
    assert join(["a / b", "c"], " / ") == "'a / b' / c"
    assert join(["a", "b / c"], " / ") == "a / 'b / c'"


def test_values_that_look_alike():
    assert spelled(["1", "2"]) == ["1", "2"]
    assert spelled([1, 2]) == ["1", "2"]
    assert spelled([1, "1", "2"]) == ["1", "'1'", "2"]
    assert (
        len(set(spelled([1, "1", "'1'", pd.Timestamp("2024-01-01"), "2024-01-01 00:00:00"]))) == 5
    )


def test_groups_of_cells_stay_apart():
    adapter = SimpleNamespace(batches=["a", "a / b", 1, "1"])
    batch, label = np.array([0, 1, 2, 3, 0, 1]), np.array([1, 0, 0, 0, 0, -1])
    names = results.group_names(adapter, batch, label, ["c", "b / c"])
    assert list(names) == ["a / 'b / c'", "'a / b' / c", "1 / c", "\"'1'\" / c", "a / c", "'a / b'"]


def test_strata_stay_apart():
    values = {0: ("donor", ["x, donor=y", "y", 1, "1"])}
    strata = Strata.of(["a", "a, donor=x"], True, values, {})
    assert len(set(strata.names)) == len(strata.names) == 8


@pytest.fixture(scope="module")
def colliding(simulate, train):
    """A model whose batches and labels collide where they are joined by a slash."""
    adata = simulate(n_cells=240, n_genes=30, batches=("a", "a / b"), cell_types=("b / c", "c"))
    return train(adata, max_epochs=2)


@pytest.mark.filterwarnings("ignore")
def test_corrected_counts_of_names_that_collide(colliding, tmp_path):
    out = tmp_path / "corrected.h5ad"
    result = sb.corrected_counts(
        colliding, transform_batch="a / b", labels_key="cell_type", out=out, progress=False
    )
    group = result.obs["scvibridge_effect_group"]
    table = pd.crosstab(group, [result.obs["batch"], result.obs["cell_type"]])
    assert ((table > 0).sum(axis=0) == 1).all()
    assert ((table > 0).sum(axis=1) == 1).all()
    assert len(table) == 4


@pytest.mark.filterwarnings("ignore")
def test_labels_that_are_the_same_text(trained_model, simulated):
    adata = simulated.copy()
    labels = adata.obs["cell_type"].astype(object).map({"B": 1, "NK": "1", "T": "no label"})
    labels[:30] = None
    adata.obs["kind"] = labels
    given = {"adata": adata, "transform_batch": "V3", "labels_key": "kind", "progress": False}
    model = trained_model
    found = sb.batch_support(model, **given)
    sizes = adata.obs["kind"][adata.obs["batch"] != "V3"].value_counts(dropna=False)
    by_label = dict(zip(map(repr, found.by_label["label"]), found.by_label["n_cells"], strict=True))
    assert by_label == {
        "1": sizes[1], "'1'": sizes["1"], "'no label'": sizes["no label"],
        "'(no label)'": int(labels[adata.obs["batch"] != "V3"].isna().sum()),
    }  # fmt: skip
    result = sb.corrected_counts(model, **given)
    groups = pd.Series(result.obs["scvibridge_effect_group"].astype(str), index=result.obs_names)
    assert set(groups[labels == 1]) == {"V1 / 1", "V2 / 1", "V3 / 1"}
    assert set(groups[labels.map(repr) == "'1'"]) == {
        f"{batch} / \"'1'\"" for batch in ("V1", "V2", "V3")
    }
    table = result.uns["scvibridge"]["support_by_label"]
    assert {"1", "'1'", "no label", "(no label)"} == set(table["label"])
