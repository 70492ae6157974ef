"""Results as objects of R, from Python (``scvibridge.r``).

R runs inside Python through rpy2, which is imported, and R started, by the first call only. The
objects are assembled by the same R code as in the R package, which the Python package carries: the
R package itself need not be installed.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge import handover
from scvibridge.files import check_output, replacing

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData

__all__ = ["check_available", "sce_to_seurat", "to_sce", "to_seurat", "write_rds"]

# The files of the R package that build objects; they use neither reticulate nor its other files.
R_FILES = (
    "check_requires.R",
    "collect_conditions.R",
    "assemble.R",
    "seurat_assays.R",
    "as_seurat.R",
)
# Read by R when it starts: vectors in bytes, other objects by number. Those of the user come first.
R_HEAP = {"R_VSIZE": "512M", "R_NSIZE": "8M"}
OBJECT_KINDS = ("sce", "seurat")

RObject = Any  # of rpy2, which is imported late and has no types


def to_sce(adata: AnnData) -> RObject:
    """Give a result as R's SingleCellExperiment.

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
        rpy2, anndata2ri, R itself or an R package is missing; the message says what to install.
    TypeError, ValueError
        `adata` is no result of scvibridge, or holds more values than a matrix of R can.
    """
    check_available("sce")
    matrices = handover.assays(adata)
    frame = handover.frame(adata)
    names = {key: _text(frame.pop(key)) for key in ("genes", "cells")}
    assays = {
        name: _matrix(handover.genes_by_cells(matrix), **names) for name, matrix in matrices.items()
    }
    return _call("assemble_sce", _to_r({**frame, **names}), _named_list(assays))


def to_seurat(adata: AnnData) -> RObject:
    """Give a result as a Seurat v5 object.

    Parameters
    ----------
    adata
        As for :func:`to_sce`.

    Returns
    -------
    rpy2 object of R class Seurat. Assays: ``RNA`` (raw counts, the default assay); ``corrected``
    (counts, and LogNormalize of those counts as ``data``); ``scvi_normalized`` or
    ``scvi_denoised`` (log1p as ``data``, for plots); reduction ``scvi``. Gene names lose ``_`` and
    ``|``, which Seurat does not allow; the originals are in the feature metadata
    (``original_name``).

    Raises
    ------
    ImportError, TypeError, ValueError
        As for :func:`to_sce`.
    """
    return sce_to_seurat(to_sce(adata))


def sce_to_seurat(sce: RObject) -> RObject:
    """Give a SingleCellExperiment of R as a Seurat v5 object, as :func:`to_seurat` does."""
    return _call("as_seurat", sce)


def write_rds(adata: AnnData, path: str | PathLike[str], as_: str = "sce") -> Path:
    """Write a result as an R object that R's ``readRDS()`` reads.

    Parameters
    ----------
    adata
        As for :func:`to_sce`.
    path
        The file, ending in ``.rds``. It is written under a temporary name in the same folder and
        then renamed.
    as_
        ``"sce"`` or ``"seurat"``.

    Returns
    -------
    Path of the file.

    Raises
    ------
    ValueError
        `as_` is another kind, or the path has another ending.
    FileNotFoundError, NotADirectoryError, PermissionError
        The folder does not exist, is none or cannot be written to.
    ImportError, TypeError
        As for :func:`to_sce`.
    """
    _check_kind(as_)
    path = check_output(path, (".rds",), "path")
    check_available(as_)
    value = to_sce(adata) if as_ == "sce" else to_seurat(adata)
    with replacing(path) as temporary:
        _call("saveRDS", value, str(temporary))
    return path


def check_available(as_: str = "sce") -> None:
    """Check, before any work, that R and its packages for an object are there.

    Parameters
    ----------
    as_
        ``"sce"`` or ``"seurat"``.

    Raises
    ------
    ImportError
        As for :func:`to_sce`.
    ValueError
        `as_` is another kind.
    """
    _check_kind(as_)
    _call("check_object_packages", as_)


def _check_kind(as_: str) -> None:
    if as_ not in OBJECT_KINDS:
        raise ValueError(f"as_ must be 'sce' or 'seurat', got {as_!r}")


# -- R inside Python ---------------------------------------------------------------------------


@functools.cache
def _rpy2() -> tuple[Any, Any]:
    """Import rpy2.robjects and anndata2ri, which starts R."""
    try:
        with _roomy_heap():
            robjects = importlib.import_module("rpy2.robjects")
        return robjects, importlib.import_module("anndata2ri")
    except ImportError as error:
        name = getattr(error, "name", None) or "rpy2"
        raise ImportError(
            f"scvibridge.r needs the Python package {name.partition('.')[0]}: "
            'pip install "scvibridge[r]"'
        ) from error
    except Exception as error:  # rpy2 raises several kinds where it finds no R
        raise ImportError(
            f"scvibridge.r needs R (4.5 or later), which could not be started: {error}. "
            "Install R and see that the command R is on the PATH (or that R_HOME is set)"
        ) from error


@contextmanager
def _roomy_heap() -> Iterator[None]:
    """Let an R that starts here fill these amounts before it collects its garbage.

    With Bioconductor loaded a collection takes a good part of a second, and R with its defaults
    would run some forty of them while it loads and one for most large vectors.
    """
    added = {name: size for name, size in R_HEAP.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _rinterface() -> Any:
    _rpy2()
    return importlib.import_module("rpy2.rinterface")


@functools.cache
def _r_functions() -> RObject:
    """Make the R environment that holds the functions of `R_FILES`."""
    robjects, _ = _rpy2()
    environment = robjects.r["new.env"](parent=robjects.globalenv)
    source = robjects.r["sys.source"]
    for name in R_FILES:
        source(str(_r_folder() / name), envir=environment)
    return environment


def _r_folder() -> Path:
    """Find the folder of the R code: inside an installed package, or in the checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "_R", here.parents[2] / "R"):
        if (folder / R_FILES[0]).is_file():
            return folder
    raise ImportError("scvibridge was installed without its R code: reinstall it with pip")


