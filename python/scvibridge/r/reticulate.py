"""The entry point of the R package, called through reticulate."""

from __future__ import annotations

import importlib
import re
import traceback
import warnings
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from scvibridge._utils.interrupts import staying_interrupts
from scvibridge._utils.progress import Reporter, reporting_to
from scvibridge.r import (
    anndata_without_torch,  # noqa: F401  (before those that import anndata)
    blas,
    process,
    threads,
)
from scvibridge.r.endpoints import FUNCTIONS, with_names
from scvibridge.r.process import IsolatedError, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Functions that R calls by name.
__all__ = ["call", "prepare"]


def call(
    name: str,
    arguments: Mapping[str, Any],
    reporter: Mapping[str, Callable[..., object]] | None = None,
    session: Mapping[str, Any] | None = None,
    functions: Mapping[str, Callable[..., Any]] = FUNCTIONS,
) -> dict[str, Any]:
    """Call a function so that its result, warnings and error are all returned as values.

    R converts them to its own conditions: an error that passes through reticulate arrives with more
    words than its message, and a warning is lost among the progress lines.

    Parameters
    ----------
    name
        A name in `functions`.
    arguments
        Its arguments by name.
    reporter
        R's functions ``start``, ``update`` and ``finish``, which receive progress
        (:class:`scvibridge._utils.progress.Reporter`); without them it goes to standard error.
    session
        The fields of :class:`scvibridge.r.process.Session`.
    functions
        The functions by name. The separate process of an isolated call passes its own.

    Returns
    -------
    dict with ``value`` (None after an error), ``warnings`` (list of text, without repeats) and
    ``error`` (None, or a dict of its ``type``, ``message`` and ``traceback``).
    """
    value, error = None, None
    told = None if reporter is None else cast("Reporter", SimpleNamespace(**reporter))
    with (
        warnings.catch_warnings(record=True) as caught,
        reporting_to(told),
        staying_interrupts(),
    ):
        warnings.simplefilter("always", UserWarning)
        try:
            value = _called(name, arguments, Session(**(session or {})), functions)
        except Exception as exception:  # noqa: BLE001 - R decides what to do with it
            error = describe_error(exception)
    # Other warning categories are meant for Python programmers.
    messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return {"value": value, "warnings": list(dict.fromkeys(messages)), "error": error}


def _called(
    name: str,
    arguments: Mapping[str, Any],
    session: Session,
    functions: Mapping[str, Callable[..., Any]],
) -> Any:
    """Call a function here, or in a separate process."""
    arguments = with_names(arguments)
    if name in WITHOUT_TORCH:
        return functions[name](**arguments)
    if process.is_wanted(arguments, session):
        return process.call(name, arguments, session)
    _prepare(session)
    return functions[name](**arguments)


def prepare(name: str, arguments: Mapping[str, Any], session: Mapping[str, Any]) -> None:
    """Import torch and scvi-tools, if a call will need them here.

    R calls this with interrupts suspended, because its session continues after an interrupt, and
    torch cannot be imported again after an interrupted import.
    """
    told = Session(**session)
    if name not in WITHOUT_TORCH and not process.is_wanted(arguments, told):
        with suppress(ImportError):  # the call itself will report it
            _prepare(told)


def _prepare(session: Session) -> None:
    blas.keep_own_blas()
    threads.limit(session.threads)
    importlib.import_module("scvi")


def describe_error(exception: Exception) -> dict[str, str]:
    """Convert an exception to text; the message of a KeyError without its quotes."""
    if isinstance(exception, IsolatedError):
        return exception.description
    # str() of a KeyError is the repr of its message.
    is_key_error = isinstance(exception, KeyError) and len(exception.args) == 1
    message = str(exception.args[0] if is_key_error else exception)
    notes = "".join(f"; {note}" for note in getattr(exception, "__notes__", []))
    # Some, such as Python's MemoryError, have no message.
    message = f"{message or type(exception).__name__}{notes}"
    return {
        "type": type(exception).__name__,
        "message": re.sub(r"\b(overwrite|resume)=True\b", r"\1 = TRUE", message),
        "traceback": "".join(traceback.format_exception(exception)),
    }


# Functions that work on files and results, or do not need a loaded model.
WITHOUT_TORCH = frozenset(
    {
        "open_anndata", "check_data_path", "take_apart", "load_assay", "describe_file",
        "count_cells", "describe_model", "describe_quality", "fit_to_model",
        "assemble_anndata", "assemble_pieces", "assemble_result", "check_new_h5ad",
        "check_not_source", "saved_in", "write_anndata", "write_blocks",
    }
)  # fmt: skip
