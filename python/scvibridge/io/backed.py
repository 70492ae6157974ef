"""AnnData with matrices on disk, and reading from these or any other matrices."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset

from scvibridge.io.h5ad import PROVENANCE_KEY, read_anndata, storable
from scvibridge.io.opened_zarr import open_zarr
from scvibridge.io.paths import READABLE_ENDINGS, check_input, explaining, is_zarr
from scvibridge.io.row_reader import is_dask
from scvibridge.io.sparse_files import check_matrices, check_stored

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path


__all__ = [
    "as_data_frame",
    "close_with_inputs",
    "closing_inputs",
    "names_in_mudata",
    "open_anndata",
    "open_input",
    "with_tables_in_memory",
]

OPENABLE_ENDINGS = (*READABLE_ENDINGS, ".h5")

_MATRICES = ("layers", "obsp", "varp")

_TABLES = ("obs", "var", "obsm", "varm", "uns")


# Closes what a function has opened as its input; None outside of one.
_inputs: ContextVar[ExitStack | None] = ContextVar("inputs", default=None)


@contextmanager
def closing_inputs() -> Iterator[None]:
    """Close the files that are opened by :func:`open_input` meanwhile, also after an error.

    Otherwise they would stay open as long as anything refers to them (the traceback of an error, or
    ``raw`` and its AnnData to each other), and HDF5 refuses to write to a file that is open.
    """
    with ExitStack() as opened:
        token = _inputs.set(opened)
        try:
            yield
        finally:
            _inputs.reset(token)


def close_with_inputs(close: Callable[[], object]) -> None:
    """Have something closed with the inputs; nothing happens outside of `closing_inputs`."""
    opened = _inputs.get()
    if opened is not None:
        opened.callback(close)


def open_input(path: str | os.PathLike[str]) -> ad.AnnData:
    """Open an AnnData as `open_anndata`, until the function that reads it ends."""
    return open_anndata(path, _inputs.get())


def open_anndata(path: str | os.PathLike[str], opened: ExitStack | None = None) -> ad.AnnData:
    """Open an AnnData whose matrices stay on disk.

    Parameters
    ----------
    path
        An h5ad file, a zarr folder, or a 10x HDF5 file written by scvibridge.
    opened
        Closes the file or folder when it ends, if not None.

    Returns
    -------
    AnnData with ``X``, ``layers``, ``obsp``, ``varp`` and ``raw.X`` on disk, everything else in
    memory. Subsets load what they select, ``.to_memory()`` loads everything. (A file in a format
    from before anndata 0.7 is loaded at once.)

    Raises
    ------
    TypeError, FileNotFoundError, IsADirectoryError, ValueError
        As for `scvibridge.io.h5ad.read_anndata`.
    """
    path = check_input(path, endings=OPENABLE_ENDINGS)
    with explaining(path):
        if path.suffix.lower() == ".h5":
            return _open_10x_h5(path)
        # Workers, and later reads, may have another working directory.
        place = path.absolute()
        root = open_zarr(place) if is_zarr(path) else h5py.File(place, "r")
        if opened is not None:
            opened.callback(root.close if isinstance(root, h5py.File) else root.store.release)
        if root.attrs.get("encoding-type") != "anndata":
            return read_anndata(path)
        check_stored(root)
        adata = _open_parts(root)
        check_matrices(adata, "")
        return adata


def names_in_mudata(path: str | os.PathLike[str]) -> pd.Index:
    """Read only the names of the cells from an h5mu file.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError
        As for `scvibridge.io.h5ad.read_mudata`.
    """
    path = check_input(path, endings=(".h5mu",))
    with explaining(path), h5py.File(path, "r") as root:
        check_stored(root)
        obs: pd.DataFrame = read_elem(root["obs"])
        return obs.index


def _open_parts(root: Any) -> ad.AnnData:
    parts: dict[str, Any] = {name: read_elem(root[name]) for name in _TABLES if name in root}
    for name in _MATRICES:
        if name in root:
            parts[name] = {key: _on_disk(root[name][key]) for key in root[name]}
    raw = _open_raw(root["raw"]) if "raw" in root and "X" in root["raw"] else None
    return ad.AnnData(_on_disk(root["X"]) if "X" in root else None, **parts, raw=raw)


def _open_raw(group: Any) -> dict[str, Any]:
    varm = read_elem(group["varm"]) if "varm" in group else {}
    return {"X": _on_disk(group["X"]), "var": read_elem(group["var"]), "varm": varm}


def _on_disk(element: Any) -> Any:
    """Return a matrix as anndata reads it from disk; read anything that is not a matrix."""
    encoding = element.attrs.get("encoding-type")
    if encoding in {"csr_matrix", "csc_matrix"}:
        return sparse_dataset(element)
    return element if encoding == "array" and element.ndim == 2 else read_elem(element)


def _open_10x_h5(path: Path) -> ad.AnnData:
    file = h5py.File(path, "r")
    group = file["matrix"]
    if "encoding-type" not in group.attrs:
        raise ValueError("scvibridge did not write it; scanpy.read_10x_h5() reads any 10x file")
    features = group["features"]
    columns = {"gene_ids": "id", "feature_types": "feature_type", "genome": "genome"}
    var = pd.DataFrame(
        {name: _text(features[key]) for name, key in columns.items()},
        index=_text(features["name"]),
    )
    obs = pd.DataFrame(index=_text(group["barcodes"]))
    provenance = file.attrs.get(PROVENANCE_KEY)
    uns = {} if provenance is None else {PROVENANCE_KEY: storable(json.loads(provenance))}
    return ad.AnnData(sparse_dataset(group), obs=obs, var=var, uns=uns)


def _text(dataset: h5py.Dataset) -> np.ndarray:
    return np.array([value.decode("utf-8") for value in dataset[:]], dtype=object)


def as_data_frame(table: Any) -> pd.DataFrame:
    """Load ``obs`` or ``var`` into memory, also from an AnnData that was read lazily."""
    return table.to_memory() if hasattr(table, "to_memory") else table


def with_tables_in_memory(adata: ad.AnnData) -> ad.AnnData:
    """Load ``obs``, ``var`` and ``obsm`` of an AnnData that was read lazily; return others."""
    if isinstance(adata.obs, pd.DataFrame):
        return adata
    layers = {name: values for name, values in adata.layers.items() if name is not None}
    raw = None if adata.raw is None else {"X": adata.raw.X, "var": as_data_frame(adata.raw.var)}
    return ad.AnnData(
        adata.X,
        obs=as_data_frame(adata.obs),
        var=as_data_frame(adata.var),
        obsm={key: _in_memory(values) for key, values in adata.obsm.items()},
        layers=layers,
        uns=dict(adata.uns),
        raw=raw,
    )


def _in_memory(values: Any) -> Any:
    return values.compute() if is_dask(values) else as_data_frame(values)