def _call(function: str, *arguments: object) -> RObject:
    """Call a function of R; what it says arrives as warnings here, and its error as an error."""
    robjects, _ = _rpy2()
    functions = _r_functions()
    with robjects.default_converter.context():
        outcome = functions["collect_conditions"](functions.find(function), *arguments)
        for note in outcome.rx2("notes"):
            warnings.warn(str(note), UserWarning, stacklevel=_level_of_caller())
        message, kind = (str(outcome.rx2(name)[0]) for name in ("error", "error_class"))
        if message:
            error = ImportError if kind == "scvibridge_missing_package" else RuntimeError
            raise error(message)
        return outcome.rx2("value")


def _level_of_caller() -> int:
    """Find the `stacklevel` at which a warning names the code that called this module."""
    level, frame = 0, sys._getframe(1)  # noqa: SLF001
    while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    return level + 1


def _to_r(value: object) -> RObject:
    """Give parts as R objects: dictionaries and lists as lists, arrays as vectors and matrices."""
    robjects, anndata2ri = _rpy2()
    with (robjects.default_converter + anndata2ri.converter).context() as context:
        return _convert(value, context)


def _convert(value: object, context: RObject) -> RObject:
    rinterface = _rinterface()
    if isinstance(value, Mapping):
        return _named_list({key: _convert(entry, context) for key, entry in value.items()})
    if isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            return _text(value)
        return rinterface.ListSexpVector([_convert(entry, context) for entry in value])
    if isinstance(value, np.ndarray):
        return _vector(value) if value.ndim == 1 else context.py2rpy(value)
    if isinstance(value, rinterface.sexp.Sexp):
        return value
    scalars = {str: rinterface.StrSexpVector, bool: rinterface.BoolSexpVector}
    return scalars.get(type(value), rinterface.IntSexpVector)([value])


def _named_list(items: Mapping[str, RObject]) -> RObject:
    rinterface = _rinterface()
    values = rinterface.ListSexpVector(list(items.values()))
    values.names = rinterface.StrSexpVector(list(items))
    return values


def _text(values: list[str]) -> RObject:
    """Give text as a character vector, split by R: rpy2 makes elements one by one."""
    rinterface = _rinterface()
    joined = "".join(f"{value}\n" for value in values)
    if not values or joined.count("\n") > len(values):
        return rinterface.StrSexpVector(values)
    whole = rinterface.StrSexpVector([joined])
    return rinterface.baseenv["strsplit"](whole, "\n", fixed=True)[0]


# -- matrices ----------------------------------------------------------------------------------
#
# Numbers are written into vectors that R has allocated: no copy is made on the way, and each
# large vector more would let R collect its garbage, which takes longer than the writing.


def _matrix(part: handover.Parts, genes: RObject, cells: RObject) -> RObject:
    """Give one matrix, genes x cells, as R's dgCMatrix or dense matrix of doubles."""
    if "values" in part:
        values = _call("empty_matrix", genes, cells)
        _fill(values, part["values"])
        return values
    numbers = _vector(part["data"], integer=False)
    rows, pointers = _vector(part["indices"]), _vector(part["indptr"])
    return _call("sparse_matrix", rows, pointers, numbers, genes, cells)


def _vector(values: np.ndarray, integer: bool = True) -> RObject:
    """Give an array of one dimension as R's integer or double vector."""
    rinterface = _rinterface()
    if values.dtype == np.int32 and integer:
        return rinterface.IntSexpVector.from_memoryview(np.ascontiguousarray(values).data)
    vector = rinterface.baseenv["numeric"](float(len(values)))
    _fill(vector, values)
    return vector


def _fill(target: RObject, values: np.ndarray) -> None:
    if values.size:
        np.copyto(np.asarray(target.memoryview()), values)
