"""R inside Python, through rpy2: starting R, calling its functions, and converting values.

rpy2 and anndata2ri are imported only here, by the first call.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import user_warnings
from scvibridge._utils.wording import printable

if TYPE_CHECKING:
    from scvibridge.r import columns


# The files of the R package that build objects and split them; they do not use reticulate or other
# files of the package.
R_FILES = (
    "errors.R",
    "python_conditions.R",
    "counts_aligned.R",
    "python_text.R",
    "seurat_versions.R",
    "python_results.R",
    "seurat_metadata.R",
    "seurat_assays.R",
    "as_seurat.R",
    "counts_of_object.R",
    "counts_of_seurat.R",
    "python_vectors.R",
    "counts_of_result.R",
    "records_of_results.R",
    "marks_of_results.R",
    "result_pieces.R",
    "left_out.R",
    "unchanged_matrices.R",
)

# Read by R at startup: vectors in bytes, other objects by number. The user's settings take
# precedence.
R_HEAP = {"R_VSIZE": "512M", "R_NSIZE": "8M"}

# Python exceptions and warnings for R's conditions, by class.
_ERRORS = {"scvibridge_missing_package": ImportError, "scvibridge_error": ValueError}

RObject = Any  # of rpy2, which has no type annotations


@functools.cache
def _rpy2() -> tuple[Any, Any]:
    """Import rpy2.robjects and anndata2ri, which starts R."""
    try:
        with _roomy_heap():
            from rpy2 import robjects
        import anndata2ri
    except ImportError as error:
        name = getattr(error, "name", None) or "rpy2"
        raise ImportError(
            f"scvibridge.r needs the Python package {name.partition('.')[0]}: "
            'pip install "scvibridge[r]"'
        ) from error
    except Exception as error:  # rpy2 raises several types if it finds no R
        raise ImportError(
            f"scvibridge.r needs R (4.4 or later), which could not be started: {error}. Install R "
            "and make sure that the command R is on the PATH (or that R_HOME is set)"
        ) from error
    return robjects, anndata2ri


@contextmanager
def _roomy_heap() -> Iterator[None]:
    """Set how much memory an R started here may fill before it collects garbage.

    With Bioconductor loaded, a garbage collection takes a large fraction of a second; with its
    defaults R would run about forty while it starts and one for most large vectors.
    """
    added = {name: size for name, size in R_HEAP.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def rinterface() -> Any:
    """Return rpy2's module of R types, with R started."""
    _rpy2()
    from rpy2 import rinterface

    return rinterface


@functools.cache
def _r_functions() -> RObject:
    """Build the R environment that contains the functions of `R_FILES`."""
    robjects, _ = _rpy2()
    with robjects.default_converter.context():
        environment = robjects.r["new.env"](parent=robjects.globalenv)
        source = robjects.r["sys.source"]
        for name in R_FILES:
            source(str(_r_folder() / name), envir=environment)
    return environment


