"""What the R package calls, through reticulate."""

from __future__ import annotations

import traceback
import warnings
from typing import TYPE_CHECKING, Any

import scvibridge
from scvibridge import example, files, handover
from scvibridge.models import adapter_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData


def call(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call a function so that its result, warnings and error all come back as values.

    R makes conditions of its own of them: an error that passes through reticulate arrives with
    more words than its message, and a warning is lost among the progress lines.

    Parameters
    ----------
    name
        One of `FUNCTIONS`.
    arguments
        Its arguments by name.

    Returns
    -------
    dict with ``value`` (None after an error), ``warnings`` (list of text, without repeats) and
    ``error`` (None, or a dict of its ``type``, ``message`` and ``traceback``).
    """
    value, error = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            value = FUNCTIONS[name](**arguments)
        except Exception as exception:  # noqa: BLE001 - R decides what to do with it
            error = describe_error(exception)
    # Warnings of other kinds are for those who write Python.
    messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return {"value": value, "warnings": list(dict.fromkeys(messages)), "error": error}


def check_fits_r(
    model: Any,
    adata: AnnData | None,
    indices: Any = None,
    gene_list: Sequence[str] | None = None,
) -> None:
    """Refuse data whose counts are too many for a sparse matrix of R, before they are corrected.

    What a selection of cells or genes leaves is checked when it is handed over.

    Raises
    ------
    ValueError
        See :func:`scvibridge.handover.check_nonzeros`.
    """
    adapter = adapter_for(model)
    data = adapter.adata if adata is None else adata
    whole = indices is None and gene_list is None
    if data is None or not whole or data.n_vars != len(adapter.genes):
        return
    matrix = data.X if adapter.layer is None else data.layers.get(adapter.layer)
    if hasattr(matrix, "nnz"):
        handover.check_nonzeros(matrix.nnz, "the matrix of counts")


def describe_error(exception: Exception) -> dict[str, str]:
    """Give an exception as text; the message of a KeyError without its quotes."""
    # str() of a KeyError is the repr of its message.
    is_key_error = isinstance(exception, KeyError) and len(exception.args) == 1
    return {
        "type": type(exception).__name__,
        "message": str(exception.args[0] if is_key_error else exception),
        "traceback": "".join(traceback.format_exception(exception)),
    }


def describe_model(model: Any) -> dict[str, Any]:
    """Give what R prints of a model: class, likelihood, batches and sizes."""
    adapter = adapter_for(model)
    data: AnnData | None = adapter.adata
    return {
        "model_class": adapter.class_name,
        "gene_likelihood": adapter.gene_likelihood,
        "dispersion": adapter.dispersion,
        "batch_key": adapter.batch_key,
        "batches": [str(batch) for batch in adapter.batches],
        "n_genes": len(adapter.genes),
        "n_cells": 0 if data is None else int(data.n_obs),
    }


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "load": scvibridge.load,
    "corrected_counts": scvibridge.corrected_counts,
    "normalized_expression": scvibridge.normalized_expression,
    "denoised_expression": scvibridge.denoised_expression,
    "read_anndata": files.read_anndata,
    "parts": handover.parts,
    "check_fits_r": check_fits_r,
    "write_example": example.write_example,
}
