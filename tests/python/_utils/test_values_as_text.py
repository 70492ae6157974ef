"""Numbers, truth values and dates as text: alike in data, arguments and results."""

from __future__ import annotations

import datetime as dt

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge._utils.arguments import code_of
from scvibridge._utils.values_as_text import as_text, position_of, positions_of
from scvibridge.cli import main
from scvibridge.models.obs_columns import codes_of

FEW = {"n_top_genes": None, "max_epochs": 2, "device": "cpu", "progress": False}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (np.float32(2), "2"),
        (1e5, "100000"),
        (0.1, "0.1"),
        (np.int64(3), "3"),
        (True, "True"),
        ("1.0", "1.0"),
        (np.datetime64("2024-01-02"), "2024-01-02"),
        (pd.Timestamp("2024-01-02 03:04"), "2024-01-02T03:04:00"),
        (float("inf"), "inf"),
    ],
)
def test_values_as_text(value, text):
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("name", "batches", "code"),
    [
        ("1", [1.0, 2.0], 0),
        ("2.0", [1, 2], 1),
        ("1e5", [1.0, 1e5], 1),
        ("1e+05", [1.0, 1e5], 1),
        ("0.10", [0.1, 0.2], 0),
        ("TRUE", [False, True], 1),
        ("true", [False, True], 1),
        ("2024-01-02", [pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-02")], 1),
        (dt.date(2024, 1, 2), ["2024-01-01", "2024-01-02"], 1),
        ("01", ["1", "01"], 1),
        (2, [1.0, 2.0], 1),
    ],
)
def test_text_that_spells_a_batch_is_understood(name, batches, code):
    assert code_of(name, batches, "batch") == code


@pytest.mark.parametrize("name", ["1_0", "infinity", "1 ", "x", ""])
def test_other_text_is_not_taken_for_a_number(name):
    with pytest.raises(ValueError, match="is not among"):
        code_of(name, [10.0, float("inf"), 1.0], "batch")


def test_what_could_be_two_batches_is_refused():
    assert position_of("1.00", ["1", "1.0"]) is None
    with pytest.raises(ValueError, match=r"batch 3 is not among 1, 2\.5$"):
        code_of(3, [1.0, 2.5], "batch")
    # A number may be scvi-tools' own code: it is no name of a batch that is text.
    with pytest.raises(ValueError, match="did you mean '1'"):
        code_of(1, ["0", "1"], "batch")


@pytest.mark.parametrize(
    ("values", "among", "positions"),
    [
        (["1E1", "10"], ["10", "20"], [-1, 0]),  # wells of plates 1 and 10, as text
        (["1E1"], [10], [0]),
        (["1.10"], ["1.1"], [-1]),  # two samples of a donor
        (["01", "1"], [1], [-1, 0]),
        (["01", "1.0"], [1], [-1, -1]),
        (["01", "01"], [1], [0, 0]),
        ([1.0, "1"], [1], [0, 0]),
        ([1.0], ["1.0"], [0]),
        ([1], ["1", "01"], [0]),
        ([1], ["01", "1.0"], [-1]),
        ([True, False], [0, 1], [-1, -1]),
        ([1, 0], [True, False], [-1, -1]),
        ([np.True_], ["TRUE"], [0]),
        (["true"], ["True", "FALSE"], [0]),
        (["true"], ["True", "TRUE"], [-1]),
        ([np.float32(0.1)], [0.1], [0]),
        ([], [1], []),
    ],
)
def test_different_categories_are_not_merged(values, among, positions):
    assert positions_of(values, among).tolist() == positions


def test_cells_of_an_unknown_batch_do_not_become_another_batch():
    with pytest.raises(
        ValueError, match=r"unknown to the model: '1E1'\. Known values are '10', '9'"
    ):
        codes_of(pd.DataFrame({"well": ["10", "1E1"]}), "well", ["10", "9"])
    with pytest.raises(ValueError, match="unknown to the model: '01'"):
        codes_of(pd.DataFrame({"well": ["1", "01"]}), "well", [1, 2])
    with pytest.raises(ValueError, match="batch '1E1' is not among '10', '9'"):
        code_of("1E1", ["10", "9"], "batch")
    with pytest.raises(ValueError, match="unknown to the model: True"):
        codes_of(pd.DataFrame({"lot": [True, True]}), "lot", [1, 2])


@pytest.mark.parametrize(
    ("values", "known"),
    [
        (["1", "2", "1"], [1.0, 2.0]),
        ([1.0, 2.0, 1.0], ["1", "2"]),
        (["1.0", "2.0", "1.0"], [1, 2]),
        (pd.Categorical(["1", "2", "1"]), [1, 2]),
        (["False", "TRUE", "False"], [False, True]),
    ],
)
def test_columns_of_new_data_are_read_as_the_model_spells_them(values, known):
    assert codes_of(pd.DataFrame({"lot": values}), "lot", known).tolist() == [0, 1, 0]


def test_unknown_values_are_named_as_they_are():
    with pytest.raises(
        ValueError, match=r"values unknown to the model: '3'. Known values are 1, 2\. "
    ):
        codes_of(pd.DataFrame({"lot": ["1", "3"]}), "lot", [np.float64(1), np.float64(2)])


# -- columns of the data -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lots() -> ad.AnnData:
    rng = np.random.default_rng(1)
    n = 60
    obs = pd.DataFrame(
        {
            "lot": np.tile([1.0, 1e5], n // 2),
            "plate": np.tile(np.array([3, 4], dtype=np.int32), n // 2),
            "text": np.tile(np.array(["a", "b"], dtype=object), n // 2),
            "level": pd.Categorical(
                np.tile(["low", "high"], n // 2), ["low", "high", "none"], ordered=True
            ),
            "depth": np.tile(np.array([1, 2], dtype=np.int16), n // 2),
        },
        index=[f"c{i}" for i in range(n)],
    )
    counts = rng.poisson(3, (n, 20)).astype(np.float32)
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(20)]))


@pytest.fixture(scope="module")
def lots_folder(lots, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lots") / "model"
    model = sb.train_scvi(
        lots,
        "lot",
        labels_key="text",
        categorical_covariate_keys=["plate", "level"],
        continuous_covariate_keys=["depth"],
        save=folder,
        **FEW,
    )
    pd.testing.assert_frame_equal(model.adata.obs[list(lots.obs)], lots.obs)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_the_columns_of_a_result_are_those_of_the_data(lots, lots_folder):
    model = sb.load(lots_folder)
    counts = sb.corrected_counts(model, transform_batch=1, progress=False)
    pd.testing.assert_frame_equal(counts.obs[list(lots.obs)], lots.obs)
    of_target = (counts.obs["lot"] == 1).to_numpy()
    changed = (counts.layers["raw_counts"] != counts.X).toarray()
    assert of_target.sum() == 30
    assert not changed[of_target].any()
    assert changed[~of_target].any()
    assert counts.uns["scvibridge"]["batches"].tolist() == ["1", "100000"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spelling", ["1e5", "100000", "100000.0"])
def test_numbers_are_understood_on_the_command_line(lots_folder, tmp_path, spelling):
    out = tmp_path / "corrected.h5ad"
    arguments = ["correct", str(lots_folder), "--transform-batch", spelling, "--out", str(out)]
    assert main.main(arguments) == 0
    written = ad.read_h5ad(out)
    of_target = (written.obs["lot"] == 1e5).to_numpy()
    same = (written.layers["raw_counts"] != written.X).toarray().any(axis=1) == 0
    assert of_target.sum() == 30
    assert same[of_target].all()


@pytest.mark.filterwarnings("ignore")
def test_data_with_numbers_as_text_fit_the_model(lots, lots_folder):
    model = sb.load(lots_folder)
    expected = sb.corrected_counts(model, transform_batch=1, progress=False)
    spelled_lots = lots.copy()
    spelled_lots.obs["lot"] = np.tile(["1", "100000"], 30)
    found = sb.corrected_counts(model, spelled_lots, transform_batch="1", progress=False)
    assert (found.X != expected.X).nnz == 0
    loaded = sb.load(lots_folder, adata=spelled_lots)
    again = sb.corrected_counts(loaded, transform_batch="1", progress=False)
    assert (again.X != expected.X).nnz == 0