def _r_folder() -> Path:
    """Find the folder of the R code: inside an installed package, or in the checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "_R", here.parents[3] / "R"):
        if (folder / R_FILES[0]).is_file():
            return folder
    raise ImportError("scvibridge was installed without its R code: reinstall it with pip")


def call(function: str, *arguments: object, **named: object) -> RObject:
    """Call an R function; its messages become warnings, its error an exception."""
    robjects, _ = _rpy2()
    functions = _r_functions()
    with robjects.default_converter.context():
        outcome = functions["collect_conditions"](functions.find(function), *arguments, **named)
        for note in dict.fromkeys(outcome.rx2("notes")):
            text = printable(note, keep="\n")
            user_warnings.warn(text)
        message, kind = (str(outcome.rx2(name)[0]) for name in ("error", "error_class"))
        if message:
            raise _ERRORS.get(kind, RuntimeError)(printable(message, keep="\n"))
        return outcome.rx2("value")


def to_r(value: object) -> RObject:
    """Convert to R objects: dictionaries and lists to lists, arrays to vectors and matrices."""
    robjects, anndata2ri = _rpy2()
    with (robjects.default_converter + anndata2ri.converter).context() as context:
        return _convert(value, context)


def _convert(value: object, context: RObject) -> RObject:
    types = rinterface()
    if isinstance(value, Mapping):
        return named_list({key: _convert(entry, context) for key, entry in value.items()})
    if isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            return text(value)
        return types.ListSexpVector([_convert(entry, context) for entry in value])
    if isinstance(value, np.ndarray):
        return _vector(value) if value.ndim == 1 else context.py2rpy(value)
    if isinstance(value, types.sexp.Sexp):
        return value
    scalars = {str: types.StrSexpVector, bool: types.BoolSexpVector}
    return scalars.get(type(value), types.IntSexpVector)([value])


def named_list(items: Mapping[str, RObject]) -> RObject:
    """Build a named R list from R objects."""
    types = rinterface()
    values = types.ListSexpVector(list(items.values()))
    values.names = types.StrSexpVector(list(items))
    return values


def text(values: list[str]) -> RObject:
    """Convert strings to a character vector, split by R: rpy2 converts elements one by one."""
    types = rinterface()
    joined = "".join(f"{value}\n" for value in values)
    if not values or joined.count("\n") > len(values):
        return types.StrSexpVector(values)
    whole = types.StrSexpVector([joined])
    return types.baseenv["strsplit"](whole, "\n", fixed=True)[0]


# -- R values ----------------------------------------------------------------------------------


def is_r_object(value: object) -> bool:
    """Return whether a value is an rpy2 object; without rpy2, which is required for one, say so."""
    return isinstance(value, rinterface().sexp.Sexp)


def vectors_in_python(vectors: RObject) -> dict[str, Any]:
    """Convert the vectors from R/python_vectors.R to the form that `assemble_anndata` expects.

    Numeric arrays are views of R's memory: they are valid as long as `vectors` exists, and must not
    be written to.
    """
    robjects, _ = _rpy2()
    with robjects.default_converter.context():
        return {name: _taken(name, vectors.rx2(name)) for name in vectors.names}


def _taken(name: str, value: RObject) -> Any:
    if name == "counts":
        return {part: _numbers(value.rx2(part)) for part in value.names}
    if name == "matrices":
        return {place: _taken("counts", value.rx2(place)) for place in value.names}
    return _converted(value)


def _converted(value: RObject) -> Any:
    """Convert a list to a dictionary or a list, and a vector as reticulate does.

    Vectors with dimensions become arrays; other vectors of length one become single values.
    """
    types = rinterface()
    if value.typeof == types.RTYPES.NILSXP:
        return None
    if value.typeof == types.RTYPES.VECSXP:
        entries = [_converted(entry) for entry in value]
        named = value.names.typeof != types.RTYPES.NILSXP
        return dict(zip(value.names, entries, strict=True)) if named else entries
    is_text = value.typeof == types.RTYPES.STRSXP
    values = np.array(_texts(value), dtype=object) if is_text else _numbers(value)
    return values if "dim" in value.list_attrs() else values.item()


def _numbers(vector: RObject) -> np.ndarray:
    types = rinterface()
    values = np.asarray(vector.memoryview()) if len(vector) else np.zeros(_shape(vector))
    # A mask marks missing booleans.
    return values.astype(bool) if vector.typeof == types.RTYPES.LGLSXP else values


def _shape(vector: RObject) -> tuple[int, ...]:
    return tuple(vector.do_slot("dim")) if "dim" in vector.list_attrs() else (len(vector),)


def _texts(vector: RObject) -> list[str | None]:
    """Convert a character vector to strings, joined by R: rpy2 reads elements one by one."""
    base = rinterface().baseenv
    vector = base["enc2utf8"](vector)
    if not base["anyNA"](vector)[0]:
        texts = base["paste"](vector, collapse="\n")[0].split("\n")
        if len(texts) == len(vector):
            return texts
    missing = base["is.na"](vector)
    return [None if gone else str(text) for text, gone in zip(vector, missing, strict=True)]


# -- matrices ----------------------------------------------------------------------------------
#
# Numbers are written into vectors that R has allocated: no copy is made on the way, and each
# large vector more would let R collect its garbage, which takes longer than the writing.


def matrix(part: columns.Parts, genes: RObject, cells: RObject) -> RObject:
    """Convert one matrix, genes x cells, to an R dgCMatrix or dense matrix of doubles."""
    if "values" in part:
        values = call("empty_matrix", genes, cells)
        _fill(values, part["values"])
        return values
    numbers = _vector(part["data"], integer=False)
    rows, pointers = _vector(part["indices"]), _vector(part["indptr"])
    return call("sparse_matrix", rows, pointers, numbers, genes, cells)


def _vector(values: np.ndarray, integer: bool = True) -> RObject:
    """Convert a one-dimensional array to an R integer or double vector."""
    types = rinterface()
    if values.dtype == np.int32 and integer:
        return types.IntSexpVector.from_memoryview(np.ascontiguousarray(values).data)
    vector = types.baseenv["numeric"](float(len(values)))
    _fill(vector, values)
    return vector


def _fill(target: RObject, values: np.ndarray) -> None:
    if values.size:
        np.copyto(np.asarray(target.memoryview()), values)
