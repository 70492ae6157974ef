"""What of the tables of an AnnData can be stored, whatever the kind of file."""

from __future__ import annotations

import datetime as dt
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scvibridge as sb
from scvibridge.io import h5ad, storage

N_CELLS = 12
ENDINGS = (".h5ad", ".zarr")


def cells(**columns) -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"batch": np.repeat(["a", "b"], N_CELLS // 2), **columns},
        index=[f"c{i}" for i in range(N_CELLS)],
    )
    return ad.AnnData(sp.csr_matrix(rng.poisson(2.0, (N_CELLS, 5)).astype("f4")), obs=obs)


def repeated(*values):
    return pd.Series(list(values) * (N_CELLS // len(values)), dtype=object).to_numpy()


def days():
    return pd.date_range("2024-01-30", periods=N_CELLS)


CONVERTED = {
    "dates": (days(), days().strftime("%Y-%m-%d")),
    "in a time zone": (days().tz_localize("UTC"), [f"{d:%Y-%m-%d}T00:00:00+00:00" for d in days()]),
    "durations": (pd.to_timedelta([36] * N_CELLS, "h"), ["1 days 12:00:00"] * N_CELLS),
    "months": (days().to_period("M"), days().strftime("%Y-%m")),
    "objects": (repeated(dt.date(2024, 2, 3)), ["2024-02-03"] * N_CELLS),
    "cut": (pd.cut(np.arange(N_CELLS), [-1, 5, 11]), ["(-1, 5]"] * 6 + ["(5, 11]"] * 6),
    "categories of dates": (pd.Categorical(days()), days().strftime("%Y-%m-%d")),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", CONVERTED)
def test_times_and_intervals_become_text_with_a_note(kind, ending):
    values, expected = CONVERTED[kind]
    adata = cells(x=values)
    with pytest.warns(UserWarning, match=r"obs\['x'\] holds .* stored as text"):
        storage.check_tables(adata, ending)
    stored = written(adata, ending)
    assert list(stored.obs["x"].astype(str)) == list(expected)


SAME = {
    "missing numbers": (pd.array([1.5, None] * 6, dtype="Float64"), [1.5, np.nan] * 6),
    "short numbers": (pd.array([1.5] * N_CELLS, dtype="Float32"), [1.5] * N_CELLS),
    "sparse": (pd.arrays.SparseArray([0, 7] * 6), [0, 7] * 6),
    "objects of numbers": (repeated(1, 2.5, None), [1, 2.5, np.nan] * 4),
    "objects of whole numbers": (repeated(1, 2), [1, 2] * 6),
    "objects of truth values": (repeated(True, False), [True, False] * 6),
    "text": (pd.array(["a", "née"] * 6, dtype="string"), ["a", "née"] * 6),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", SAME)
def test_values_with_one_form_are_stored_as_they_are(kind, ending):
    values, expected = SAME[kind]
    stored = written(cells(x=values), ending).obs["x"]
    np.testing.assert_array_equal(stored.to_numpy(), np.array(expected))


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_values_stay_missing(ending):
    dates = pd.Series(days()).where(np.arange(N_CELLS) > 0).to_numpy()
    whole = pd.array([None, *range(1, N_CELLS)], dtype="Int64")
    flags = repeated(None, True)
    stored = written(cells(dates=dates, whole=whole, flags=flags, empty=repeated(None)), ending).obs
    assert stored["dates"].isna().tolist() == [True] + [False] * 11
    assert stored["whole"].isna().tolist() == [True] + [False] * 11
    assert stored["flags"].isna().tolist() == [True, False] * 6
    assert stored["empty"].isna().all()
    assert stored["whole"].iloc[1:].tolist() == list(range(1, N_CELLS))


def named(name, values=1.0):
    def change(adata):
        adata.obs[name] = values
        return adata

    return change


def twice(adata):
    adata.obs["y"], adata.obs["z"] = 1, 2
    adata.obs.columns = ["batch", "y", "y"]
    return adata


def nul_in_a_name(adata):
    adata.obs_names = ["c\0", *adata.obs_names[1:]]
    return adata


def in_obsm(key, value):
    def change(adata):
        adata.obsm[key] = value
        return adata

    return change


def table(**columns):
    return pd.DataFrame(columns, index=[f"c{i}" for i in range(N_CELLS)])


REFUSED = {
    "objects": (named("x", repeated(1, "a")), r"obs\['x'\] .* int, str"),
    "lists": (named("x", repeated([1])), r"obs\['x'\] .* list"),
    "text with NUL": (named("x", repeated("a\0b")), r"obs\['x'\] .* NUL"),
    "categories with NUL": (named("x", pd.Categorical(repeated("a\0b"))), r"obs\['x'\] .* NUL"),
    "half a character": (named("x", repeated("a\ud800")), r"obs\['x'\] .* Unicode"),
    "categories of tuples": (named("x", pd.Series(repeated((1, 2))).astype("category").to_numpy()),
                             r"obs\['x'\]"),
    "a tuple as name": (named(("a", "b")), r"obs\[\('a', 'b'\)\] .* tuple"),
    "a name with NUL": (named("a\0b"), r"obs\['a\\x00b'\] .* NUL"),
    "no name": (named(""), r"obs\[''\]"),
    "a reserved name": (named("_index", repeated("q")), r"obs\['_index'\] .* rename"),
    "a repeated name": (twice, r"obs\['y'\] .* more than one column 'y'"),
    "a number and its text": (lambda a: named("7")(named(7)(a)), r"more than one column '7'"),
    "a ratio": (named("CD4/CD8"), r"obs\['CD4/CD8'\] .* '/' in its name.*'CD4_CD8'"),
    "a leading slash": (named("/x"), r"obs\['/x'\]"),
    "names of cells": (nul_in_a_name, r"obs\.index .* NUL"),
    "a key with a slash": (in_obsm("a/b", np.ones((N_CELLS, 2))), r"obsm\['a/b'\]"),
    "a column of obsm": (in_obsm("t", table(x=repeated([1]))), r"obsm\['t'\]\['x'\] .* list"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*names are stored as text")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", REFUSED)
def test_the_rest_is_refused_by_name(kind, ending, tmp_path):
    change, message = REFUSED[kind]
    adata = change(cells())
    with pytest.raises(ValueError, match=message):
        storage.check_content(adata, ending)
    with pytest.raises(ValueError, match=message):
        h5ad.write_h5ad(adata, tmp_path / "x.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_names_that_have_one_form_are_kept(tmp_path):
    adata = cells()
    adata.obs["_index"] = adata.obs_names
    adata.obs[3] = 1.5
    adata.obs.index.name = "batch"
    adata.obsm["scores"] = pd.DataFrame(np.ones((N_CELLS, 2)), index=adata.obs_names)
    with pytest.warns(UserWarning, match="_index|gets the name") as caught:
        h5ad.write_h5ad(adata, tmp_path / "x.h5ad")
    notes = " ".join(str(warning.message) for warning in caught)
    assert "obs['_index'] repeats the names" in notes
    assert "obs[3] gets the name '3'" in notes
    read = ad.read_h5ad(tmp_path / "x.h5ad")
    assert list(read.obs.columns) == ["batch", "3"]
    assert list(read.obs_names) == list(adata.obs_names)
    assert list(read.obsm["scores"].columns) == ["0", "1"]
    assert list(adata.obs.columns) == ["batch", "_index", 3]  # the caller's


def test_too_many_columns_are_refused():
    adata = cells(**{f"score_{i}": 0.0 for i in range(5000)})
    with pytest.raises(ValueError, match=r"obs cannot be .*5001 columns are too many.*obsm"):
        storage.check_tables(adata)
    storage.check_tables(adata, ".zarr")


def test_r_takes_dates_but_no_nul():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        storage.check_tables(cells(x=days()), ".rds")
    with pytest.raises(ValueError, match=r"obs\['x'\] .* \.rds file .*NUL"):
        storage.check_tables(cells(x=repeated("a\0")), ".rds")
    with pytest.raises(ValueError, match=r"obs\['x'\] .* same text"):
        storage.check_tables(cells(x=pd.Categorical(repeated(1, "1"))), ".rds")


def written(adata, ending):
    """What anndata reads of what is stored."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / f"x{ending}"
        content = storage.storable_content(adata, ending)
        if ending == ".h5ad":
            h5ad.write_new_h5ad(content, path)
            return ad.read_h5ad(path)
        content.write_zarr(path)
        return ad.read_zarr(path)


# ---- through the functions -------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_streamed_result_has_them(trained_model, tmp_path, ending):
    data = trained_model.adata.copy()
    data.obs["taken"] = pd.Timestamp("2024-02-03")
    out = tmp_path / f"x{ending}"
    with pytest.warns(UserWarning, match=r"obs\['taken'\] holds dates, stored as text"):
        result = sb.denoised_expression(trained_model, data, out=out, progress=False)
    assert set(result.obs["taken"]) == {"2024-02-03"}
    data.obs["bad"] = [[1]] * data.n_obs
    with pytest.raises(ValueError, match=r"obs\['bad'\]"):
        sb.denoised_expression(trained_model, data, out=out, overwrite=True, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_columns_that_a_10x_file_does_not_hold_may_be_anything(trained_model, tmp_path):
    data = trained_model.adata.copy()
    data.obs["mixed"] = pd.Series([1, "x"] * 150, index=data.obs_names, dtype=object)
    data.obs["CD4/CD8"] = [[1]] * data.n_obs
    data.obs[3] = 1.0
    data.var["mixed"] = pd.Series([1, "x"] * 60, index=data.var_names, dtype=object)
    data.var["gene_ids"] = pd.Series([7, "ENSG1"] * 60, index=data.var_names, dtype=object)
    how = {"transform_batch": "V3", "progress": False}
    found = sb.corrected_counts(trained_model, data, out=tmp_path / "x.h5", **how)
    expected = sb.corrected_counts(trained_model, **how)
    assert (found.to_memory().X != expected.X).nnz == 0
    assert found.var["gene_ids"].tolist() == ["7", "ENSG1"] * 60
    assert found.uns["scvibridge"]["kind"] == "corrected_counts"
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    data.var.columns = ["gene_ids" if name == "mixed" else name for name in data.var.columns]
    with pytest.raises(ValueError, match="there is more than one column 'gene_ids'"):
        sb.corrected_counts(trained_model, data, out=tmp_path / "y.h5", **how)
