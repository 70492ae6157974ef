"""Labels, conditions and samples that match nothing, or hardly anything."""

from __future__ import annotations

import families
import numpy as np
import pandas as pd
import pytest
import scvi

import scvibridge as sb
from scvibridge.correction.matching import positions_of

QUIET = {"progress": False, "device": "cpu", "shrinkage": 0, "library_size": "observed"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:support"),
]


@pytest.fixture(scope="module")
def data(simulate):
    return simulate(n_cells=330, n_genes=30)


@pytest.fixture(scope="module")
def model(data, train):
    return train(data.copy(), max_epochs=2)


@pytest.fixture
def own(model):
    """The model's own data, whose columns are put back after the test."""
    obs = model.adata.obs.copy()
    yield model.adata
    model.adata.obs = obs


def correct(model, adata=None, **given):
    return sb.corrected_counts(model, adata, transform_batch="V1", **given, **QUIET)


def renamed(data, change):
    other = data.copy()
    other.obs["cell_type"] = other.obs["cell_type"].astype(object).map(change)
    return other


CHANGES = {
    "case": (str.lower, "did you mean 'B'"),
    "space": (lambda name: f"{name} ", "did you mean 'B'"),
    "codes": ({"B": 0, "NK": 1, "T": 2}.get, r"the cells have 0, 1, 2.*have 'B', 'NK', 'T'"),
    "other": (lambda name: f"cluster of {name}s", "matches nothing"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("effect", ["label", "global"])
def test_labels_that_match_nothing_are_refused(model, data, name, effect):
    change, message = CHANGES[name]
    with pytest.raises(ValueError, match=message):
        correct(model, renamed(data, change), labels_key="cell_type", effect=effect)


def test_labels_that_match_nothing_are_refused_for_a_file(model, data, tmp_path):
    renamed(data, str.lower).write_h5ad(tmp_path / "data.h5ad")
    with pytest.raises(ValueError, match="did you mean 'B'"):
        correct(model, tmp_path / "data.h5ad", labels_key="cell_type", out=tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize("key", ["labels_key", "condition_key", "sample_key"])
def test_columns_without_values_are_refused(model, own, key):
    own.obs["nothing"] = pd.Categorical([None] * own.n_obs, categories=["a"])
    with pytest.raises(ValueError, match=f"{key}='nothing': the column has no values"):
        correct(model, **{key: "nothing"})


def test_some_unknown_labels_are_warned_of_with_both_sides(model, data):
    other = renamed(data, lambda name: "b cell" if name == "B" else name)
    with (
        pytest.warns(UserWarning, match=r"cells have values.*have 'b cell'; .*have 'B', 'NK', 'T'"),
        pytest.warns(UserWarning, match=r"labels: \d+ of \d+ cells to correct used the effect"),
    ):
        result = correct(model, other, labels_key="cell_type")
    expected = (other.obs["cell_type"] == "b cell") & (other.obs["batch"] != "V1")
    assert (result.obs["scvibridge_effect_fallback"] == expected).all()


def test_a_few_unknown_labels_are_a_note(model, data, recwarn):
    other = data.copy()
    other.obs["cell_type"] = other.obs["cell_type"].astype(object)
    other.obs.iloc[np.flatnonzero(other.obs["batch"] == "V2")[:3], 1] = "unknown"
    result = correct(model, other, labels_key="cell_type")
    assert not any("label" in str(w.message) for w in recwarn)
    assert any("3 of" in note for note in result.uns["scvibridge"]["notes"])


def test_numbers_written_as_text_are_the_same_labels(model, own, data):
    codes = own.obs["cell_type"].cat.codes
    own.obs["number"] = codes.to_numpy()
    other = data.copy()
    other.obs["number"] = codes.astype(str).to_numpy()
    text = correct(model, other, labels_key="number")
    names = correct(model, labels_key="cell_type")
    assert not text.obs["scvibridge_effect_fallback"].any()
    assert (text.X != names.X).nnz == 0


def test_positions_prefer_the_very_name():
    assert positions_of(["1", 1, 2, "x"], [1, "1", "2"]).tolist() == [1, 0, 2, -1, -1]
    assert positions_of([1.0, "1"], [1]).tolist() == [0, 0, -1]


def test_labels_of_a_few_cells_are_refused(model, own):
    own.obs["barcode"] = [f"group {i // 4}" for i in range(own.n_obs)]
    with pytest.raises(ValueError, match=r"20 cells of the label in a batch.*use effect='global'"):
        correct(model, labels_key="barcode")


def test_labels_that_the_target_lacks_are_named(model, own):
    is_target = (own.obs["batch"] == "V1").to_numpy()
    own.obs["apart"] = np.where(is_target, "target", own.obs["cell_type"].astype(object))
    with pytest.raises(ValueError, match=r"The target \('V1'\) has 'target', the other batches"):
        correct(model, labels_key="apart")
    own.obs["part"] = np.where(
        is_target & (own.obs["cell_type"] == "B"), "NK", own.obs["cell_type"].astype(object)
    )
    with pytest.warns(UserWarning, match=r"labels: the target \('V1'\) has no cells of 'B'"):
        result = correct(model, labels_key="part")
    assert list(result.uns["scvibridge"]["labels_missing_from_target"]) == ["B"]
    is_b = (result.obs["part"] == "B").to_numpy()
    assert (result.obs["scvibridge_effect_fallback"] == is_b).all()
    # They take what the whole of their batch takes.
    alone = correct(model, effect="global")
    assert (result.X[is_b] != alone.X[is_b]).nnz == 0


def test_cells_of_an_absent_label_are_corrected_as_in_the_whole(model, own):
    own.obs["part"] = np.where(
        (own.obs["batch"] == "V1") & (own.obs["cell_type"] == "B"),
        "NK",
        own.obs["cell_type"].astype(object),
    )
    is_b = (own.obs["part"] == "B").to_numpy()
    with pytest.warns(UserWarning, match="has no cells of 'B'"):
        part = correct(model, labels_key="part", indices=is_b)
    with pytest.warns(UserWarning, match="has no cells of 'B'"):
        whole = correct(model, labels_key="part")
    assert (whole[is_b].X != part.X).nnz == 0


def test_unlabelled_cells_of_a_semi_supervised_model_have_no_label(data):
    some = data.copy()
    some.obs["cell_type"] = some.obs["cell_type"].cat.add_categories([families.UNLABELLED])
    some.obs.iloc[::3, 1] = families.UNLABELLED
    model, _ = families.make("SCANVI", some, epochs=1)
    with pytest.warns(UserWarning, match=r"used the effect of their batch.*\d+ have no label"):
        result = correct(model, labels_key="cell_type")
    unlabelled = (result.obs["cell_type"] == families.UNLABELLED).to_numpy()
    elsewhere = (result.obs["batch"] != "V1").to_numpy()
    fallback = result.obs["scvibridge_effect_fallback"].to_numpy()
    assert (fallback[unlabelled] == elsewhere[unlabelled]).all()
    assert not fallback[~unlabelled].all()
    model.adata.obs["nothing"] = families.UNLABELLED
    with pytest.raises(
        ValueError, match="missing or 'unknown', which the model uses for unlabeled"
    ):
        correct(model, labels_key="nothing")


@pytest.mark.filterwarnings("ignore")
def test_unlabelled_cells_are_known_as_numbers_and_as_text(data):
    """The model's -1 are no label in data with text, and the other way round."""
    text, numbers = data.copy(), data.copy()
    codes = np.where(np.arange(data.n_obs) % 3, data.obs["cell_type"].cat.codes + 1, -1)
    text.obs["cell_type"], numbers.obs["cell_type"] = codes.astype(str), codes
    scvi.model.SCANVI.setup_anndata(
        text, labels_key="cell_type", unlabeled_category="-1", batch_key="batch"
    )
    model = families.train(scvi.model.SCANVI(text, n_latent=4, n_hidden=24), 1)
    expected = correct(model, labels_key="cell_type")
    found = correct(model, adata=numbers, labels_key="cell_type")
    flags = ["scvibridge_effect_group", "scvibridge_effect_fallback"]
    pd.testing.assert_frame_equal(found.obs[flags], expected.obs[flags])
    elsewhere = (data.obs["batch"] != "V1").to_numpy()
    assert found.obs["scvibridge_effect_fallback"][(codes == -1) & elsewhere].all()
    assert (found.X != expected.X).nnz == 0
    own = {"transform_batch": "V1", "progress": False, "adata": numbers}
    assert -1 not in set(sb.batch_support(model, labels_key="cell_type", **own).labels["label"])


# -- samples -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_some_cells_without_a_sample_are_corrected_like_the_whole(model, own):
    groups = np.where(own.obs["batch"] == "V2", "", [f"group {i % 3}" for i in range(own.n_obs)])
    own.obs["part"] = pd.Series(groups, index=own.obs_names).replace("", None)
    rows = np.flatnonzero(own.obs["batch"] == "V2")
    whole = correct(model, adata=own, sample_key="part", effect="global")
    part = correct(model, adata=own, sample_key="part", effect="global", indices=rows)
    assert (part.X != whole[rows].X).nnz == 0


def test_samples_of_a_few_cells_are_refused(model, own):
    own.obs["barcode"] = [f"group {i // 4}" for i in range(own.n_obs)]
    with pytest.raises(ValueError, match=r"no sample of at least 10 cells.*omit sample_key"):
        correct(model, sample_key="barcode")


def test_samples_of_other_names_are_refused(model, own, data):
    own.obs["donor"] = np.where(np.arange(own.n_obs) % 2, "D1", "D2")
    other = data.copy()
    other.obs["donor"] = np.where(np.arange(own.n_obs) % 2, "d1", "d2")
    with pytest.raises(ValueError, match=r"sample_key='donor' matches nothing.*did you mean 'D1'"):
        correct(model, other, sample_key="donor")


def test_one_sample_is_no_sample(model, own):
    own.obs["project"] = "P"
    with pytest.warns(UserWarning, match="sample_key='project' has a single value"):
        correct(model, sample_key="project")


def test_many_cells_without_a_sample_are_warned_of(model, own):
    own.obs["donor"] = np.where(np.arange(own.n_obs) % 3 == 0, "D1", None)
    with pytest.warns(UserWarning, match=r"\d+ of \d+ cells to correct have no sample of at least"):
        correct(model, sample_key="donor")
