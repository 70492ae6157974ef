"""Read and write extensions of a model: numbers and strings stored next to the model file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.digests import digest_of_weights
from scvibridge.io.paths import replacing
from scvibridge.io.plain_npz import read_plain_npz
from scvibridge.models import stand_in
from scvibridge.models.adapters import Head
from scvibridge.models.saved.model_folder import EXTENSION_FILE
from scvibridge.models.training_cells import with_names

if TYPE_CHECKING:
    from pathlib import Path

    from scvibridge.models.adapters import Extended


VERSION = 1

_NUMBERS = ("weights", "intercept", "batch", "location", "scale")


# Numbers by gene, each a column of the quality table.
_QUALITY = "quality/"


def write_folder(extended: Extended, folder: Path) -> None:
    """Write a model and its extension to a folder atomically.

    The folder replaces an older one that :func:`check_folder` has checked.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        stand_in.with_data(with_names(extended.model)).save(str(temporary), save_anndata=False)
        write_extension(extended, temporary / EXTENSION_FILE)


def write_extension(extended: Extended, path: Path) -> None:
    """Write an extension."""
    head, quality = extended.head, extended.quality
    description = {
        "version": VERSION,
        "model": digest_of_weights(extended.model.module),
        "on_trunk": head.on_trunk,
        "settings": extended.settings,
        "quality": list(quality.columns),
    }
    arrays: dict[str, Any] = {
        "description": np.array(json.dumps(description)),
        "genes": np.asarray(head.genes, dtype=str),
        **head.arrays(),
    }
    for name in quality.columns:
        values = quality[name].to_numpy()
        arrays[_QUALITY + name] = values.astype(str) if values.dtype.kind not in "biuf" else values
    with path.open("wb") as file:
        # Not allow_pickle=: numpy before 2.1 takes it for the name of an array.
        np.savez(file, **arrays)


def read_extension(path: Path, model: Any) -> tuple[Head, pd.DataFrame, dict[str, Any]]:
    """Read an extension of a model, without running anything in the file.

    Returns
    -------
    The head, the quality table, and the settings that the head was fitted with.

    Raises
    ------
    ValueError
        If the file cannot be read, has another format version, or extends another model.
    """
    try:
        arrays = read_plain_npz(path)
        description = json.loads(str(arrays["description"]))
        version = description["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} could not be read as an extension of a model: {error}") from error
    if version != VERSION:
        raise ValueError(
            f"{path} is an extension of version {version!r}, but this scvibridge reads version "
            f"{VERSION}: use the release that wrote it, or fit it again with extend_genes()"
        )
    if description["model"] != digest_of_weights(model.module):
        raise ValueError(
            f"{path} was not fitted to the model next to it, which has different weights: "
            "restore the model that it was saved with, or fit it again with extend_genes()"
        )
    try:
        head = _head(arrays, bool(description["on_trunk"]))
        quality = pd.DataFrame(
            {name: arrays[_QUALITY + name] for name in description["quality"]},
            index=pd.Index(head.genes),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return head, quality, description["settings"]


def names_of_added(path: Path) -> list[str]:
    """Return the names of the added genes; none if :func:`read_extension` would raise an error."""
    try:
        return [str(name) for name in read_plain_npz(path)["genes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _head(arrays: dict[str, np.ndarray], on_trunk: bool) -> Head:
    genes = arrays["genes"]
    if genes.dtype.kind != "U" or genes.ndim != 1:
        raise ValueError("genes are not strings")
    parts = {name: arrays[name] for name in _NUMBERS}
    parts["log_theta"] = arrays.get("log_theta")  # type: ignore[assignment]
    for name, values in parts.items():
        if values is not None and (values.dtype.kind != "f" or not np.isfinite(values).all()):
            raise ValueError(f"{name} are not finite numbers")
    head = Head(genes.astype(object), on_trunk=on_trunk, **parts)
    n_genes, n_features = len(genes), len(head.location)
    shapes = {"weights": (n_features, n_genes), "intercept": (n_genes,), "scale": (n_features,)}
    wrong = [name for name, shape in shapes.items() if getattr(head, name).shape != shape]
    tables = [table for table in (head.batch, head.log_theta) if table is not None]
    if wrong or any(table.ndim != 2 or table.shape[1] != n_genes for table in tables):
        raise ValueError(f"its arrays do not match each other ({', '.join(wrong) or 'tables'})")
    return head
