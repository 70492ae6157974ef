"""The hand-over to R: a result becomes plain parts that R assembles.

The parts are dictionaries, lists, text and numpy arrays, nothing else, so that reticulate and rpy2
turn them into the same R objects. `R/assemble.R` makes a SingleCellExperiment of them: one
assembly, used from both languages.

A cells x genes CSR matrix *is* the genes x cells compressed-column matrix of R (a dgCMatrix): its
three vectors are handed over as they are, without a transposition. Dense matrices go over as
float64, genes x cells, in column order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvibridge.files import PROVENANCE_KEY

Parts = dict[str, Any]
Matrix = Any  # dense or sparse, of numpy or scipy; or a DataFrame, in obsm

R_MAX_INTEGER = 2**31 - 1
EXACT_IN_DOUBLE = 2**53
N_MATRIX_AXES = 2

# What X holds, by the kind of result, and the names of the layers in R.
ASSAY_OF_KIND = {
    "corrected_counts": "corrected",
    "normalized_expression": "normalized",
    "denoised_expression": "denoised",
}
ASSAY_OF_LAYER = {"raw_counts": "counts"}

# Names that Bioconductor's packages give to reduced dimensions; others only lose their "X_".
REDUCTION_NAMES = {"X_pca": "PCA", "X_tsne": "TSNE", "X_umap": "UMAP"}


def parts(adata: AnnData) -> Parts:
    """Take a result apart into what R needs to assemble a SingleCellExperiment.

    Parameters
    ----------
    adata
        A result of :func:`corrected_counts`, :func:`normalized_expression` or
        :func:`denoised_expression`, also one read back from a file. It is not changed.

    Returns
    -------
    dict with ``cells`` and ``genes`` (names), ``assays`` (matrices, the raw counts first),
    ``obs`` and ``var`` (columns; the matrices of varm are among those of ``var``), ``reductions``
    (matrices, cells x dimensions) and ``provenance``.

    Raises
    ------
    TypeError
        `adata` is not an AnnData.
    ValueError
        It is not a result of scvibridge, or a sparse matrix has more nonzero values than one
        sparse matrix of R can hold.
    """
    assay_name = _name_of_x(adata)
    if adata.isbacked:
        adata = adata.to_memory()
    return {
        "cells": list(map(str, adata.obs_names)),
        "genes": list(map(str, adata.var_names)),
        "assays": _assays(adata, assay_name),
        "obs": table_columns(adata.obs),
        "var": [*table_columns(adata.var), *_matrices(adata.varm)],
        "reductions": [
            {**part, "name": _reduction_name(part["name"])} for part in _matrices(adata.obsm)
        ],
        "provenance": nested(adata.uns[PROVENANCE_KEY]),
    }


def _name_of_x(adata: AnnData) -> str:
    if not isinstance(adata, AnnData):
        raise TypeError(f"expected an AnnData made by scvibridge, got {type(adata).__name__}")
    provenance = adata.uns.get(PROVENANCE_KEY)
    kind = provenance.get("kind") if isinstance(provenance, Mapping) else None
    if kind not in ASSAY_OF_KIND:
        raise ValueError(
            f"this AnnData is no result of scvibridge: uns[{PROVENANCE_KEY!r}]['kind'] is "
            f"{kind!r}, expected {', '.join(map(repr, ASSAY_OF_KIND))}; make one with "
            "corrected_counts(), normalized_expression() or denoised_expression()"
        )
    return ASSAY_OF_KIND[kind]


def _assays(adata: AnnData, name_of_x: str) -> list[Parts]:
    # anndata 0.13 lists X among the layers too, under None.
    layers = {key: matrix for key, matrix in adata.layers.items() if key is not None}
    matrices = [(name_of_x, adata.X)]
    matrices += [(ASSAY_OF_LAYER.get(key, key), matrix) for key, matrix in layers.items()]
    names = [name for name, _ in matrices]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two matrices would be the assay {name!r} in R; rename one of the layers "
                f"{', '.join(map(repr, layers))}"
            )
    # R's count-based tools take the first assay where none is named.
    matrices.sort(key=lambda named: named[0] != "counts")
    return [{"name": name, **genes_by_cells(x, name)} for name, x in matrices]


# -- matrices ----------------------------------------------------------------------------------


def genes_by_cells(matrix: Matrix, name: str) -> Parts:
    """Give a cells x genes matrix as the parts of the genes x cells matrix in R.

    Returns
    -------
    dict, for a sparse matrix ``indptr`` and ``indices`` (int32), ``data`` (float64), ``n_rows``
    and ``n_columns``; for a dense one ``values`` (float64, genes x cells, column order).
    """
    if sp.issparse(matrix):
        return _compressed_columns(matrix.T, name)
    return _dense(np.asarray(matrix).T)


def _compressed_columns(matrix: Matrix, name: str) -> Parts:
    check_nonzeros(matrix.nnz, name)
    columns = matrix.tocsc()  # the same vectors where the caller's CSR was transposed
    if not columns.has_canonical_format:
        columns = columns.copy()  # its vectors may be the caller's
        columns.sum_duplicates()
    n_rows, n_columns = columns.shape
    return {
        "indptr": columns.indptr.astype(np.int32, copy=False),
        "indices": columns.indices.astype(np.int32, copy=False),
        "data": columns.data.astype(np.float64, copy=False),
        "n_rows": n_rows,
        "n_columns": n_columns,
    }


def _dense(matrix: np.ndarray) -> Parts:
    return {"values": np.asfortranarray(matrix, dtype=np.float64)}


def check_nonzeros(n_nonzeros: int, name: str) -> None:
    """Check that a sparse matrix fits R's dgCMatrix, whose column pointers are 32-bit.

    Raises
    ------
    ValueError
        There are more than 2^31 - 1 nonzero values; the message names the way over the disk.
    """
    if n_nonzeros <= R_MAX_INTEGER:
        return
    raise ValueError(
        f"{name} has {n_nonzeros:,} nonzero values, but one sparse matrix in R's memory holds at "
        f"most 2^31 - 1 = {R_MAX_INTEGER:,}. Write the result to disk instead, as .h5ad (read in R "
        "with HDF5Array::H5ADMatrix()) or as a 10x .h5 file (HDF5Array::TENxMatrix()), "
        "or hand over fewer cells or genes at a time"
    )


def _reduction_name(key: str) -> str:
    return REDUCTION_NAMES.get(key, key.removeprefix("X_"))


def _matrices(entries: Mapping[str, Matrix]) -> list[Parts]:
    """Give the entries of obsm or varm that hold numbers; R has no place for others there."""
    return [
        {"name": str(key), "kind": "matrix", **_matrix(value)}
        for key, value in entries.items()
        if _is_numeric(value)
    ]


def _is_numeric(value: Matrix) -> bool:
    if isinstance(value, pd.DataFrame):
        return all(pd.api.types.is_numeric_dtype(dtype) for dtype in value.dtypes)
    is_table = len(getattr(value, "shape", ())) == N_MATRIX_AXES
    return is_table and (sp.issparse(value) or np.asarray(value).dtype.kind in "biuf")


def _matrix(value: Matrix) -> Parts:
    if isinstance(value, pd.DataFrame):
        numbers = value.to_numpy(dtype=np.float64, na_value=np.nan)
        return {**_dense(numbers), "columns": list(map(str, value.columns))}
    return _dense(value.toarray() if sp.issparse(value) else np.asarray(value))


# -- columns -----------------------------------------------------------------------------------
#
# pandas2ri (and so anndata2ri 2.0.1) is not used for columns. With rpy2 3.6 it refuses categories
# that are not text, uint32, int64 beyond 2^31 and Float32 columns; S4Vectors' DataFrame(), as
# anndata2ri calls it, changes names ("odd name" becomes "odd.name") and takes a column called
# "row.names" or "check.names" for its own argument; and every column is given the cells' names
# once more, element by element.


def table_columns(table: pd.DataFrame) -> list[Parts]:
    """Give the columns of a table, each as :func:`column` does, with its ``name``."""
    return [{"name": str(name), **column(values)} for name, values in table.items()]


def column(values: pd.Series) -> Parts:
    """Give one column as R's kind of vector.

    Returns
    -------
    dict with ``kind`` (``"factor"``, ``"logical"``, ``"integer"``, ``"double"``, ``"character"``
    or ``"time"``), ``values`` (int32 or float64; for factors and text the number of the level,
    from 1) and ``missing`` (int32, the positions of the missing values, from 1). Factors and text
    have ``levels``, factors also ``ordered``. Whole numbers that R's 32-bit integers cannot hold
    go over as doubles, and as text where a double would round them.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _factor(values)
    if pd.api.types.is_bool_dtype(values.dtype):
        return _logical(values)
    if pd.api.types.is_integer_dtype(values.dtype):
        return _integer(values)
    if pd.api.types.is_float_dtype(values.dtype):
        return _double(values)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return _time(values)
    return _of_objects(values)


