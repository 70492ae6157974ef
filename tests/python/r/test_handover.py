"""A result as plain parts for R: vectors, columns and settings, checked without R."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from packaging.version import Version

from scvibridge.io import h5ad
from scvibridge.io.backed import open_anndata
from scvibridge.r import assays, columns, objects, to_r
from scvibridge.r.columns import column

ODD_RESULT = Path(__file__).parents[2] / "testthat" / "odd_result.py"
specification = importlib.util.spec_from_file_location("odd_result", ODD_RESULT)
odd_result = importlib.util.module_from_spec(specification)
specification.loader.exec_module(odd_result)


@pytest.fixture
def counts():
    return odd_result.odd_counts()


def assays_of(adata):
    return {name: to_r.genes_by_cells(x) for name, x in to_r.assays(adata).items()}


def rebuilt(part):
    """The matrix of R, genes x cells, from its parts."""
    if "values" in part:
        return part["values"]
    vectors = (part["data"], part["indices"], part["indptr"])
    return sp.csc_matrix(vectors, shape=(part["n_rows"], part["n_columns"])).toarray()


# -- matrices ----------------------------------------------------------------------------------


def test_assays_are_genes_by_cells_with_the_raw_counts_first(counts):
    assays = assays_of(counts)
    assert list(assays) == ["counts", "corrected", "normalized"]
    np.testing.assert_array_equal(
        rebuilt(assays["counts"]), counts.layers["raw_counts"].toarray().T
    )
    np.testing.assert_array_equal(rebuilt(assays["corrected"]), counts.X.toarray().T)
    np.testing.assert_array_equal(rebuilt(assays["normalized"]), counts.layers["normalized"].T)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("normalized_expression", "normalized"), ("denoised_expression", "denoised")],
)
def test_an_expression_has_the_name_of_its_kind(kind, name):
    expression = odd_result.odd_expression(kind)
    assays = assays_of(expression)
    assert list(assays) == ["counts", name]
    np.testing.assert_array_equal(rebuilt(assays[name]), expression.X.T)
    assert list(assays_of(odd_result.odd_expression(kind, raw=False))) == [name]


def test_two_matrices_of_one_name_are_refused(counts):
    counts.layers["counts"] = counts.X.copy()
    with pytest.raises(ValueError, match="two matrices would become the assay 'counts'"):
        to_r.assays(counts)


def test_sparse_vectors_are_handed_over_as_they_lie(counts):
    part = assays_of(counts)["corrected"]
    assert np.shares_memory(part["indices"], counts.X.indices)
    assert np.shares_memory(part["indptr"], counts.X.indptr)
    assert np.shares_memory(part["data"], counts.X.data)
    assert part["indices"].dtype == part["indptr"].dtype == np.int32


def test_dense_values_lie_in_the_order_of_r(counts):
    values = assays_of(counts)["normalized"]["values"]
    assert values.flags.f_contiguous
    assert np.shares_memory(values, counts.layers["normalized"])


def test_vectors_out_of_order_are_sorted_in_a_copy(counts):
    expected = counts.X.toarray().T
    row = slice(counts.X.indptr[0], counts.X.indptr[1])
    counts.X.indices[row] = counts.X.indices[row][::-1].copy()
    counts.X.data[row] = counts.X.data[row][::-1].copy()
    counts.X.has_sorted_indices = False
    before = counts.X.indices.copy()
    assert (np.diff(before[row]) < 0).all()

    part = assays_of(counts)["corrected"]
    np.testing.assert_array_equal(rebuilt(part), expected)
    for start, end in zip(part["indptr"][:-1], part["indptr"][1:], strict=True):
        assert (np.diff(part["indices"][start:end]) > 0).all()
    np.testing.assert_array_equal(counts.X.indices, before)


def test_int64_pointers_and_other_formats_are_accepted(counts):
    expected = counts.X.toarray().T
    counts.X.indptr = counts.X.indptr.astype(np.int64)
    assert assays_of(counts)["corrected"]["indptr"].dtype == np.int32
    counts.X = sp.csc_matrix(counts.X)
    np.testing.assert_array_equal(rebuilt(assays_of(counts)["corrected"]), expected)
    counts.X = sp.csr_array(counts.X)
    np.testing.assert_array_equal(rebuilt(assays_of(counts)["corrected"]), expected)


def test_a_view_hands_over_its_own_cells_and_genes(counts):
    chosen = counts[[4, 1], ["GENE", "a_b"]]
    frame = to_r.frame(chosen)
    assert frame["cells"] == ["cell_4-1", "cell_1-1"]
    assert frame["genes"] == ["GENE", "a_b"]
    expected = counts.X.toarray()[[4, 1]][:, [6, 0]].T
    np.testing.assert_array_equal(rebuilt(assays_of(chosen)["corrected"]), expected)


def open_backed(path):
    return ad.read_h5ad(path, backed="r")


@pytest.mark.parametrize("opened", [open_backed, open_anndata])
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_matrices_on_disk_give_the_same(counts, tmp_path, opened, form):
    expected = assays_of(counts)
    counts.obs = counts.obs[["factor", "bool"]].copy()
    counts.X = form(counts.X.toarray())
    counts.write_h5ad(tmp_path / "counts.h5ad")
    found = assays_of(opened(tmp_path / "counts.h5ad"))
    assert list(found) == list(expected)
    for name, part in found.items():
        np.testing.assert_array_equal(rebuilt(part), rebuilt(expected[name]))


def test_matrices_on_disk_stay_there_until_they_are_taken(counts, tmp_path, monkeypatch):
    counts.obs = counts.obs[["factor", "bool"]].copy()
    h5ad.write_h5ad(counts, tmp_path / "counts.h5ad")
    on_disk = open_anndata(tmp_path / "counts.h5ad")
    read = h5py.Dataset.__getitem__

    def refuse(dataset, *selection):
        assert not dataset.name.endswith("/data")
        return read(dataset, *selection)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse)
    with pytest.raises(AssertionError):
        on_disk.X.to_memory()
    expected, found = to_r.frame(counts), to_r.frame(on_disk)
    assert list(found) == list(expected)
    assert found["cells"] == expected["cells"]
    assert list(to_r.assays(on_disk)) == ["counts", "corrected", "normalized"]


def test_a_matrix_that_is_too_large_is_split_into_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    matrix = sp.random(50, 30, density=0.4, random_state=rng, format="csr")
    matrix.data = rng.integers(1, 9, matrix.nnz).astype("int32")
    monkeypatch.setattr(columns, "R_MAX_INTEGER", matrix.nnz - 1)
    monkeypatch.setattr(assays, "_NONZEROS_OF_BLOCK", 45)
    assay = assays.Assay("corrected", matrix)
    assert assay.load()
    bounds = assay.bounds()
    assert (bounds[0], bounds[-1]) == (0, 50)
    blocks = [assay.block(start, stop) for start, stop in pairwise(bounds)]
    assert max(len(block["data"]) for block in blocks) <= 45
    assert all(block["whole"] for block in blocks)
    assert all(block["indptr"].dtype == block["indices"].dtype == "int32" for block in blocks)
    joined = sp.hstack(
        [
            sp.csc_matrix(
                (block["data"], block["indices"], block["indptr"]),
                shape=(30, len(block["indptr"]) - 1),
            )
            for block in blocks
        ]
    )
    np.testing.assert_array_equal(joined.toarray(), matrix.toarray().T)
    # A cell with more nonzeros than a block should have is a block; a matrix that fits has none.
    monkeypatch.setattr(assays, "_NONZEROS_OF_BLOCK", 1)
    assert assay.bounds() == list(range(51))
    monkeypatch.setattr(columns, "R_MAX_INTEGER", matrix.nnz)
    assert assay.bounds() == []
    # Pointers that R's integers cannot hold stay 64-bit.
    assert to_r.genes_by_cells(matrix)["indptr"].dtype == "int32"
    monkeypatch.setattr(columns, "R_MAX_INTEGER", matrix.nnz - 1)
    assert to_r.genes_by_cells(matrix)["indptr"].dtype == "int64"


def test_more_values_than_an_r_matrix_holds_are_refused(counts, monkeypatch, tmp_path):
    to_r.check_nonzeros(2**31 - 1, "corrected")
    with pytest.raises(ValueError, match=r"corrected has 2,147,483,648 .*read_corrected\("):
        to_r.check_nonzeros(2**31, "corrected")
    # The same check is made of a whole result, in memory and on disk.
    counts.obs = counts.obs[["factor", "bool"]].copy()
    counts.write_h5ad(tmp_path / "counts.h5ad")
    monkeypatch.setattr(columns, "R_MAX_INTEGER", counts.layers["raw_counts"].nnz - 1)
    for adata in (counts, open_anndata(tmp_path / "counts.h5ad")):
        with pytest.raises(ValueError, match=r"^counts has"):
            objects.to_sce(adata)


def test_reductions_and_tables_of_genes(counts):
    frame = to_r.frame(counts)
    reductions = {part["name"]: part for part in frame["reductions"]}
    assert list(reductions) == ["scvi", "UMAP"]
    np.testing.assert_array_equal(reductions["scvi"]["values"], counts.obsm["X_scvi"])
    detection = frame["var"][-1]
    assert detection["name"] == "detection"
    assert detection["columns"] == ["V2", "V3"]
    np.testing.assert_array_equal(detection["values"], counts.varm["detection"].to_numpy())


# -- what is no result -------------------------------------------------------------------------


@pytest.mark.parametrize("function", [to_r.frame, to_r.assays])
def test_other_objects_are_refused(counts, function):
    with pytest.raises(TypeError, match="expected an AnnData returned by scvibridge, got dict"):
        function({})
    del counts.uns["scvibridge"]
    with pytest.raises(ValueError, match=r"not a result of scvibridge.*'corrected_counts'"):
        function(counts)
    counts.uns["scvibridge"] = {"kind": "other"}
    with pytest.raises(ValueError, match="is 'other'"):
        function(counts)


# -- columns -----------------------------------------------------------------------------------

MISSING = "missing"

COLUMNS = {
    "factor": ("factor", ["b", MISSING, "a", "b"]),
    "ordered": ("factor", ["low", "high", MISSING, "low"]),
    "integer levels": ("factor", ["10", "9", "10", "2"]),
    "logical levels": ("factor", ["TRUE", "FALSE", "TRUE", "TRUE"]),
    "bool": ("logical", [True, False, True, True]),
    "nullable_bool": ("logical", [True, MISSING, False, True]),
    "object_bool": ("logical", [True, MISSING, False, True]),
    "int64": ("integer", [0, 1, 2, 3]),
    "int8": ("integer", [-3, -2, -1, 0]),
    "uint32": ("integer", [0, 1, 2, 3]),
    "beyond_int": ("double", [2.0**31, 2.0**31 + 1, 2.0**31 + 2, 2.0**31 + 3]),
    "at_na_integer": ("double", [-(2.0**31), 1.0, 2.0, 3.0]),
    "beyond_double": ("character", [str(2**53 + 1 + i) for i in range(4)]),
    "nullable_int": ("integer", [1, MISSING, 3, 4]),
    "nullable_uint8": ("integer", [1, MISSING, 3, 4]),
    "double": ("double", [0.1, MISSING, np.inf, -1e300]),
    "float32": ("double", [float(np.float32(0.1)), MISSING, 1.0, 2.0]),
    "nullable_float": ("double", [0.5, MISSING, 1.0, 2.0]),
    "text": ("character", ["x", "y", "NA", ""]),
    "text_none": ("character", ["x", MISSING, "é β", "z"]),
    "text_nan": ("character", ["x", MISSING, "y", "z"]),
    "text_nullable": ("character", ["x", MISSING, "y", "z"]),
    "all_missing": ("logical", [MISSING, MISSING, MISSING, MISSING]),
    "mixed": ("character", ["x", "1", "2.5", MISSING]),
    "time": ("time", [1577836800.0, MISSING, 1612324800.0, -31536000.0]),
    "row.names": ("double", [0.0, 1.0, 2.0, 3.0]),
    "check.names": ("double", [0.0, 2.0, 4.0, 6.0]),
    "odd name-1 (µ)": ("double", [0.0, 3.0, 6.0, 9.0]),
    "_scored": ("double", [0.0, 4.0, 8.0, 12.0]),
}


def contents(part):
    """The values of a column's part as R will have them."""
    values = list(part["values"])
    if part["kind"] in ("factor", "character"):
        values = [part["levels"][int(v) - 1] for v in values]
    if part["kind"] == "logical":
        values = [bool(v) for v in values]
    for position in part["missing"]:
        values[position - 1] = MISSING
    return values


