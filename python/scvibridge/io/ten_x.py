"""Write counts as 10x Genomics HDF5 files, for Cell Ranger readers in R and Python."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scvibridge._utils.sparse_structure import check_structure
from scvibridge.io.h5ad import PROVENANCE_KEY, storable
from scvibridge.io.hdf5 import new_hdf5
from scvibridge.io.paths import check_output, replacing
from scvibridge.io.readback import check_readable
from scvibridge.io.row_reader import RowReader, with_rows
from scvibridge.io.storage import check_tables
from scvibridge.io.unchanged import check_unchanged

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    import anndata as ad
    import h5py
    import pandas as pd


def write_10x_h5(
    adata: ad.AnnData,
    path: str | os.PathLike[str],
    genome: str | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write counts to an HDF5 file in the format of Cell Ranger 3 and later.

    The format stores genes x cells, compressed by column: the three vectors of the cells x genes
    CSR matrix, unchanged. Seurat's ``Read10X_h5``, HDF5Array's ``TENxMatrix(path, "matrix")`` and
    scanpy's ``read_10x_h5`` read it. It holds only one matrix and the names: to keep the raw
    counts, ``obs`` and expression, use an h5ad or rds file. The provenance is stored as JSON in the
    root attribute ``scvibridge``.

    Parameters
    ----------
    adata
        X = counts (cells x genes, whole numbers). ``var["gene_ids"]``, ``var["feature_types"]`` and
        ``var["genome"]`` are used if present, named as in scanpy.
    path
        Path with the extension ``.h5``; checked by `check_output`, whose errors are raised.
    genome
        Name of the genome for all genes; ``"unknown"`` if `adata` has no genome either.
    overwrite
        Whether to replace an existing file of that name.

    Returns
    -------
    Path of the file.

    Raises
    ------
    ValueError
        If X contains values other than whole numbers >= 0.
    """
    path = check_output(path, (".h5",), "path", overwrite=overwrite)
    check_tables(adata, ".h5")
    if PROVENANCE_KEY in adata.uns:
        check_unchanged(adata)
    counts = _as_count_matrix(adata.X)
    with replacing(path, overwrite=overwrite) as temporary:
        with new_hdf5(temporary) as file:
            write_names(file, adata, genome)
            _write_counts(file["matrix"], counts)
        check_readable(temporary)
    return path


def write_names(file: h5py.File, adata: ad.AnnData, genome: str | None = None) -> None:
    """Write all of a 10x HDF5 file except the three vectors of the counts.

    Parameters
    ----------
    file
        An empty file.
    adata
        Cells, genes and provenance, as for `write_10x_h5`; its matrices are not used.
    genome
        As for `write_10x_h5`.
    """
    _write_root_attributes(file, adata)
    group = file.require_group("matrix")
    group["barcodes"] = _fixed_length(adata.obs_names)
    _write_features(group.create_group("features"), adata, genome)
    group["shape"] = np.array([adata.n_vars, adata.n_obs], dtype=np.int32)
    # Not part of the format: lets anndata read the group as a cells x genes matrix.
    group.attrs["encoding-type"] = "csr_matrix"
    group.attrs["encoding-version"] = "0.1.0"
    group.attrs["shape"] = [adata.n_obs, adata.n_vars]


def _as_count_matrix(matrix: Any) -> sp.csr_matrix:
    check_structure(matrix, "X")
    if not (isinstance(matrix, np.ndarray) or sp.issparse(matrix)):  # on disk
        matrix = RowReader(with_rows(matrix)).read(slice(0, matrix.shape[0]))
    counts = sp.csr_matrix(matrix)
    if not np.issubdtype(counts.dtype, np.integer):
        values = counts.data
        if not np.all(np.isfinite(values)) or np.any(values != np.floor(values)):
            raise ValueError(
                "a 10x HDF5 file contains counts, but X has values that are not whole numbers; "
                "write expression to an h5ad file"
            )
    if counts.nnz and counts.data.min() < 0:
        raise ValueError("a 10x HDF5 file contains counts, but X has negative values")
    if not counts.has_sorted_indices:
        counts = counts.sorted_indices()
    return counts


def _write_root_attributes(file: h5py.File, adata: ad.AnnData) -> None:
    file.attrs["filetype"] = "matrix"
    file.attrs["version"] = 2  # of the file format: Cell Ranger 3 and later
    if PROVENANCE_KEY in adata.uns:
        provenance = storable(adata.uns[PROVENANCE_KEY])
        file.attrs[PROVENANCE_KEY] = json.dumps(provenance, default=np.ndarray.tolist)


def _write_counts(group: h5py.Group, counts: sp.csr_matrix) -> None:
    arrays = {
        "data": (counts.data, np.int32),
        "indices": (counts.indices, np.int64),
        "indptr": (counts.indptr, np.int64),
    }
    for name, (values, dtype) in arrays.items():
        group.create_dataset(name, data=values.astype(dtype), compression="gzip", chunks=True)


def _write_features(group: h5py.Group, adata: ad.AnnData, genome: str | None) -> None:
    def column(name: str, default: str) -> Sequence[str]:
        values = adata.var[name].astype(str) if name in adata.var else [default] * adata.n_vars
        return list(values)

    has_identifiers = "gene_ids" in adata.var
    group["id"] = _fixed_length(adata.var["gene_ids"] if has_identifiers else adata.var_names)
    group["name"] = _fixed_length(adata.var_names)
    group["feature_type"] = _fixed_length(column("feature_types", "Gene Expression"))
    group["genome"] = _fixed_length(
        [genome] * adata.n_vars if genome is not None else column("genome", "unknown")
    )
    group["_all_tag_keys"] = _fixed_length(["genome"])


def _fixed_length(names: Sequence[str] | pd.Index | pd.Series) -> np.ndarray:
    """Return text as in the format: UTF-8 bytes of fixed length."""
    encoded = [str(name).encode("utf-8") for name in names]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1)}")
