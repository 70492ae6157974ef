"""Functions that the R package calls through reticulate.

Nothing here imports torch or scvi-tools before a function needs them: with `isolation`, R's process
loads neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import scvibridge
from scvibridge.io.backed import OPENABLE_ENDINGS, open_anndata
from scvibridge.io.paths import check_input
from scvibridge.r import to_anndata
from scvibridge.r.assays import take_apart
from scvibridge.r.descriptions import (
    count_cells,
    describe_file,
    describe_model,
    describe_quality,
    parts_of,
    parts_of_table,
)
from scvibridge.r.exchange import Held, Record, without_slashes
from scvibridge.r.process import IsolatedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData


def with_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert each selection that R sends with its names to a Series.

    R sends a named vector as a dict of ``named`` (its values) and ``names``; positions are already
    0-based.
    """
    received = dict(arguments)
    for name in ("indices", "estimate_on", "gene_list", "genes_kept", "n_top_genes"):
        given = received.get(name)
        if isinstance(given, dict) and given.keys() == {"named", "names"}:
            values, names = np.atleast_1d(given["named"]), np.atleast_1d(given["names"])
            received[name] = pd.Series(values, index=pd.Index(names, dtype=object))
    if isinstance(received.get("arguments"), dict):  # of `run`
        received["arguments"] = with_names(received["arguments"])
    return received


def run(name: str, arguments: Mapping[str, Any]) -> bool:
    """Run a function that writes its result to a file, and discard its return value."""
    FUNCTIONS[name](**arguments)
    return True


def describe_saved(model_dir: str, trust: bool, prefix: str | None = None) -> dict[str, Any]:
    """Return what a saved model reads, to load it with data in R."""
    from scvibridge.models.load import inputs_of_saved

    return inputs_of_saved(model_dir, trust, prefix)


# -- diagnostics -------------------------------------------------------------------------------


def given_back(value: Any) -> Any:
    """Return the content of a `Held`, and anything else unchanged."""
    if not isinstance(value, Held):
        return value
    return value.value.revived() if isinstance(value.value, Record) else value.value


def corrected_counts(dispersion: Any = None, **arguments: Any) -> AnnData:
    """Compute corrected counts, with dispersions in R's format.

    Parameters
    ----------
    dispersion
        The result of a calibration, or a dict of ``genes``, ``batches`` (names, or None) and
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
    """Write a report, and return its path as text."""
    given = {name: given_back(value) for name, value in arguments.items()}
    return str(scvibridge.report(**given))


def batch_effect(result: Any, labels_key: str | None, seed: int) -> dict[str, Any]:
    """Return the batch effects of a result's genes as parts of a table."""
    from scvibridge.diagnostics.gene_effects import gene_effects

    return parts_of_table(gene_effects(given_back(result), labels_key, seed).table())


def extend(save: str | None, overwrite: bool = False, **arguments: Any) -> Any:
    """Extend a model, and write it to a folder if there is one."""
    if save is not None:
        from scvibridge.models.saved.model_folder import check_folder

        check_folder(save, overwrite, "save")
    extended = scvibridge.extend_genes(**arguments)
    if save is not None:
        extended.save(save, overwrite=overwrite)
    return extended


def encode(**arguments: Any) -> dict[str, Any]:
    """Compute latent means: see :func:`scvibridge.r.latent.latent`."""
    from scvibridge.r.latent import latent

    return latent(**arguments)


def extend_and_describe(**arguments: Any) -> dict[str, Any]:
    """Extend a model, and return what R's process needs to know about it."""
    extended = extend(**arguments)
    return {"summary": describe_model(extended), "quality": describe_quality(extended)}


def saved_in(model: Any, folder: str | None) -> str | None:
    """Return the folder that a model was to be saved to, if saving succeeded."""
    if folder is None:
        return None
    if isinstance(model, IsolatedModel):
        return (
            folder if Path(folder).expanduser().absolute() == Path(model.source.model_dir) else None
        )
    from scvibridge.models.training.saving import is_saved

    return folder if is_saved(model, folder) else None


def train_and_describe(fallback: str, **arguments: Any) -> dict[str, Any]:
    """Train a model, save it, and return what R's process needs to know about it.

    If it cannot be saved to the requested folder, or none is named, it is saved to `fallback`,
    because this process ends.

    Returns
    -------
    dict of ``folder``, which it was saved to, ``file`` in the folder with its data, ``renamed``,
    the names that the file cannot hold (:func:`scvibridge.r.exchange.without_slashes`), and
    ``summary``.
    """
    from scvibridge.models.saved.model_folder import ANNDATA_FILE
    from scvibridge.models.training.saving import is_saved, save_trained

    folder, model = arguments["save"], scvibridge.train_scvi(**arguments)
    renamed: dict[str, dict[str, str]] = {}
    if folder is None or not is_saved(model, folder):
        folder = fallback
        data, renamed = without_slashes(model.adata)
        save_trained(model, Path(folder), overwrite=True, adata=data)
    return {
        "folder": folder,
        "file": ANNDATA_FILE,
        "renamed": renamed,
        "summary": describe_model(model),
    }


def check_not_source(out: str, sources: Sequence[str]) -> None:
    """Raise an error for an output that is a file used by an R object."""
    from scvibridge.io import opened_files

    opened_files.check_not_source(Path(out), list(sources))


def write_example(folder: str, **arguments: Any) -> dict[str, str]:
    """Write the model and the data of an example."""
    from scvibridge.r import example

    return example.write_example(folder, **arguments)


def check_data_path(path: str) -> bool:
    """Check that a data file of a supported type exists, without reading it."""
    check_input(path, endings=(*OPENABLE_ENDINGS, ".h5mu"))
    return True


def _public(name: str) -> Callable[..., Any]:
    """Return a public function whose module (and torch) is imported by its first call."""

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
    "fit_to_model": to_anndata.fit_to_model,
    "latent": encode,
    "describe_quality": describe_quality,
    "batch_support": lambda **given: parts_of(scvibridge.batch_support(**given)),
    "choose_batch": lambda **given: parts_of_table(scvibridge.choose_batch(**given)),
    "calibration": lambda **given: parts_of(scvibridge.calibration(**given)),
    "damage": lambda **given: parts_of_table(scvibridge.damage(**given)),
    "report": write_report,
    "batch_effect": batch_effect,
    "run": run,
    "open_anndata": open_anndata,
    "check_data_path": check_data_path,
    "assemble_anndata": to_anndata.assemble_anndata,
    "assemble_pieces": to_anndata.assemble_pieces,
    "assemble_result": to_anndata.assemble_result,
    "describe_saved": describe_saved,
    "describe_model": describe_model,
    "check_new_h5ad": to_anndata.check_new,
    "check_not_source": check_not_source,
    "saved_in": saved_in,
    "write_anndata": to_anndata.write_anndata,
    "write_blocks": to_anndata.write_blocks,
    "take_apart": take_apart,
    "load_assay": lambda assay: assay.load(),
    "describe_file": describe_file,
    "count_cells": count_cells,
    "write_example": write_example,
    "describe_loaded": lambda **given: describe_model(scvibridge.load(**given)),
    "extend_and_describe": extend_and_describe,
}