def test_every_odd_column_has_an_expectation():
    assert list(COLUMNS) == list(odd_result.odd_columns())


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_keep_kind_values_and_missing(name):
    part = columns.column(pd.Series(odd_result.odd_columns(4)[name]))
    kind, expected = COLUMNS[name]
    assert part["kind"] == kind
    assert contents(part) == expected
    floats = kind in ("double", "time")
    assert part["values"].dtype == (np.float64 if floats else np.int32)
    assert part["missing"].dtype == np.int32


def test_factors_keep_the_order_of_levels_and_unused_ones():
    columns = odd_result.odd_columns()
    assert column(pd.Series(columns["factor"]))["levels"] == ["b", "a", "unused"]
    assert column(pd.Series(columns["integer levels"]))["levels"] == ["10", "9", "2"]
    assert not column(pd.Series(columns["factor"]))["ordered"]
    assert column(pd.Series(columns["ordered"]))["ordered"]


def test_levels_that_agree_as_text_are_refused():
    values = pd.Series(pd.Categorical([1, "1"]), name="ambiguous")
    with pytest.raises(ValueError, match=r"'ambiguous'.*not distinct as text"):
        columns.column(values)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**31 - 1, "integer"),
        (-(2**31) + 1, "integer"),
        (-(2**31), "double"),
        (2**53, "double"),
        (2**53 + 1, "character"),
        (2**70, "character"),
    ],
)
def test_whole_numbers_are_never_rounded(value, kind):
    part = columns.column(pd.Series([value, 0]))
    assert part["kind"] == kind
    assert int(contents(part)[0]) == value


