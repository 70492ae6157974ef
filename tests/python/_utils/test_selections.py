"""Selections of cells and genes: what carries names goes by them, all else by position."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge._utils import selections

N_CELLS = 6
NAMES = [f"cell_{i}" for i in range(N_CELLS)]
# The same cells in another order, as another file has them.
OTHER_ORDER = [3, 0, 5, 1, 4, 2]
IS_B = np.array([True, False, False, True, True, False])


def adata_of(names):
    return ad.AnnData(np.zeros((len(names), 1)), obs=pd.DataFrame(index=names))


DATA = adata_of([NAMES[i] for i in OTHER_ORDER])
MASK = pd.Series(IS_B, index=NAMES)
EXPECTED = [name for name in DATA.obs_names if MASK[name]]


def selected(indices, adata=DATA):
    return list(adata.obs_names[selections.resolve_indices(indices, adata)])


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK.astype(object),
        MASK.astype("boolean"),
        MASK.astype("category"),
        MASK.astype(pd.SparseDtype(bool)),
        MASK.to_frame("is_b"),
        MASK[::-1],
        MASK.set_axis(pd.CategoricalIndex(NAMES)),
        pd.concat([MASK, pd.Series({"not in the data": False})]),
    ],
    ids=["bool", "object", "nullable", "category", "sparse", "frame", "reversed", "index", "more"],
)
def test_masks_with_names_go_by_them(mask):
    assert selected(mask) == EXPECTED


@pytest.mark.parametrize(
    "mask",
    [
        IS_B,
        list(IS_B),
        tuple(IS_B.tolist()),
        IS_B.astype(object),
        pd.array(IS_B, dtype="boolean"),
        pd.Series(IS_B),
        pd.Index(IS_B),
        (flag for flag in IS_B),
    ],
    ids=["array", "list", "tuple", "object", "nullable", "default index", "index", "generator"],
)
def test_masks_without_names_go_by_position(mask):
    assert selected(mask) == [DATA.obs_names[i] for i in np.flatnonzero(IS_B)]


def test_positions_and_names_in_every_container():
    positions = [4, 1]
    by_position = [DATA.obs_names[i] for i in positions]
    for given in (
        positions,
        np.array(positions, dtype=np.uint8),
        np.array(positions, dtype=object),
        pd.Index(positions),
        pd.Series(positions),
        pd.Series(positions, index=[40, 10]),
        pd.Series(positions, dtype="Int64"),
        range(4, 0, -3),
        [4, -5],
    ):
        assert selected(given) == by_position
    wanted = ["cell_2", "cell_0"]
    for given in (
        wanted,
        np.array(wanted),
        pd.Index(wanted),
        pd.Series(wanted, index=["a", "b"]),
        pd.Series(wanted, dtype="category"),
        pd.Series(wanted, dtype="string"),
        (name for name in wanted),
    ):
        assert selected(given) == wanted


def test_positions_with_the_names_of_cells_go_by_names():
    positions = pd.Series(np.arange(N_CELLS), index=NAMES)[IS_B]
    assert selected(positions) == list(positions.index)
    score = pd.Series([3.0, 1.0, 5.0, 0.0, 4.0, 2.0], index=DATA.obs_names)
    for given in (score.argsort()[:3], score.argsort()[-2:], np.argsort(score)[:1]):
        with pytest.raises(ValueError, match=r"select different cells: pass indices.to_numpy\(\)"):
            selected(given)
    with pytest.raises(ValueError, match=r"repeated numbers.*== 3"):
        selected(pd.Series([0, 0, 1, 1, 2, 2], index=NAMES))


def test_mask_must_name_every_cell():
    with pytest.raises(ValueError, match=r"lacks 1 of the 6 cells: 'cell_5'"):
        selected(MASK[:-1])
    with pytest.raises(ValueError, match=r"lacks 6 of the 6 cells.*its names are 'x0', 'x1'"):
        selected(MASK.set_axis([f"x{i}" for i in range(N_CELLS)]))
    with pytest.raises(ValueError, match="lacks 6 of the 6"):
        selected(MASK.set_axis([9, 8, 7, 6, 5, 4]))
    more = pd.concat([MASK, pd.Series({"elsewhere": True})])
    with pytest.raises(ValueError, match="selects 1 cells that the data lack: 'elsewhere'"):
        selected(more)
    with pytest.raises(ValueError, match="occur more than once: 'cell_0'"):
        selected(pd.concat([MASK, MASK[:1]]))


def test_index_that_counts_may_be_the_names_of_cells():
    numbered = adata_of([str(i) for i in OTHER_ORDER])
    with pytest.raises(ValueError, match=r"names of the cells or their positions.*to_numpy"):
        selected(pd.Series(IS_B), numbered)
    in_order = adata_of([str(i) for i in range(N_CELLS)])
    assert selected(pd.Series(IS_B), in_order) == ["0", "3", "4"]
    shuffled = pd.Series(IS_B)[[5, 4, 3, 2, 1, 0]]
    assert selected(shuffled, numbered) == ["3", "0", "4"]


def test_missing_values_are_refused_by_name():
    with pytest.raises(ValueError, match=r"missing .* 1 of 6 cells: 'cell_2'"):
        selected(MASK.astype("boolean").where(MASK.index != "cell_2"))
    for missing in (None, np.nan, pd.NA):
        with pytest.raises(ValueError, match=r"is missing .* 1 of 2 cells: '1'"):
            selected([True, missing])
        with pytest.raises(ValueError, match="is missing"):
            selected(["cell_1", missing])
    with pytest.raises(ValueError, match="missing"):
        selected(np.ma.MaskedArray(IS_B, mask=~IS_B))


@pytest.mark.parametrize(
    ("indices", "match"),
    [
        ("cell_1", "single name 'cell_1'"),
        (b"cell_1", "single name"),
        (3, "must be a list of cell names, positions or a mask, got 3"),
        (True, "must be a list .* got True"),
        (np.array(3), "must be a list"),
        (np.nan, "must be a list"),
        ({1, 2}, "a set has no order"),
        ({"cell_1": True}, "must be a list"),
        ([True, 2], "mixes values of the types bool, int"),
        ([1, "cell_1"], "mixes"),
        ([b"cell_1"], "got bytes"),
        (np.array([b"cell_1"]), r"got \|S6"),
        ([1.0, 0.0], "got float"),
        (IS_B.astype(int), r"more than once \(a mask must contain True and False"),
        ([[True] * N_CELLS], "got list"),
        (IS_B[:, None], r"one dimension, got shape \(6, 1\)"),
        (pd.DataFrame({"a": IS_B, "b": IS_B}), "a table with 2 columns"),
        (pd.MultiIndex.from_tuples([("cell_1", 1)]), "one dimension"),
        (slice("cell_1", "cell_3"), "a slice selects by position"),
        ([0, 6], "within the 6 cells, got 6"),
        ([0, -7], "within the 6 cells, got -7"),
        (["Cell_1"], r"data lack: 'Cell_1': did you mean 'cell_1'\?"),
        (IS_B[:-1], "mask of 5 values for 6"),
    ],
)
def test_what_is_no_selection_is_refused(indices, match):
    with pytest.raises((TypeError, ValueError), match=match):
        selected(indices)


# -- genes ---------------------------------------------------------------------------------------

GENES = pd.Index(["g0", "g1", "g2", "g3"])


def genes_of(gene_list):
    return list(GENES[selections.resolve_genes(gene_list, GENES)])


def test_masks_of_genes_go_by_name():
    mask = pd.Series([True, False, True, False], index=["g3", "g2", "g1", "g0"])
    for given in (mask, mask.astype(object), mask.astype("boolean"), mask.to_frame()):
        assert genes_of(given) == ["g1", "g3"]
    with pytest.raises(ValueError, match="lacks 1 of the 4 genes: 'g0'"):
        genes_of(mask[:-1])
    unknown = pd.concat([mask, pd.Series({"g9": True})])
    with pytest.raises(ValueError, match="does not have 1 of the 3 genes in gene_list: 'g9'"):
        genes_of(unknown)
    with pytest.raises(ValueError, match="selects no genes"):
        genes_of(~mask & mask)
    with pytest.raises(ValueError, match=r"missing .* 1 of 4 genes: 'g2'"):
        genes_of(mask.astype("boolean").where(mask.index != "g2"))


def test_genes_keep_the_order_asked_for():
    for given in (
        ["g2", "g0"],
        np.array(["g2", "g0"]),
        pd.Series(["g2", "g0"]),
        iter(["g2", "g0"]),
    ):
        assert genes_of(given) == ["g2", "g0"]


@pytest.mark.parametrize(
    ("gene_list", "match"),
    [
        ([True, False, True, False], r"a mask without names.*var_names\[mask\]"),
        (pd.Series([True, False, True, False]), "a mask without names"),
        ([0, 1], "must be names of genes, not numbers"),
        (pd.Series([0, 1], index=["g0", "g1"]), "not numbers"),
        ({"g0", "g1"}, "a set has no order"),
        ({"g0": 1}, "must be a list of gene names"),
        (np.array("g0"), "must be a list of gene names"),
        (3, "must be a list of gene names"),
        (["g0", None], "missing"),
        (["g0", 1], "mixes"),
        (["g0", "g0"], "more than once"),
        (["G0"], r"did you mean 'g0'\?"),
    ],
)
def test_what_is_no_list_of_genes_is_refused(gene_list, match):
    with pytest.raises((TypeError, ValueError), match=match):
        genes_of(gene_list)


# -- in the functions ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reordered(simulated):
    order = np.random.default_rng(3).permutation(simulated.n_obs)
    return simulated[order].copy()


@pytest.fixture(scope="module")
def mask(simulated):
    return simulated.obs["cell_type"] == "B"


def assert_are_b(names, simulated, reordered):
    expected = [n for n in reordered.obs_names if simulated.obs.loc[n, "cell_type"] == "B"]
    assert list(names) == expected


@pytest.mark.filterwarnings("ignore:confounding was not checked")
def test_functions_take_the_cells_that_a_mask_names(
    trained_model, simulated, reordered, mask, tmp_path
):
    given = {"adata": reordered, "indices": mask, "progress": False}
    for function in (sb.corrected_counts, sb.normalized_expression, sb.denoised_expression):
        target = {} if function is sb.denoised_expression else {"transform_batch": "V3"}
        result = function(trained_model, **given, **target)
        assert_are_b(result.obs_names, simulated, reordered)
        file = tmp_path / f"{function.__name__}.h5ad"
        streamed = function(trained_model, **given, **target, out=file)
        assert_are_b(streamed.obs_names, simulated, reordered)
    found = sb.batch_support(trained_model, transform_batch="V3", **given)
    assert_are_b(found.cells.index, simulated, reordered)


def test_calibration_takes_the_cells_that_a_mask_names(trained_model, simulated, reordered):
    held_out = pd.Series(False, index=simulated.obs_names)
    held_out.iloc[trained_model.validation_indices] = True
    found = sb.calibration(
        trained_model, adata=reordered, indices=held_out, n_references=5, progress=False
    )
    assert found.settings["n_cells"] == len(trained_model.validation_indices)


@pytest.mark.filterwarnings("ignore:confounding was not checked")
def test_functions_take_the_genes_that_a_mask_names(trained_model, simulated):
    variable = pd.Series(simulated.var_names.str.endswith("7"), index=simulated.var_names)
    result = sb.corrected_counts(
        trained_model, transform_batch="V3", gene_list=variable[::-1], progress=False
    )
    assert list(result.var_names) == [n for n in simulated.var_names if n.endswith("7")]
