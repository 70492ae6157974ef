"""What the R package calls, through reticulate.

Nothing here imports torch or scvi-tools before a function needs them: with `isolation` R's process
has neither.
"""

from __future__ import annotations

import importlib
import re
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

import scvibridge
from scvibridge import from_r_data, handover, isolation, native, r_objects, threads
from scvibridge.exchange import Held, Record, TakenApart
from scvibridge.files import check_input, read_mudata
from scvibridge.interrupts import staying_interrupts
from scvibridge.isolation import IsolatedError, IsolatedModel, Session
from scvibridge.on_disk import OPENABLE_ENDINGS, open_anndata
from scvibridge.progress import Reporter, reporting_to
from scvibridge.spelling import spelled
from scvibridge.unchanged import check_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData

    from scvibridge.models import Adapter


def call(
    name: str,
    arguments: Mapping[str, Any],
    reporter: Mapping[str, Callable[..., object]] | None = None,
    session: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Call a function so that its result, warnings and error all come back as values.

    R turns them into its own conditions: an error that passes through reticulate arrives with more
    words than its message, and a warning is lost among the progress lines.

    Parameters
    ----------
    name
        One of `FUNCTIONS`.
    arguments
        Its arguments by name.
    reporter
        R's functions ``start``, ``update`` and ``finish``, to which progress goes
        (:class:`scvibridge.progress.Reporter`); without them it goes to standard error.
    session
        What :class:`scvibridge.isolation.Session` has.

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
            value = _called(name, arguments, Session(**(session or {})))
        except Exception as exception:  # noqa: BLE001 - R decides what to do with it
            error = describe_error(exception)
    # Warnings of other kinds are for those who write Python.
    messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return {"value": value, "warnings": list(dict.fromkeys(messages)), "error": error}


def _called(name: str, arguments: Mapping[str, Any], session: Session) -> Any:
    """Call a function here, or in a separate process."""
    arguments = with_names(arguments)
    if name in WITHOUT_TORCH:
        return FUNCTIONS[name](**arguments)
    if isolation.is_wanted(arguments, session):
        return isolation.call(name, arguments, session)
    _prepare(session)
    return FUNCTIONS[name](**arguments)


def with_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert each selection that R sends with its names to a Series.

    R sends a named vector as a dict of ``named`` (its values) and ``names``; positions are already
    0-based.
    """
    received = dict(arguments)
    for name in ("indices", "gene_list", "n_top_genes"):
        given = received.get(name)
        if isinstance(given, dict):
            values, names = np.atleast_1d(given["named"]), np.atleast_1d(given["names"])
            received[name] = pd.Series(values, index=pd.Index(names, dtype=object))
    if isinstance(received.get("arguments"), dict):  # of `run`
        received["arguments"] = with_names(received["arguments"])
    return received


def prepare(name: str, arguments: Mapping[str, Any], session: Mapping[str, Any]) -> None:
    """Import torch and scvi-tools, if a call will need them here.

    R calls this with interrupts suspended, for its session goes on after an interrupt, and torch
    cannot be imported again where its import was broken off.
    """
    told = Session(**session)
    if name not in WITHOUT_TORCH and not isolation.is_wanted(arguments, told):
        with suppress(ImportError):  # the call itself will say it
            _prepare(told)


def _prepare(session: Session) -> None:
    native.keep_own_blas()
    threads.limit(session.threads)
    importlib.import_module("scvi")


def run(name: str, arguments: Mapping[str, Any]) -> bool:
    """Run a function that writes its result to a file, and let go of what it returns."""
    FUNCTIONS[name](**arguments)
    return True


class Assay:
    """A matrix on its way to R, which takes it vector by vector.

    reticulate copies each into a vector of R's own; one at a time, the copy in Python that a
    conversion to doubles makes is gone before the next.
    """

    def __init__(self, name: str, matrix: handover.Matrix) -> None:
        self.name = name
        self._matrix = matrix
        self._part: handover.Parts = {}

    def load(self) -> bool:
        """Read the matrix where it lies on disk; say whether it is sparse."""
        self._part = handover.genes_by_cells(self._matrix)
        return "indptr" in self._part

    def take(self, name: str) -> np.ndarray:
        """Return a vector or the dense values; all but index vectors are doubles."""
        values: np.ndarray = self._part.pop(name)
        if name in ("indptr", "indices"):
            return values
        return values.astype(np.float64, order="K", copy=False)


class TakenAssay(Assay):
    """A matrix that has come from another process."""

    def __init__(self, name: str, part: handover.Parts) -> None:
        self.name, self._part = name, part

    def load(self) -> bool:
        """Say whether the matrix is sparse."""
        return "indptr" in self._part


def take_apart(adata: AnnData | TakenApart) -> dict[str, Any]:
    """Return what R builds an object in memory from: ``frame`` and ``assays`` (each an `Assay`)."""
    if isinstance(adata, TakenApart):
        assays = [TakenAssay(name, dict(part)) for name, part in adata.assays.items()]
        return {"frame": adata.frame, "assays": assays}
    matrices = handover.assays(adata)
    return {
        "frame": handover.frame(adata),
        "assays": [Assay(name, matrix) for name, matrix in matrices.items()],
    }


def describe_file(path: str) -> dict[str, Any]:
    """Return what R needs to leave the matrices of a file on disk.

    Returns
    -------
    dict of ``frame`` (:func:`scvibridge.handover.frame`) and ``assays``, a list of the ``name`` of
    each in R and its ``layer`` in the file ("" for X).
    """
    adata = open_anndata(path)
    layers = handover.assay_layers(adata)
    check_unchanged(adata)
    return {
        "frame": handover.frame(adata),
        "assays": [{"name": name, "layer": layer or ""} for name, layer in layers.items()],
    }


def count_cells(model: Any, adata: AnnData | str | None) -> int:
    """Count the cells of an AnnData, of a file (its matrices are not read) or of the model."""
    if isinstance(model, IsolatedModel):
        return _count_isolated(model, adata)
    from scvibridge.models import adapter_for

    data = _open(adapter_for(model), adata)
    return 0 if data is None else int(data.n_obs)


def _count_isolated(model: IsolatedModel, adata: AnnData | str | None) -> int:
    if adata is None:
        return int(model.summary["n_cells"])
    if isinstance(adata, str) and adata.endswith(".h5mu"):
        return int(read_mudata(adata).n_obs)
    return int((open_anndata(adata) if isinstance(adata, str) else adata).n_obs)


def _open(adapter: Adapter, adata: Any) -> AnnData | None:
    """Open a file, whose matrices stay on disk; the model's own data where none are given."""
    if adata is None:
        return adapter.adata
    from scvibridge import inputs

    return inputs.resolve_adata(adapter, adata, stream=True)


def check_fits_r(
    model: Any,
    adata: AnnData | str | None = None,
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
    if isinstance(model, IsolatedModel):
        return  # its process does it
    from scvibridge.models import adapter_for

    adapter = adapter_for(model)
    if indices is not None or gene_list is not None:
        return
    data = _open(adapter, adata)
    if data is None or data.n_vars != len(adapter.genes):
        return
    matrix = data.X if adapter.layer is None else data.layers.get(adapter.layer)
    handover.check_fits(matrix, "the matrix of counts")


def describe_error(exception: Exception) -> dict[str, str]:
    """Convert an exception to text; the message of a KeyError without its quotes."""
    if isinstance(exception, IsolatedError):
        return exception.description
    # str() of a KeyError is the repr of its message.
    is_key_error = isinstance(exception, KeyError) and len(exception.args) == 1
    message = str(exception.args[0] if is_key_error else exception)
    notes = "".join(f"; {note}" for note in getattr(exception, "__notes__", []))
    # Some, such as a MemoryError of Python's own, have no message.
    message = f"{message or type(exception).__name__}{notes}"
    return {
        "type": type(exception).__name__,
        "message": re.sub(r"\b(overwrite|resume)=True\b", r"\1 = TRUE", message),
        "traceback": "".join(traceback.format_exception(exception)),
    }


def describe_model(model: Any) -> dict[str, Any]:
    """Return a description of a model: class, likelihood, batches, sizes, variables and layer."""
    if isinstance(model, IsolatedModel):
        return model.summary
    from scvibridge.models import adapter_for
    from scvibridge.trained_on import origin_of_training

    adapter = adapter_for(model)
    data: AnnData | None = adapter.adata
    return {
        "model_class": adapter.class_name,
        "gene_likelihood": adapter.gene_likelihood,
        "dispersion": adapter.dispersion,
        "batch_key": adapter.batch_key,
        "batches": spelled(adapter.batches),
        "n_genes": len(adapter.genes),
        "n_added": len(adapter.genes) - len(adapter.own.genes),
        "genes": list(map(str, adapter.genes)),
        "beside": [
            {"what": part.what, "key": part.key, "names": list(part.names)}
            for part in adapter.own.beside()
        ],
        "layer": adapter.layer,
        "counts_from": origin_of_training(adapter),
        "n_cells": 0 if data is None else int(data.n_obs),
        "training": describe_training(model),
    }


def describe_saved(model_dir: str, trust: bool, prefix: str | None = None) -> dict[str, Any]:
    """Return where a saved model reads its counts, for data in R that it is to be loaded with."""
    from scvibridge.loading import place_of_saved

    return place_of_saved(model_dir, trust, prefix)


def describe_training(model: Any) -> dict[str, Any] | None:
    """Return the number of epochs and the last losses of a model that has a history, else None."""
    history = getattr(model, "history", None)
    if not history:
        return None
    # The loss of the training has two names, by the version of scvi-tools.
    names = ("train_loss", "train_loss_epoch", "validation_loss")
    losses = {name: np.ravel(history[name]).astype(float) for name in names if name in history}
    training = losses.get("train_loss_epoch", losses.get("train_loss", np.empty(0)))
    held_out = losses.get("validation_loss", np.empty(0))
    return {
        "n_epochs": max(len(training), len(held_out)),
        "training_loss": float(training[-1]) if len(training) else None,
        "validation_loss": float(held_out[-1]) if len(held_out) else None,
    }


# -- diagnostics -------------------------------------------------------------------------------


def given_back(value: Any) -> Any:
    """Return the content of a `Held`, and anything else unchanged."""
    if not isinstance(value, Held):
        return value
    return value.value.revived() if isinstance(value.value, Record) else value.value


def parts_of(found: object) -> dict[str, Any]:
    """Return the attributes of a result, its summary, and the result itself to be passed back."""
    fields = {name: _parts(value) for name, value in vars(found).items()}
    return {"python": Held(found), "summary": str(found), "fields": fields}


def _parts(value: Any) -> dict[str, Any]:
    """Return a table with its row names, which are the index unless it only numbers the rows."""
    # By its name: its module imports torch.
    if type(value).__name__ == "Calibration":
        return {"kind": "calibration", "value": parts_of(value)}
    if isinstance(value, pd.Series):
        value = value.to_frame()
    if not isinstance(value, pd.DataFrame):
        return {"kind": "other", "value": handover.nested(value)}
    counted = isinstance(value.index, pd.RangeIndex)
    return {
        "kind": "table",
        "columns": handover.table_columns(value),
        "n_rows": len(value),
        "rows": [] if counted else spelled(value.index),
    }


def parts_of_table(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table, its ``attrs``, and the table itself to be passed back."""
    settings = dict(table.attrs)
    by_label = pd.DataFrame(settings.pop("by_label", []))
    return {
        "python": Held(table),
        "table": _parts(table),
        "by_label": _parts(by_label),
        "settings": handover.nested(settings),
    }


def corrected_counts(dispersion: Any = None, **arguments: Any) -> AnnData:
    """Correct counts, with dispersions as R gives them.

    Parameters
    ----------
    dispersion
        What a calibration gave, or a dict of ``genes``, ``batches`` (names, or None) and
        ``values``, genes by batches.
    arguments
        Those of :func:`scvibridge.corrected_counts`.
    """
    theta = given_back(dispersion)
    if isinstance(theta, dict):
        table = np.asarray(theta["values"], dtype=float)
        theta = pd.DataFrame(table, index=theta["genes"], columns=theta["batches"])
    return scvibridge.corrected_counts(dispersion=theta, **arguments)


def write_report(**arguments: Any) -> str:
    """Write a report, and give its path as text."""
    given = {name: given_back(value) for name, value in arguments.items()}
    return str(scvibridge.report(**given))


def extend(save_to: str | None, overwrite: bool = False, **arguments: Any) -> Any:
    """Extend a model, and write it to a folder where one is named."""
    if save_to is not None:
        from scvibridge.extension_file import check_folder

        check_folder(save_to, overwrite, "save_to")
    extended = scvibridge.extend_genes(**arguments)
    if save_to is not None:
        extended.save(save_to, overwrite=overwrite)
    return extended


def encode(**arguments: Any) -> dict[str, Any]:
    """Compute latent means: see :func:`scvibridge.latent.latent`."""
    from scvibridge.latent import latent

    return latent(**arguments)


def describe_quality(model: Any) -> dict[str, Any]:
    """Return the quality table of an extended model."""
    if isinstance(model, IsolatedModel) and model.quality is not None:
        return model.quality
    return parts_of_table(model.quality)


def extend_and_describe(**arguments: Any) -> dict[str, Any]:
    """Extend a model, and give what R's process needs to know of it."""
    extended = extend(**arguments)
    return {"summary": describe_model(extended), "quality": describe_quality(extended)}


def saved_in(model: Any, folder: str | None) -> str | None:
    """Return the folder that a model was to be saved to, if it was."""
    if folder is None:
        return None
    if isinstance(model, IsolatedModel):
        return (
            folder if Path(folder).expanduser().absolute() == Path(model.source.model_dir) else None
        )
    from scvibridge.saving import is_saved

    return folder if is_saved(model, folder) else None


def train_and_describe(fallback: str, **arguments: Any) -> dict[str, Any]:
    """Train a model, which is saved, and return what R's process needs to know of it.

    Where it cannot be saved to where it should, it is saved to `fallback`: this process ends.

    Returns
    -------
    dict of ``folder``, which it was saved to, and ``summary``.
    """
    from scvibridge.saving import is_saved, save_trained

    folder, model = arguments["save"], scvibridge.train_scvi(**arguments)
    if not is_saved(model, folder):
        folder = fallback
        save_trained(model, Path(folder), overwrite=True)
    return {"folder": folder, "summary": describe_model(model)}


def check_not_source(out: str, sources: Sequence[str]) -> None:
    """Refuse an output that is a file which an object of R lies in."""
    from scvibridge import opened_files

    opened_files.check_not_source(Path(out), list(sources))


def write_example(folder: str, **arguments: Any) -> dict[str, str]:
    """Write the model and the data of an example."""
    from scvibridge import example

    return example.write_example(folder, **arguments)


def in_worker(name: str, arguments: Mapping[str, Any]) -> Any:
    """Call a function inside a separate process: this is that process."""
    from scvibridge import isolated

    return isolated.work(name, arguments)


def check_data_path(path: str) -> bool:
    """Check that there is a file of data that the functions take, without reading it."""
    check_input(path, endings=(*OPENABLE_ENDINGS, ".h5mu"))
    return True


def _public(name: str) -> Callable[..., Any]:
    """A public function, whose module (and torch with it) is imported by its first call."""

    def function(*arguments: Any, **named: Any) -> Any:
        return getattr(scvibridge, name)(*arguments, **named)

    return function


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "load": _public("load"),
    "train_scvi": _public("train_scvi"),
    "train_and_describe": train_and_describe,
    "corrected_counts": corrected_counts,
    "normalized_expression": _public("normalized_expression"),
    "denoised_expression": _public("denoised_expression"),
    "extend_genes": extend,
    "fit_to_model": from_r_data.fit_to_model,
    "latent": encode,
    "describe_quality": describe_quality,
    "batch_support": lambda **given: parts_of(scvibridge.batch_support(**given)),
    "choose_batch": lambda **given: parts_of_table(scvibridge.choose_batch(**given)),
    "calibration": lambda **given: parts_of(scvibridge.calibration(**given)),
    "damage": lambda **given: parts_of_table(scvibridge.damage(**given)),
    "report": write_report,
    "run": run,
    "open_anndata": open_anndata,
    "check_data_path": check_data_path,
    "assemble_anndata": r_objects.assemble_anndata,
    "assemble_pieces": r_objects.assemble_pieces,
    "assemble_result": r_objects.assemble_result,
    "describe_saved": describe_saved,
    "check_new_h5ad": r_objects.check_new,
    "check_not_source": check_not_source,
    "saved_in": saved_in,
    "write_anndata": r_objects.write_anndata,
    "write_blocks": r_objects.write_blocks,
    "take_apart": take_apart,
    "load_assay": lambda assay: assay.load(),
    "describe_file": describe_file,
    "count_cells": count_cells,
    "check_fits_r": check_fits_r,
    "write_example": write_example,
    "describe_loaded": lambda **given: describe_model(scvibridge.load(**given)),
    "extend_and_describe": extend_and_describe,
    "in_worker": in_worker,
}

# What works on files and results, or has no need of a model that is not loaded.
WITHOUT_TORCH = frozenset(
    {
        "open_anndata", "check_data_path", "take_apart", "load_assay", "describe_file",
        "count_cells", "check_fits_r", "describe_quality", "fit_to_model",
        "assemble_anndata", "assemble_pieces", "assemble_result", "check_new_h5ad",
        "check_not_source", "saved_in", "write_anndata", "write_blocks",
    }
)  # fmt: skip
# What R takes into memory.
RESULTS = frozenset({"corrected_counts", "normalized_expression", "denoised_expression"})
