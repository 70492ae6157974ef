"""Convert a result to plain parts that R assembles.

The parts consist only of dictionaries, lists, text and numpy arrays, so that reticulate and rpy2
convert them to the same R objects. `R/python_results.R` builds a SingleCellExperiment from them:
the same code for both languages. Matrices are passed one after the other; those on disk are only
read then.

A cells x genes CSR matrix *is* the genes x cells compressed-column matrix of R (a dgCMatrix): its
three vectors are passed unchanged, without a transposition, and so are the values of a dense
matrix.
"""

from __future__ import annotations

from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset

from scvibridge._utils import r_classes
from scvibridge._utils.sparse_structure import check_structure
from scvibridge.expression.results import PROTEIN_KEY
from scvibridge.io.h5ad import PROVENANCE_KEY
from scvibridge.io.unchanged import check_unchanged, kind_of_result
from scvibridge.r import columns
from scvibridge.r.columns import Parts, nested, table_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

Matrix = Any  # dense or sparse, of numpy or scipy; or a DataFrame, in obsm

N_MATRIX_AXES = 2

# Content of X by kind of result, and the names of the layers in R.
ASSAY_OF_KIND = {
    "corrected_counts": "corrected",
    "normalized_expression": "normalized",
    "denoised_expression": "denoised",
}

ASSAY_OF_LAYER = {"raw_counts": "counts"}

# Names that Bioconductor packages use for reduced dimensions; others only lose their "X_".
REDUCTION_NAMES = {"X_pca": "PCA", "X_tsne": "TSNE", "X_umap": "UMAP"}


def frame(adata: AnnData) -> Parts:
    """Return everything in a result except its matrices: the rest of a SingleCellExperiment.

    Parameters
    ----------
    adata
        A result of :func:`corrected_counts`, :func:`normalized_expression` or
        :func:`denoised_expression`, possibly read back from a file or with matrices on disk. It is
        not changed.

    Returns
    -------
    dict with ``cells`` and ``genes`` (names), ``obs`` and ``var`` (columns; the matrices of varm
    are among those of ``var``), ``reductions`` (matrices, cells x dimensions), ``proteins`` (their
    normalized values, at most one matrix) and ``provenance``.

    Raises
    ------
    TypeError
        If `adata` is not an AnnData.
    ValueError
        If it is not a result of scvibridge.
    """
    _name_of_x(adata)
    return {
        "cells": list(map(str, adata.obs_names)),
        "genes": list(map(str, adata.var_names)),
        "obs": table_columns(adata.obs, r_classes.class_of(adata.uns, "obs")),
        "var": [
            *table_columns(adata.var, r_classes.class_of(adata.uns, "var")),
            *_matrices(adata.varm),
        ],
        "reductions": _reductions(adata),
        "proteins": _proteins(adata),
        "provenance": nested(adata.uns[PROVENANCE_KEY]),
    }


def assay_layers(adata: AnnData) -> dict[str, str | None]:
    """Return the names of a result's matrices in R, the raw counts first.

    Returns
    -------
    dict of the name in R to that of the layer, None for ``X``.

    Raises
    ------
    TypeError, ValueError
        As for :func:`frame`; or if two matrices would have the same name.
    """
    names: list[tuple[str, str | None]] = [(_name_of_x(adata), None)]
    # anndata 0.13 also lists X among the layers, under None.
    layers = [key for key in adata.layers if key is not None]
    names += [(ASSAY_OF_LAYER.get(key, key), key) for key in layers]
    # By default, R's count-based tools use the first assay.
    names.sort(key=lambda named: named[0] != "counts")
    found = dict(names)
    if len(found) < len(names):
        twice = next(name for name in found if [n for n, _ in names].count(name) > 1)
        raise ValueError(
            f"two matrices would become the assay {twice!r} in R; rename one of the layers "
            f"{', '.join(map(repr, layers))}"
        )
    return found


def assays(adata: AnnData) -> dict[str, Matrix]:
    """Return the matrices of a result by their names in R.

    They are cells x genes and unread, possibly on disk: :func:`genes_by_cells` reads one.

    Raises
    ------
    TypeError, ValueError
        As for :func:`assay_layers` and :func:`scvibridge.io.unchanged.check_unchanged`.
    """
    found = {
        name: adata.X if layer is None else adata.layers[layer]
        for name, layer in assay_layers(adata).items()
    }
    check_unchanged(adata)
    return found


def _name_of_x(adata: AnnData) -> str:
    if not isinstance(adata, AnnData):
        raise TypeError(f"expected an AnnData returned by scvibridge, got {type(adata).__name__}")
    return ASSAY_OF_KIND[kind_of_result(adata)]


