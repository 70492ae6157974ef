"""Read back what was written, before it replaces an older file."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import h5py
import zarr
from anndata.io import read_elem

from scvibridge._utils.failures import WriteError

if TYPE_CHECKING:
    from pathlib import Path


# Attribute of a streamed result, outside its content: digest of its input and settings.
RESULT_ATTRIBUTE = "scvibridge-result"

_TABLES = ("obs", "var", "obsm", "varm", "uns")

_MATRICES = ("layers", "obsp", "varp")


def check_readable(path: Path) -> None:
    """Check that an h5ad, zarr or 10x HDF5 file that was just written can be read.

    Tables are read; matrices are only checked to exist.

    Raises
    ------
    WriteError
        If it cannot be read.
    """
    try:
        if path.suffix.lower() == ".zarr":
            _read_parts(zarr.open(path, mode="r"))
            return
        with closing(h5py.File(path, "r")) as root:
            if path.suffix.lower() == ".h5":
                _read_10x(root)
            else:
                _read_parts(root)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WriteError(
            f"{path.name} could not be read back after it was written ({reason}); an older file "
            "with that name is unchanged"
        ) from error


def result_of(path: Path) -> str | None:
    """Return the digest of a streamed result; None for any other file, or if it has no digest."""
    try:
        if path.suffix.lower() == ".zarr":
            found = zarr.open(path, mode="r").attrs.get(RESULT_ATTRIBUTE)
        else:
            with closing(h5py.File(path, "r")) as root:
                found = root.attrs.get(RESULT_ATTRIBUTE)
    except Exception:  # noqa: BLE001 - whatever it is, it is not a result
        return None
    return found if isinstance(found, str) else None


def _read_parts(root: Any) -> None:
    n_cells, n_genes = (len(read_elem(root[name])) for name in ("obs", "var"))
    for name in _TABLES:
        if name in root:
            read_elem(root[name])
    matrices = [root["X"]] if "X" in root else []
    matrices += [root[name][key] for name in _MATRICES if name in root for key in root[name]]
    for matrix in matrices:
        if "encoding-type" not in matrix.attrs:
            raise ValueError(f"{matrix.name} has no encoding")
    if "X" in root and _shape(root["X"]) not in ((), (n_cells, n_genes)):
        raise ValueError(f"X has shape {_shape(root['X'])}, expected {(n_cells, n_genes)}")
    if "raw" in root and "var" in root["raw"]:
        read_elem(root["raw/var"])


def _shape(matrix: Any) -> tuple[int, ...]:
    shape = matrix.shape if hasattr(matrix, "shape") else matrix.attrs["shape"]
    return tuple(int(length) for length in shape)


def _read_10x(root: h5py.File) -> None:
    group = root["matrix"]
    n_genes, n_cells = (int(length) for length in group["shape"][:])
    lengths = (len(group["features/id"][:]), len(group["barcodes"][:]), len(group["indptr"]) - 1)
    if lengths != (n_genes, n_cells, n_cells):
        raise ValueError(f"its parts have lengths {lengths}")
