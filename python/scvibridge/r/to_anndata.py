"""Convert R objects to AnnData, the inverse of `scvibridge.r.to_r`.

R splits a Seurat object or a SingleCellExperiment into vectors (R/counts_of_object.R). A genes x
cells compressed-column matrix of R *is* the cells x genes CSR matrix: its vectors are used
unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvibridge._utils import r_classes
from scvibridge._utils.progress import track
from scvibridge._utils.sparse_structure import check_vectors
from scvibridge.io.backed import open_anndata
from scvibridge.io.block_writer import write
from scvibridge.io.blocks import add_matrices
from scvibridge.io.h5ad import PROVENANCE_KEY, storable, writable, write_h5ad
from scvibridge.io.opened_files import check_not_source
from scvibridge.io.paths import check_output, replacing
from scvibridge.io.plan import Field, Plan
from scvibridge.io.raw_counts import ORIGIN_KEY, RAW_LAYER
from scvibridge.io.readback import check_readable
from scvibridge.io.storage import check_content
from scvibridge.io.unchanged import check_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def fit_to_model(
    adata: AnnData,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    modalities: Sequence[Mapping[str, Any]] = (),
) -> AnnData:
    """Move counts from ``X`` to where a model reads them, with the model's gene names.

    Parameters
    ----------
    adata
        Cells by genes, raw counts in ``X``. It is not changed.
    genes
        New names of its genes; unchanged if None.
    layer
        The layer that the model reads; ``X`` if None.
    modalities
        Counts of proteins or regions of the same cells: the ``key`` in ``obsm`` that the model
        reads, ``n`` of them, and ``counts``, vectors of a CSR matrix, cells x n. With ``names``,
        they become a DataFrame, which scvi-tools aligns by name.

    Returns
    -------
    AnnData that shares the counts.
    """
    var = adata.var.copy()
    if genes is not None:
        var.index = list(genes)
    obsm = dict(adata.obsm)
    for part in modalities:
        counts = csr_matrix(part["counts"], int(part["n"]))
        names = part.get("names")
        if names is not None:
            counts = pd.DataFrame(counts.toarray(), index=adata.obs_names, columns=list(names))
        obsm[part["key"]] = counts
    uns = dict(adata.uns)
    if layer is not None and ORIGIN_KEY in uns:
        uns[ORIGIN_KEY] = {**uns[ORIGIN_KEY], "slot": layer}
    tables = {"obs": adata.obs, "var": var, "obsm": obsm, "uns": uns}
    if layer is None:
        return AnnData(adata.X, **tables)
    return AnnData(layers={layer: adata.X}, **tables)


Parts = dict[str, Any]

# Settings that are lists, which R converts to a single value if they have one entry.
_LISTS = frozenset({"batches", "targets", "proteins", "transform_batch", "notes"})


def assemble_anndata(counts: Mapping[str, np.ndarray], tables: Mapping[str, Any]) -> AnnData:
    """Build an AnnData from what R returns.

    Parameters
    ----------
    counts
        The vectors ``data``, ``indices`` and ``indptr`` of a CSR matrix, cells x genes.
    tables
        As for :func:`without_counts`.

    Returns
    -------
    AnnData with ``X`` = counts, float32 if that is exact: reticulate cannot convert a sparse matrix
    of integers to R.
    """
    adata = without_counts(tables)
    # Copies, because only R's thread may release R's memory.
    values = narrowed(counts["data"], (np.float32, np.int32))
    adata.X = csr_matrix(counts, adata.n_vars, values)
    return adata


def assemble_result(
    counts: Mapping[str, np.ndarray],
    tables: Mapping[str, Any],
    raw: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
    normalized: np.ndarray | None = None,
) -> AnnData:
    """Rebuild the AnnData that :func:`scvibridge.corrected_counts` returned from its R form.

    Parameters
    ----------
    counts, tables
        Corrected counts and their tables, as for :func:`assemble_anndata`.
    raw
        The raw counts of the same genes and cells, like `counts`.
    provenance
        How the counts were computed. R does not distinguish a list of one entry from the entry, so
        such lists arrive as single entries.
    normalized
        Normalized expression that belongs to them, genes x cells.
    """
    adata = assemble_anndata(counts, tables)
    adata.layers[RAW_LAYER] = csr_matrix(raw, adata.n_vars, narrowed(raw["data"]))
    if normalized is not None:
        adata.layers["normalized"] = np.array(normalized.T, dtype=np.float32, order="C")
    for name, values in adata.obsm.items():
        adata.obsm[name] = narrowed(values)
    adata.uns[PROVENANCE_KEY] = dict(provenance)
    return adata


def assemble_pieces(
    matrices: Mapping[str, Mapping[str, np.ndarray]],
    tables: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> AnnData:
    """Build an AnnData from a result in R, with all of its matrices.

    Parameters
    ----------
    matrices
        By their place in the AnnData (``"X"``, ``"layers/raw_counts"``): the vectors of a CSR
        matrix, cells x genes, or dense ``values``, genes x cells. Dense values become float32 if
        ``single`` says that they were computed so, or if that is exact, or else float64.
    tables
        As for :func:`without_counts`.
    provenance
        How the result was computed, as for :func:`assemble_result`.
    """
    adata = result_skeleton(tables, provenance)
    add_matrices(
        adata,
        {place: _as_matrix(part, adata.n_vars) for place, part in matrices.items()},
    )
    return adata


def result_skeleton(tables: Mapping[str, Any], provenance: Mapping[str, Any]) -> AnnData:
    """Build the AnnData of a result in R without its matrices."""
    adata = without_counts(tables)
    for name, values in adata.obsm.items():
        adata.obsm[name] = narrowed(values)
    adata.uns[PROVENANCE_KEY] = storable(_settings(provenance))
    return adata


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Restore settings kept by R, with lists where R has converted one entry to a single value."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            covariates = name == "transform_covariates"
            found[name] = (
                {key: _listed(v) for key, v in value.items()} if covariates else (_settings(value))
            )
        else:
            found[name] = _listed(value) if name in _LISTS else value
    return found


def _listed(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return list(value.tolist())
    return list(value) if isinstance(value, list | tuple) else [value]


def _as_matrix(part: Mapping[str, np.ndarray], n_genes: int) -> sp.csr_matrix | np.ndarray:
    if "values" in part:
        values = _dense(part)
        narrow = values.dtype == np.float64 and fits(values, np.float32)
        return values.astype(np.float32) if narrow else values
    return csr_matrix(part, n_genes, narrowed(part["data"]))


def _dense(part: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return dense values, cells x genes: single precision only if they were computed so."""
    dtype = np.float32 if "single" in part and np.all(part["single"]) else np.float64
    return np.array(part["values"].T, dtype=dtype, order="C")