@pytest.mark.skipif(Version(pd.__version__) < Version("2.3"), reason="there it needs pyarrow")
def test_text_of_pandas_3_is_text():
    with pd.option_context("future.infer_string", True):  # what pandas 3 does of itself
        values = pd.Series(["x", None, "é"])
        categorical = values.astype("category")
    assert values.dtype != object
    assert contents(columns.column(values)) == ["x", MISSING, "é"]
    assert columns.column(values)["kind"] == "character"
    assert columns.column(categorical)["levels"] == ["x", "é"]


def test_times_with_a_zone_are_the_same_moments():
    moments = pd.Series(pd.to_datetime(["2020-01-01 01:00"]).tz_localize("Europe/Paris"))
    assert contents(columns.column(moments)) == [1577836800.0]


def test_duplicated_column_names_stay():
    table = pd.DataFrame([[1, 2.5]], columns=["twice", "twice"])
    parts = columns.table_columns(table)
    assert [(p["name"], p["kind"]) for p in parts] == [("twice", "integer"), ("twice", "double")]


def test_empty_columns():
    for dtype in ("int64", "float64", "bool", "object", "category", "Int8"):
        assert len(columns.column(pd.Series([], dtype=dtype))["values"]) == 0


# -- settings ----------------------------------------------------------------------------------


