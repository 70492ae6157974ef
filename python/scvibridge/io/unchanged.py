"""Check that a result still contains what it was created with, before it is passed on.

scanpy normalises and transforms ``X`` in place. Such a result is recorded as corrected counts but
contains logarithms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from scvibridge._utils import user_warnings
from scvibridge.io.h5ad import PROVENANCE_KEY
from scvibridge.io.raw_counts import (
    CONTENT_OF_KIND,
    RAW_LAYER,
    fault_of,
    looks_like_counts,
    lost_provenance,
)

if TYPE_CHECKING:
    from anndata import AnnData

# Number of values of a matrix on disk that are checked at a time.
_VALUES_PER_READ = 16_000_000


def kind_of_result(adata: AnnData) -> str:
    """Return the kind of a result.

    Raises
    ------
    ValueError
        If the AnnData is not a result of scvibridge, or has lost its provenance.
    """
    provenance = adata.uns.get(PROVENANCE_KEY)
    kind = provenance.get("kind") if isinstance(provenance, Mapping) else None
    if kind in CONTENT_OF_KIND:
        return str(kind)
    if lost_provenance(adata):
        raise ValueError(
            "this AnnData has the columns and layers of a result, but not "
            f"uns[{PROVENANCE_KEY!r}], the record of how it was made. anndata.concat() leaves uns "
            "out: use uns_merge='first' if the parts were made alike, or copy the entry from a "
            "part"
        )
    raise ValueError(
        f"this AnnData is not a result of scvibridge: uns[{PROVENANCE_KEY!r}]['kind'] is "
        f"{kind!r}, expected {', '.join(map(repr, CONTENT_OF_KIND))}; create one with "
        "corrected_counts(), normalized_expression() or denoised_expression()"
    )


def stored_normalized(provenance: Mapping[str, Any]) -> bool:
    """Return whether the call with this provenance stored normalized expression with its counts.

    If not, a layer of that name is the user's own. Former versions did not record it.
    """
    return bool(provenance.get("normalized", True))


def check_unchanged(adata: AnnData) -> None:
    """Raise an error for a result whose counts or expression were normalised or scaled in place.

    Parameters
    ----------
    adata
        A result; its matrices may be on disk. Whole numbers there are not read, others are.

    Raises
    ------
    ValueError
        If ``X`` of corrected counts or ``layers["raw_counts"]`` no longer contain counts, or an
        expression matrix contains negative, missing or infinite values; or it is not a result.

    Warns
    -----
    UserWarning
        If it is an expression matrix, and ``uns["log1p"]`` says that it was log-transformed.
    """
    kind = kind_of_result(adata)
    if RAW_LAYER in adata.layers:
        _check(adata, adata.layers[RAW_LAYER], f"layers[{RAW_LAYER!r}]", "the raw counts")
    if kind == "corrected_counts":
        _check(adata, adata.X, "X", "the corrected counts")
        if "normalized" in adata.layers and stored_normalized(adata.uns[PROVENANCE_KEY]):
            _check_expression(adata.layers["normalized"], "layers['normalized']")
            _warn_of_logarithms(adata, "normalized expression", "layers['normalized']")
        return
    _check_expression(adata.X, "X")
    _warn_of_logarithms(adata, CONTENT_OF_KIND[kind], "X")


def _warn_of_logarithms(adata: AnnData, content: str, place: str) -> None:
    if "log1p" in adata.uns:
        user_warnings.warn(
            f"uns['log1p'] says that this {content} was log-transformed. If {place} was changed "
            "in place, create the result again: otherwise logarithms are passed on, and Seurat's "
            "assay would contain logarithms of logarithms"
        )


def _check(adata: AnnData, matrix: Any, place: str, content: str) -> None:
    fault = _fault(matrix)
    if fault is None:
        return
    found = _place_of_counts(adata, place)
    mend = (
        f"{found} holds whole numbers: if those are {content}, put them back, adata.{place} = "
        f"adata.{found}"
        if found
        else "Create the result again"
    )
    raise ValueError(
        f"{place} of this result no longer holds {content}, but {fault}: it was changed in place. "
        f"{mend}. Normalise or transform a copy, such as adata.copy()"
    )


def _check_expression(matrix: Any, place: str) -> None:
    for values in _values(matrix):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            fault = "NaN or infinite values"
        elif (values < 0).any():
            fault = "negative values (scaled data?)"
        else:
            continue
        raise ValueError(
            f"{place} of this result no longer holds expression, but {fault}: it was changed in "
            "place. Create the result again, and transform a copy, such as adata.copy()"
        )


def _fault(matrix: Any) -> str | None:
    on_disk = not (isinstance(matrix, np.ndarray) or sp.issparse(matrix))
    if on_disk and np.dtype(matrix.dtype).kind in "iu":
        return None
    faults = (fault_of(values) for values in _values(matrix))
    return next((fault for fault in faults if fault is not None), None)


def _values(matrix: Any) -> Iterator[np.ndarray]:
    """Yield the stored values of a matrix, piece by piece if on disk."""
    if sp.issparse(matrix):
        yield matrix.data
    elif isinstance(matrix, np.ndarray):
        yield matrix
    elif isinstance(matrix, CSRDataset | CSCDataset):
        stored = matrix.group["data"]
        for start in range(0, stored.shape[0], _VALUES_PER_READ):
            yield np.asarray(stored[start : start + _VALUES_PER_READ])
    else:
        step = max(1, _VALUES_PER_READ // max(1, matrix.shape[1]))
        for start in range(0, matrix.shape[0], step):
            yield np.asarray(matrix[start : start + step])


def _place_of_counts(adata: AnnData, changed: str) -> str | None:
    """Return another place in a result with whole numbers of its genes, if the user kept a copy."""
    for name in adata.layers:
        if name not in (None, RAW_LAYER) and looks_like_counts(adata.layers[name]):
            return f"layers[{name!r}]"
    raw = adata.raw
    kept = changed == "X" and raw is not None and raw.var_names.equals(adata.var_names)
    return "raw.X" if kept and looks_like_counts(raw.X) else None