def _of_objects(values: pd.Series) -> Parts:
    """Give a column of text or of Python objects as what those that are not missing are."""
    content = pd.api.types.infer_dtype(values, skipna=True)
    if content == "empty":
        return _logical(values.astype("boolean"))
    if content == "boolean":
        return _logical(values.astype("boolean"))
    if content == "integer" and all(abs(v) <= EXACT_IN_DOUBLE for v in values.dropna()):
        return _integer(values.astype("Int64"))
    if content in ("floating", "mixed-integer-float"):
        return _double(values.astype("Float64"))
    return _character(values)


def _with_missing(kind: str, values: np.ndarray, missing: np.ndarray, **more: object) -> Parts:
    positions = (np.flatnonzero(missing) + 1).astype(np.int32)
    return {"kind": kind, "values": values, "missing": positions, **more}


def _factor(values: pd.Series) -> Parts:
    levels = list(map(str, values.cat.categories))
    if len(set(levels)) < len(levels):
        raise ValueError(
            f"column {values.name!r}: its categories {list(values.cat.categories)} are not "
            "distinct as text, but levels of an R factor are text: rename or merge them"
        )
    codes = values.cat.codes.to_numpy(dtype=np.int32)
    ordered = bool(values.cat.ordered)
    return _with_missing("factor", codes + 1, codes < 0, levels=levels, ordered=ordered)


