"""Results whose columns, names and values are as odd as users' are; for both suites."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr

N_CELLS, N_GENES = 12, 7
EMPTY_CELL = 5


def odd_columns(n: int = N_CELLS) -> dict[str, object]:
    """Columns of every kind, each with its own trap; n must be a multiple of 4."""
    k = n // 4
    return {
        "factor": pd.Categorical(["b", None, "a", "b"] * k, categories=["b", "a", "unused"]),
        "ordered": pd.Categorical(["low", "high", None, "low"] * k, ["low", "high"], ordered=True),
        "integer levels": pd.Categorical([10, 9, 10, 2] * k, categories=[10, 9, 2]),
        "logical levels": pd.Categorical([True, False, True, True] * k),
        "bool": [True, False, True, True] * k,
        "nullable_bool": pd.array([True, None, False, True] * k, dtype="boolean"),
        "object_bool": np.array([True, None, False, True] * k, dtype=object),
        "int64": np.arange(n),
        "int8": np.arange(n, dtype="int8") - 3,
        "uint32": np.arange(n, dtype="uint32"),
        "beyond_int": np.arange(n) + 2**31,
        "at_na_integer": np.array([-(2**31), 1, 2, 3] * k),
        "beyond_double": np.arange(n) + 2**53 + 1,
        "nullable_int": pd.array([1, None, 3, 4] * k, dtype="Int64"),
        "nullable_uint8": pd.array([1, None, 3, 4] * k, dtype="UInt8"),
        "double": [0.1, np.nan, np.inf, -1e300] * k,
        "float32": np.array([0.1, np.nan, 1, 2] * k, dtype="float32"),
        "nullable_float": pd.array([0.5, None, 1.0, 2.0] * k, dtype="Float32"),
        "text": ["x", "y", "NA", ""] * k,
        "text_none": np.array(["x", None, "é β", "z"] * k, dtype=object),
        "text_nan": np.array(["x", np.nan, "y", "z"] * k, dtype=object),
        "text_nullable": pd.array(["x", None, "y", "z"] * k, dtype="string"),
        "all_missing": np.array([None] * n, dtype=object),
        "mixed": np.array(["x", 1, 2.5, None] * k, dtype=object),
        "time": pd.to_datetime(["2020-01-01T00", None, "2021-02-03T04", "1969-01-01T00"] * k),
        "row.names": np.arange(n) * 1.0,
        "check.names": np.arange(n) * 2.0,
        "odd name-1 (µ)": np.arange(n) * 3.0,
        "_scored": np.arange(n) * 4.0,
    }


def odd_counts(normalized: bool = True, seed: int = 0) -> ad.AnnData:
    """A result as of corrected_counts(), with names that Seurat renames and an empty cell."""
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(sparse_counts(rng), obs=cell_table(), var=gene_table())
    adata.layers["raw_counts"] = sparse_counts(rng)
    if normalized:
        adata.layers["normalized"] = rng.random((N_CELLS, N_GENES)).astype("float32")
    add_the_rest(adata, rng, "corrected_counts")
    return adata


def odd_expression(kind: str = "normalized_expression", raw: bool = True) -> ad.AnnData:
    """A result like that of normalized_expression() or denoised_expression()."""
    rng = np.random.default_rng(1)
    values = rng.random((N_CELLS, N_GENES)).astype("float32")
    adata = ad.AnnData(values, obs=cell_table(), var=gene_table())
    if raw:
        adata.layers["raw_counts"] = sparse_counts(rng)
    add_the_rest(adata, rng, kind)
    return adata


def add_odd_columns(adata: ad.AnnData) -> ad.AnnData:
    """The same AnnData with the odd columns added to its obs."""
    for name, values in odd_columns(adata.n_obs + 4 - adata.n_obs % 4).items():
        adata.obs[name] = pd.Series(values)[: adata.n_obs].set_axis(adata.obs_names)
    return adata


def sparse_counts(rng: np.random.Generator) -> sp.csr_matrix:
    counts = rng.poisson(1.2, (N_CELLS, N_GENES)).astype(np.int32)
    counts[EMPTY_CELL] = 0
    return sp.csr_matrix(counts)


def cell_table() -> pd.DataFrame:
    return pd.DataFrame(odd_columns(), index=[f"cell_{i}-1" for i in range(N_CELLS)])


def gene_table() -> pd.DataFrame:
    genes = ["a_b", "a-b", "HLA-A", "MT_CO1", "A|B", "β2m", "GENE"]
    columns = {
        "symbol": [f"S{i}" for i in range(N_GENES)],
        "scvibridge_low_detection": np.arange(N_GENES) % 3 == 0,
        "group": pd.Categorical(["u", "v", None, "u", "v", "u", "v"], categories=["v", "u"]),
    }
    return pd.DataFrame(columns, index=genes)


def add_the_rest(adata: ad.AnnData, rng: np.random.Generator, kind: str) -> None:
    adata.obsm["X_scvi"] = rng.normal(size=(N_CELLS, 3)).astype("float32")
    adata.obsm["X_umap"] = rng.normal(size=(N_CELLS, 2))
    adata.varm["detection"] = pd.DataFrame(
        rng.integers(9, size=(N_GENES, 2)), index=adata.var_names, columns=["V2", "V3"]
    )
    adata.uns["scvibridge"] = {
        "kind": kind,
        "transform_batch": ["V2", "V3"],
        "library_size": 1e4,
        "seed": 2**32 - 1,
        "zero_inflation": True,
        "notes": [],
        "labels_key": "cell_type",
        "nested": {"numbers": [1, 2, 3], "text": "a"},
    }


def write_zarr(adata: ad.AnnData, path: str) -> None:
    """Write a zarr folder; `AnnData.write_zarr` of anndata 0.11 makes categories of text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ad.io.write_elem(zarr.open_group(path, mode="w"), "/", adata)