# -- matrices ----------------------------------------------------------------------------------


def genes_by_cells(matrix: Matrix) -> Parts:
    """Convert a cells x genes matrix to the components of the genes x cells matrix in R.

    Returns
    -------
    dict, for a sparse matrix ``indptr`` and ``indices`` (int32; ``indptr`` is int64 if there are
    more nonzeros than R's integers can count), ``data``, ``n_rows`` and ``n_columns``; for a dense
    one ``values`` (genes x cells, in column order if the matrix is in row order). Numbers keep
    their type: R needs doubles, which are best converted at their destination. Memory is
    shared with `matrix` where possible.
    """
    if hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory()
    if sp.issparse(matrix):
        check_structure(matrix, "a matrix of the result")
        return _compressed_columns(matrix.T)
    return {"values": np.asarray(matrix).T}


def _compressed_columns(matrix: Matrix) -> Parts:
    compressed = matrix.tocsc()  # the same vectors if the caller's CSR was transposed
    if not compressed.has_canonical_format:
        compressed = compressed.copy()  # its vectors may be the caller's
        compressed.sum_duplicates()
    n_rows, n_columns = compressed.shape
    small = compressed.nnz <= columns.R_MAX_INTEGER
    return {
        "indptr": compressed.indptr.astype(np.int32 if small else np.int64, copy=False),
        "indices": compressed.indices.astype(np.int32, copy=False),
        "data": compressed.data,
        "n_rows": n_rows,
        "n_columns": n_columns,
    }


def check_fits(matrix: Matrix, name: str) -> None:
    """Check that a matrix, in memory or on disk, fits R's memory as :func:`check_nonzeros` does."""
    if isinstance(matrix, CSRDataset | CSCDataset):
        check_nonzeros(matrix.group["data"].shape[0], name)
    elif sp.issparse(matrix):
        check_nonzeros(matrix.nnz, name)


def check_nonzeros(n_nonzeros: int, name: str) -> None:
    """Check that a sparse matrix fits R's dgCMatrix, whose column pointers are 32-bit.

    Raises
    ------
    ValueError
        If there are more than 2^31 - 1 nonzero values; the message suggests leaving it on disk.
    """
    if n_nonzeros <= columns.R_MAX_INTEGER:
        return
    raise ValueError(
        f"{name} has {n_nonzeros:,} nonzero values, but one sparse matrix in R's memory holds at "
        f"most 2^31 - 1 = {columns.R_MAX_INTEGER:,}. Leave it on disk instead: write the result "
        'with out="x.h5ad" and open it in R with read_corrected("x.h5ad", backed = TRUE), '
        "or hand over fewer cells or genes at a time"
    )


def _proteins(adata: AnnData) -> list[Parts]:
    """Return the normalized values of proteins, cells x proteins, as a list of at most one item."""
    if PROTEIN_KEY not in adata.obsm:
        return []
    held = adata.uns[PROVENANCE_KEY]
    others = held.get("others", {})
    # As recorded_proteins() in R: a separate call may have added them.
    records = [held, *(others[key] for key in ("normalized", "denoised") if key in others)]
    names = next((list(map(str, r["proteins"])) for r in records if "proteins" in r), None)
    if names is None:
        return []
    values = pd.DataFrame(np.asarray(adata.obsm[PROTEIN_KEY]), columns=names)
    return [{"name": "proteins", "kind": "matrix", **_matrix(values)}]


def _reductions(adata: AnnData) -> list[Parts]:
    """Return the matrices of obsm, each with another name.

    If two would have the same name, the one whose key begins with ``X_`` has it, as the latent
    means of a result do, and the other one gets a suffix.
    """
    parts = [part for part in _matrices(adata.obsm) if part["name"] != PROTEIN_KEY]
    names: dict[str, str] = {}
    for key in sorted((part["name"] for part in parts), key=lambda key: not key.startswith("X_")):
        wanted = REDUCTION_NAMES.get(key, key.removeprefix("X_"))
        suffixed = (f"{wanted}_{number}" for number in count(1))
        names[key] = next(n for n in chain([wanted], suffixed) if n not in names.values())
    return [{**part, "name": names[part["name"]]} for part in parts]


def _matrices(entries: Mapping[str, Matrix]) -> list[Parts]:
    """Return the numeric entries of obsm or varm; R cannot store others there."""
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
    check_structure(value, "a table of the result")
    return _dense(value.toarray() if sp.issparse(value) else np.asarray(value))


def _dense(matrix: np.ndarray) -> Parts:
    return {"values": np.asfortranarray(matrix, dtype=np.float64)}
