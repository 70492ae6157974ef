"""Convert results to R objects and back, from Python (``scvibridge.r``).

R runs inside Python through rpy2; the first call imports rpy2 and starts R. Objects are assembled
and read by the same R code as in the R package. That code is included in the Python package, so the
R package itself need not be installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvibridge._utils.arguments import check_types
from scvibridge.io.paths import check_input, check_output, replacing
from scvibridge.r import to_anndata
from scvibridge.r.session import (
    RObject,
    call,
    is_r_object,
    matrix,
    named_list,
    text,
    to_r,
    vectors_in_python,
)
from scvibridge.r.to_r import assays as assays_of
from scvibridge.r.to_r import check_fits, genes_by_cells
from scvibridge.r.to_r import frame as tables_of

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from anndata import AnnData


__all__ = [
    "check_available",
    "from_r",
    "read_rds",
    "read_result",
    "result_from_r",
    "sce_to_seurat",
    "to_sce",
    "to_seurat",
    "write_rds",
]

OBJECT_KINDS = ("sce", "seurat")


def to_sce(adata: AnnData) -> RObject:
    """Convert a result to an R SingleCellExperiment.

    Parameters
    ----------
    adata
        A result of :func:`scvibridge.corrected_counts`, :func:`scvibridge.normalized_expression`
        or :func:`scvibridge.denoised_expression`.

    Returns
    -------
    rpy2 object of R class SingleCellExperiment, genes x cells: assays ``counts`` (raw) and
    ``corrected``, ``normalized`` or ``denoised``, reducedDim ``scvi``, colData, rowData and the
    provenance in ``metadata(sce)$scvibridge``.

    Raises
    ------
    ImportError
        If rpy2, anndata2ri, R itself or an R package is missing; the message says what to install.
    TypeError, ValueError
        If `adata` is not a result of scvibridge, or has more values than an R matrix can hold.
    """
    check_available("sce")
    matrices = assays_of(adata)
    for name, values in matrices.items():
        check_fits(values, name)
    frame = tables_of(adata)
    names = {key: text(frame.pop(key)) for key in ("genes", "cells")}
    assays = {name: matrix(genes_by_cells(values), **names) for name, values in matrices.items()}
    return call("assemble_sce", to_r({**frame, **names}), named_list(assays))


def to_seurat(adata: AnnData) -> RObject:
    """Convert a result to a Seurat v5 object.

    Parameters
    ----------
    adata
        As for :func:`to_sce`.

    Returns
    -------
    rpy2 object of R class Seurat. Assays: ``RNA`` (raw counts, the default assay); ``corrected``
    (counts, with LogNormalize of those counts as ``data``); ``scvi_normalized`` or
    ``scvi_denoised`` (log1p as ``data``, for plots); reduction ``scvi``. ``_`` and ``|``, which
    Seurat does not allow, are replaced in gene names; the originals are in the feature metadata
    (``original_name``).

    Raises
    ------
    ImportError, TypeError, ValueError
        As for :func:`to_sce`.
    """
    return sce_to_seurat(to_sce(adata))


def sce_to_seurat(sce: RObject) -> RObject:
    """Convert an R SingleCellExperiment to a Seurat v5 object, as :func:`to_seurat` does."""
    return call("as_seurat", sce)


def write_rds(
    adata: AnnData, path: str | PathLike[str], as_: str = "sce", overwrite: bool = False
) -> Path:
    """Write a result as an R object to a file that R's ``readRDS()`` can read.

    Parameters
    ----------
    adata
        As for :func:`to_sce`.
    path
        The file, ending in ``.rds``. It is written under a temporary name in the same folder and
        then renamed.
    as_
        ``"sce"`` or ``"seurat"``.
    overwrite
        Whether to replace an existing file of that name.

    Returns
    -------
    Path of the file.

    Raises
    ------
    ValueError
        If `as_` is another kind, or the path has another extension.
    FileExistsError
        If the file exists and `overwrite` is False.
    FileNotFoundError, NotADirectoryError, PermissionError
        If the folder does not exist, is not a folder or is not writable.
    ImportError, TypeError
        As for :func:`to_sce`.
    """
    check_types(write_rds, locals())
    _check_kind(as_)
    path = check_output(path, (".rds",), "path", overwrite=overwrite)
    check_available(as_)
    value = to_sce(adata) if as_ == "sce" else to_seurat(adata)
    with replacing(path, overwrite=overwrite) as temporary:
        call("saveRDS", value, str(temporary))
    return path


def from_r(obj: RObject, assay: str | int | None = None, layer: str | None = None) -> AnnData:
    """Convert the counts of an R object to an AnnData, with its metadata and reductions.

    Same result as ``as_anndata()`` in R. A sparse genes x cells matrix in R is the same as a CSR
    matrix of cells x genes: its vectors are used unchanged, and copied once, into Python's memory.

    Parameters
    ----------
    obj
        rpy2 object of R class Seurat, SingleCellExperiment, SummarizedExperiment, or a matrix of
        genes x cells (dgCMatrix, other classes of the Matrix package, dense), with row and column
        names.
    assay
        Seurat: name of the assay, None for the default assay. SingleCellExperiment: name of the
        assay, or its number from 1 as in R, None for ``counts``.
    layer
        Seurat: name of the layer, None for ``counts``. Split layers are joined.

    Returns
    -------
    AnnData, cells x genes: ``X`` the counts (CSR; int32, or float32 or float64 if needed to keep
    them exact), ``obs`` and ``var`` the metadata (factors as categories, with all levels and their
    order), ``obsm`` the reductions (``X_pca``, ``X_umap``, ``X_tsne``, others such as ``scvi`` as
    ``X_scvi``). Columns with no equivalent in Python are left out, with a warning. Counts on disk
    are read into memory.

    Raises
    ------
    ImportError
        As for :func:`to_sce`; or the R package of the object's class is missing.
    TypeError
        If `obj` is not an R object, or `assay` or `layer` is not a name.
    ValueError
        If there is no such assay or layer (the message lists those available), the class of the
        object is not supported, counts are missing, or cell or gene names are missing or
        duplicated.
    """
    check_types(from_r, locals())
    if not is_r_object(obj):
        raise TypeError(f"obj must be an R object of rpy2, got {type(obj).__name__}")
    return _assembled(call("vectors_of_object", obj, **_where(assay, layer)))


def read_rds(
    path: str | PathLike[str], assay: str | int | None = None, layer: str | None = None
) -> AnnData:
    """Read an R object from an ``.rds`` file as an AnnData.

    An ``.rds`` file may contain code that R runs when it reads or uses the object. Read only files
    from sources that you trust.

    Parameters
    ----------
    path
        The file, written by R's ``saveRDS()``, with the extension ``.rds``.
    assay, layer
        As for :func:`from_r`.

    Returns
    -------
    As for :func:`from_r`.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ImportError, TypeError, ValueError
        As for :func:`from_r`; or the file was not written by R, or has another extension.
    """
    check_types(read_rds, locals())
    path = check_input(path, "path", (".rds",))
    return _assembled(call("vectors_of_rds", str(path), **_where(assay, layer)))


def result_from_r(obj: RObject) -> AnnData:
    """Convert a result in an R object back to the AnnData that was returned in Python.

    The inverse of :func:`to_sce` and :func:`to_seurat`, also for results computed in R.

    Parameters
    ----------
    obj
        rpy2 object of R class Seurat, SingleCellExperiment or SummarizedExperiment that holds a
        result of :func:`scvibridge.corrected_counts`, :func:`scvibridge.normalized_expression` or
        :func:`scvibridge.denoised_expression`.

    Returns
    -------
    AnnData, cells x genes: ``X`` the result, ``layers["raw_counts"]`` the raw counts, the other
    assays as layers, ``obs``, ``var``, ``obsm``, and the provenance in ``uns["scvibridge"]``.

    Raises
    ------
    ImportError
        As for :func:`to_sce`.
    TypeError
        If `obj` is not an R object.
    ValueError
        If it contains no result, or its counts were changed.
    """
    if not is_r_object(obj):
        raise TypeError(f"obj must be an R object of rpy2, got {type(obj).__name__}")
    return _assembled_result(call("vectors_of_result", obj))


def read_result(path: str | PathLike[str]) -> AnnData:
    """Read a result from an ``.rds`` file, as returned by :func:`result_from_r`.

    An ``.rds`` file may contain code that R runs when it reads or uses the object. Read only files
    from sources that you trust.

    Parameters
    ----------
    path
        The file, written by :func:`write_rds` or R's ``saveRDS()``, with the extension ``.rds``.

    Returns
    -------
    As for :func:`result_from_r`.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ImportError, TypeError, ValueError
        As for :func:`read_rds` and :func:`result_from_r`.
    """
    path = check_input(path, "path", (".rds",))
    return _assembled_result(call("vectors_of_result_rds", str(path)))


def _assembled_result(vectors: RObject) -> AnnData:
    return to_anndata.assemble_pieces(**vectors_in_python(vectors))


def _where(assay: object, layer: object) -> dict[str, object]:
    """Return the arguments that are not None, by their names in R."""
    given = {"assay": assay, "layer": layer}
    return {name: value for name, value in given.items() if value is not None}


def _assembled(vectors: RObject) -> AnnData:
    return to_anndata.assemble_anndata(**vectors_in_python(vectors))


def check_available(as_: str = "sce") -> None:
    """Check, before any work, that R and the packages needed for an object are installed.

    Parameters
    ----------
    as_
        ``"sce"`` or ``"seurat"``.

    Raises
    ------
    ImportError
        As for :func:`to_sce`.
    ValueError
        If `as_` is another kind.
    """
    check_types(check_available, locals())
    _check_kind(as_)
    call("check_object_packages", as_)


def _check_kind(as_: str) -> None:
    if as_ not in OBJECT_KINDS:
        raise ValueError(f"as_ must be 'sce' or 'seurat', got {as_!r}")
