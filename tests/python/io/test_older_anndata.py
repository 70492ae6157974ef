"""What is written is in encodings that the oldest anndata that is supported can read."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import streamed
import zarr

from scvibridge.io import h5ad

# What anndata 0.11.0 reads, by its own registry, without "nullable-string-array", which R's readers
# of h5ad files do not know.
READ_BY_ALL = {
    "anndata",
    "array",
    "awkward-array",
    "bytes",
    "categorical",
    "csc_matrix",
    "csr_matrix",
    "dataframe",
    "dict",
    "nullable-boolean",
    "nullable-integer",
    "numeric-scalar",
    "raw",
    "rec-array",
    "string",
    "string-array",
}

VERSION = tuple(map(int, pd.__version__.split(".")[:2]))


def encodings(root):
    """Return the encodings of all groups and arrays, by name."""
    found = {name: entry[0].get("encoding-type") for name, entry in streamed.contents(root).items()}
    return {name: encoding for name, encoding in found.items() if encoding is not None}


@pytest.fixture(params=["objects", "strings"])
def text(request):
    """Text in either type: pandas 3 has its own, which pandas 2 makes only with pyarrow."""
    if request.param == "strings" and VERSION < (2, 3):
        pytest.skip("pandas before 2.3 has no such text")
    with pd.option_context("future.infer_string", request.param == "strings"):
        yield


@pytest.mark.usefixtures("text")
@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_results(tmp_path, ending):
    path = streamed.run(tmp_path / f"x.{ending}", streamed.plan_of(50, 20, 20))
    root = h5py.File(path) if ending == "h5ad" else zarr.open_group(path, mode="r")
    found = encodings(root)
    assert set(found.values()) <= READ_BY_ALL
    assert {"obs/_index", "var/_index"} <= set(found)
    assert "raw" not in found
    # scipy 1.11 selects rows only where both index arrays have the same type.
    read = ad.read_h5ad(path) if ending == "h5ad" else ad.read_zarr(path)
    some = read[[3, 1]].copy()
    np.testing.assert_array_equal(some.X.toarray(), read.X.toarray()[[3, 1]])


@pytest.mark.usefixtures("text")
def test_tables_of_all_types(tmp_path):
    obs = pd.DataFrame(
        {
            "text": ["a", "b", "c"],
            "some text": pd.array(["a", None, "c"], dtype="string"),
            "all text": pd.array(["a", "b", "c"], dtype="string"),
            "kinds of text": pd.Categorical(pd.array(["a", "b", None], dtype="string")),
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "true": pd.array([True, None, False], dtype="boolean"),
            "kind": pd.Categorical(["x", "y", None]),
        },
        index=pd.Index(["c0", "c1", "c2"]),
    )
    adata = ad.AnnData(np.ones((3, 2), dtype=np.float32), obs=obs)
    adata.uns["scvibridge"] = {"setting": None, "names": ["a", "b"]}
    h5ad.write_h5ad(adata, tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad") as root:
        found = encodings(root)
    assert set(found.values()) <= READ_BY_ALL
    assert {f"obs/{name}" for name in obs} <= set(found)
    read = ad.read_h5ad(tmp_path / "x.h5ad").obs
    assert read["some text"].isna().tolist() == [False, True, False]
    assert read["text"].tolist() == ["a", "b", "c"]