def csr_matrix(
    counts: Mapping[str, np.ndarray], n_genes: int, data: np.ndarray | None = None
) -> sp.csr_matrix:
    """Convert R vectors to a matrix, cells x genes, in Python's memory.

    `data` replaces R's values, and is not copied.
    """
    indptr = np.array(counts["indptr"])
    values = np.array(counts["data"]) if data is None else data
    shape = (len(indptr) - 1, n_genes)
    indices = np.array(counts["indices"])
    check_vectors(values, indices, indptr, shape, "the matrix of counts")
    return sp.csr_matrix((values, indices, indptr), shape=shape)


def narrowed(values: np.ndarray, dtypes: Sequence[Any] = (np.int32, np.float32)) -> np.ndarray:
    """Return a copy in the first of some types that is exact for all values, or else float64."""
    for dtype in dtypes:
        with np.errstate(invalid="ignore", over="ignore"):
            copy = values.astype(dtype)
        if (copy == values).all():
            return copy
    return values.copy()


def fits(values: np.ndarray, dtype: type) -> bool:
    """Return whether a type can hold all the numbers exactly; missing ones are equal."""
    with np.errstate(invalid="ignore", over="ignore"):
        cast: np.ndarray = values.astype(dtype)
        return bool(((cast == values) | (np.isnan(cast) & np.isnan(values))).all())


def without_counts(tables: Mapping[str, Any]) -> AnnData:
    """Build an AnnData of the tables only.

    Parameters
    ----------
    tables
        Names of the ``cells`` and ``genes``; the columns of ``obs`` and ``var``, each a dict as
        returned by R/python_vectors.R; ``obsm``, dicts of ``name`` and ``values``; and ``origin``,
        the location of the counts in an R object.
    """
    cells, genes = _names(tables["cells"]), _names(tables["genes"])
    obs, obsm = _table(tables["obs"], cells)
    var, varm = _table(tables["var"], genes)
    obsm |= {part["name"]: np.array(part["values"], order="C") for part in tables["obsm"]}
    origin = tables.get("origin")
    uns = r_classes.found_in({"obs": tables["obs"], "var": tables["var"]})
    if origin is not None:
        uns[ORIGIN_KEY] = dict(origin)
    return AnnData(obs=obs, var=var, obsm=obsm, varm=varm, uns=uns)


def _names(names: np.ndarray) -> pd.Index:
    # pandas' string type, which an empty index would not get.
    return pd.Index([str(name) for name in names], dtype=None if len(names) else object)