def _logical(values: pd.Series) -> Parts:
    missing = values.isna().to_numpy()
    return _with_missing("logical", values.fillna(value=False).to_numpy(dtype=np.int32), missing)


def _integer(values: pd.Series) -> Parts:
    missing = values.isna().to_numpy()
    numbers = values.fillna(0).to_numpy()
    low, high = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    largest = max(-low, high)
    if largest > EXACT_IN_DOUBLE:
        return _character(values)
    # -2^31 is R's NA_integer_.
    if largest > R_MAX_INTEGER:
        return _with_missing("double", numbers.astype(np.float64), missing)
    return _with_missing("integer", numbers.astype(np.int32), missing)


def _double(values: pd.Series) -> Parts:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return _with_missing("double", numbers, values.isna().to_numpy())


def _time(values: pd.Series) -> Parts:
    """Give points in time as seconds since 1970 (UTC; a time without a zone is taken as UTC)."""
    utc = values.dt.tz_localize("UTC") if values.dt.tz is None else values.dt.tz_convert("UTC")
    seconds = (utc - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return _with_missing("time", seconds.to_numpy(dtype=np.float64), values.isna().to_numpy())


def _character(values: pd.Series) -> Parts:
    missing = values.isna().to_numpy()
    text = [v if isinstance(v, str) else str(v) for v in values[~missing]]
    present, levels = pd.factorize(np.array(text, dtype=object))
    codes = np.zeros(len(values), dtype=np.int32)
    codes[~missing] = present + 1
    return _with_missing("character", codes, missing, levels=list(levels))


# -- provenance --------------------------------------------------------------------------------


def nested(value: object) -> Parts:
    """Give a setting, a list or a dictionary of settings as a tree with columns at its leaves.

    A list of plain values is one vector in R; None is NULL.
    """
    if value is None:
        return {"kind": "null"}
    if isinstance(value, Mapping):
        items = [nested(entry) for entry in value.values()]
        return {"kind": "list", "names": list(map(str, value)), "items": items}
    if isinstance(value, pd.DataFrame):
        return {
            "kind": "table",
            "columns": table_columns(value),
            "rows": list(map(str, value.index)),
        }
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not _is_list(value):
        return column(pd.Series([value]))
    if any(_is_list(entry) or isinstance(entry, Mapping) for entry in value):
        return {"kind": "list", "names": [], "items": [nested(entry) for entry in value]}
    return column(pd.Series(list(value))) if value else _character(pd.Series([], dtype=object))


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