def as_python(part):
    """A setting's part as plain Python, the way R will read it."""
    if part["kind"] == "null":
        return None
    if part["kind"] == "list":
        items = [as_python(item) for item in part["items"]]
        return dict(zip(part["names"], items, strict=True)) if part["names"] else items
    return contents(part)


def test_settings_become_vectors_and_nested_lists():
    settings = {
        "text": "a",
        "none": None,
        "flag": True,
        "whole": 3,
        "large": 2**40,
        "number": 2.5,
        "texts": ["a", "b"],
        "numbers": (1, 2),
        "empty": [],
        "array": np.array(["x"], dtype=object),
        "matrix": np.array([[1, 2], [3, 4]]),
        "nested": {"deeper": {"a": [1.5, None]}},
    }
    assert as_python(columns.nested(settings)) == {
        "text": ["a"],
        "none": None,
        "flag": [True],
        "whole": [3],
        "large": [2.0**40],
        "number": [2.5],
        "texts": ["a", "b"],
        "numbers": [1, 2],
        "empty": [],
        "array": ["x"],
        "matrix": [[1, 2], [3, 4]],
        "nested": {"deeper": {"a": [1.5, MISSING]}},
    }
    assert columns.nested([])["kind"] == "character"


def test_a_result_read_back_from_its_file_hands_over_the_same(counts, tmp_path):
    # What h5ad cannot hold as it is (see the columns' kinds) is none of the hand-over's business.
    counts.obs = counts.obs[["factor", "ordered", "nullable_bool", "nullable_int", "double"]].copy()
    path = h5ad.write_h5ad(counts, tmp_path / "counts.h5ad")
    read = ad.read_h5ad(path)
    before, after = to_r.frame(counts), to_r.frame(read)
    for part, other in zip(assays_of(counts).values(), assays_of(read).values(), strict=True):
        np.testing.assert_array_equal(rebuilt(part), rebuilt(other))
    for key in ("obs", "var", "reductions"):
        assert [p["name"] for p in before[key]] == [p["name"] for p in after[key]]
        for one, other in zip(before[key], after[key], strict=True):
            for entry in one:
                np.testing.assert_array_equal(one[entry], other[entry])
    assert as_python(before["provenance"]) == as_python(after["provenance"])