def _table(columns: Sequence[Parts], names: pd.Index) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the columns that are vectors as a table, and those that are matrices."""
    matrices = {c["name"]: np.array(c["values"], order="C") for c in columns if _is_matrix(c)}
    vectors = {c["name"]: _column(c) for c in columns if not _is_matrix(c)}
    return pd.DataFrame(vectors, index=names), matrices


def _is_matrix(column: Parts) -> bool:
    return bool(column["kind"] == "matrix")


def _column(column: Parts) -> Any:
    values = np.array(column["values"])
    if column["kind"] == "factor":
        levels = [str(level) for level in column["levels"]]
        return pd.Categorical.from_codes(values, levels, ordered=column["ordered"])
    if "missing" not in column:
        return values
    missing = np.array(column["missing"], dtype=bool)
    if column["kind"] == "logical":
        return pd.arrays.BooleanArray(values.astype(bool), missing)
    return pd.arrays.IntegerArray(np.where(missing, 0, values).astype(np.int32), missing)


# -- files -------------------------------------------------------------------------------------


def check_new(path: str, overwrite: bool, sources: Sequence[str] = ()) -> None:
    """Check that an h5ad file can be written, and that no file is replaced unless requested.

    Parameters
    ----------
    path
        The file.
    overwrite
        Whether an existing file may be replaced.
    sources
        Files from which R reads what will be written.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is False.
    TypeError, ValueError, OSError
        As for :func:`scvibridge.io.paths.check_output`.
    """
    check_not_source(Path(path), sources)
    check_output(path, (".h5ad",), "path", overwrite=overwrite)


def write_anndata(adata: AnnData | str, path: str, overwrite: bool) -> None:
    """Write an AnnData, in memory or from another file, to an h5ad file.

    Raises
    ------
    ValueError
        If it is a result that was changed in place.
    """
    check_not_source(Path(path), adata)
    data = open_anndata(adata) if isinstance(adata, str) else adata
    if PROVENANCE_KEY in data.uns:
        check_unchanged(data)
    write_h5ad(data, path, overwrite=overwrite)


def write_blocks(
    tables: Mapping[str, Any],
    read: Callable[[int, int], Mapping[str, Mapping[str, np.ndarray]]],
    path: str,
    block_size: int,
    progress: bool,
    overwrite: bool,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write counts, or a result, to an h5ad file, in blocks of cells.

    Parameters
    ----------
    tables
        As for :func:`without_counts`.
    read
        R function that returns the matrices of the cells from a position to before another, by
        their location, in the format of :func:`assemble_pieces`.
    path
        The h5ad file.
    block_size
        Number of cells in a block.
    progress
        Whether to show progress.
    overwrite
        Whether an existing file may be replaced.
    provenance
        How a result was computed; None for raw counts.
    """
    if provenance is None:
        tables_alone = without_counts(tables)
    else:
        tables_alone = result_skeleton(tables, provenance)
    check_content(tables_alone)
    skeleton = writable(tables_alone)
    n_cells = skeleton.n_obs
    starts = range(0, n_cells, block_size)
    slices = tuple(slice(start, min(start + block_size, n_cells)) for start in starts)

    def blocks(doing: str) -> Iterator[Mapping[str, sp.csr_matrix | np.ndarray]]:
        for cells in track(slices, doing, progress):
            parts = read(cells.start, cells.stop)
            yield {place: _block(part, skeleton.n_vars) for place, part in parts.items()}

    fields, lengths = _survey(blocks("Reading counts"), skeleton.n_vars)
    plan = Plan(n_cells, slices, tuple(fields), {})
    dtypes = {field.name: field.dtype for field in fields}
    written = (
        {place: matrix.astype(dtypes[place]) for place, matrix in block.items()}
        for block in blocks("Writing counts")
    )
    target = check_output(path, (".h5ad",), "path", overwrite=overwrite)
    with replacing(target, overwrite=overwrite) as temporary:
        write(temporary, plan, skeleton, written, lengths)
        check_readable(temporary)


def _block(part: Mapping[str, np.ndarray], n_genes: int) -> sp.csr_matrix | np.ndarray:
    return _dense(part) if "values" in part else csr_matrix(part, n_genes)


class _Surveyed:
    """What is known about a matrix after reading all of its blocks once."""

    def __init__(self) -> None:
        self.lengths = [np.zeros(0, dtype=np.int64)]
        self.held = {np.int32: True, np.float32: True}
        self.is_sparse = True

    def add(self, matrix: sp.csr_matrix | np.ndarray) -> None:
        values = matrix
        if isinstance(matrix, np.ndarray):
            self.is_sparse = False
            self.held.pop(np.int32, None)
        else:
            self.lengths.append(np.diff(matrix.indptr))
            values = matrix.data
        self.held = {dtype: kept and fits(values, dtype) for dtype, kept in self.held.items()}

    def field(self, place: str, n_columns: int) -> Field:
        narrowest = next((dtype for dtype, kept in self.held.items() if kept), np.float64)
        return Field(place, self.is_sparse, np.dtype(narrowest), n_columns)


def _survey(
    blocks: Iterable[Mapping[str, sp.csr_matrix | np.ndarray]], n_columns: int
) -> tuple[list[Field], dict[str, np.ndarray]]:
    """Read all blocks once: the fields, with the narrowest types, and lengths of sparse rows."""
    found: dict[str, _Surveyed] = {}
    for block in blocks:
        for place, matrix in block.items():
            found.setdefault(place, _Surveyed()).add(matrix)
    fields = [surveyed.field(place, n_columns) for place, surveyed in found.items()]
    lengths = {
        place: np.concatenate(surveyed.lengths)
        for place, surveyed in found.items()
        if surveyed.is_sparse
    }
    return fields, lengths
