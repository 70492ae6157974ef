"""The cells that a model was not trained on, on which alone its fit is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import selections
from scvibridge.likelihood.cpu.philox import hash_names

if TYPE_CHECKING:
    import pandas as pd

    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


_NOTHING = "so nothing can be concluded about its fit"

UNKNOWN = "held-out cells unknown: the default"

NONE = "no held-out cells: the default"


@dataclass(frozen=True)
class HeldOutCells:
    """Cells used to evaluate a fit.

    Attributes
    ----------
    rows
        Their positions in the data, sorted, shape ``(n,)``.
    described
        Description of the cells, in words.
    """

    rows: np.ndarray
    described: str


def held_out_cells(adapter: Adapter, data: CellData, indices: Any) -> HeldOutCells:
    """Choose the cells held out of training; raise an error for cells that were not held out.

    Raises
    ------
    ValueError
        If no cells were held out, it is unknown which, or `indices` includes training cells.
    """
    known = adapter.training_cells
    trained = None if known is None else known.among(data.hashes)
    if indices is not None:
        rows = np.sort(selections.resolve_indices(indices, data.adata))
        if trained is not None and trained[rows].any():
            raise ValueError(
                f"indices includes {int(trained[rows].sum())} cells that the model was trained "
                f"on, {_NOTHING}: pass held-out cells, e.g. model.validation_indices"
            )
        return HeldOutCells(rows, "the cells passed as indices")
    if trained is None:
        raise ValueError(
            "it is unknown which cells the model was trained on: scvi-tools saves their "
            "positions in the training data, without names, and a SCANVI made from a SCVI was "
            f"also trained on the cells of that model, {_NOTHING}. Pass indices= "
            "(--indices) with cells that were held out, or load a model that was saved with its "
            "data (model.save(..., save_anndata=True)) or trained by scvibridge.train_scvi()"
        )
    rows = np.flatnonzero(~trained)
    if len(rows) == 0:
        raise ValueError(
            f"the model was trained on all of these cells, or continues a model that may have been "
            f"trained on them, {_NOTHING}: train with train_size below 1 (scvi-tools' default is "
            "0.9), or pass other cells as adata="
        )
    if not trained.any():
        return HeldOutCells(rows, "cells not used in training")
    return HeldOutCells(rows, "the cells held out of training")


def held_out_rows(adapter: Adapter, data: CellData) -> np.ndarray:
    """Return positions of the cells that the model was not trained on; none if it is unknown."""
    known = adapter.training_cells
    if known is None:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(~known.among(data.hashes))


def described(adapter: Adapter, n_cells: int) -> str:
    """Describe, for the provenance, the held-out cells used for an estimate."""
    if n_cells:
        return f"{n_cells} held-out cells"
    return UNKNOWN if adapter.training_cells is None else NONE


def halves(
    names: np.ndarray | pd.Index, seed: int, labels: np.ndarray | pd.Series | None = None
) -> np.ndarray:
    """Split cells at random into halves 0 and 1, by their names and a seed, shape ``(n,)``.

    With labels, the halves have equal numbers of each label.
    """
    hashes = hash_names(f"{seed}/{name}" for name in names)
    order = np.lexsort((hashes,) if labels is None else (hashes, np.asarray(labels)))
    half = np.empty(len(names), dtype=np.int64)
    half[order] = np.arange(len(names)) % 2
    return half
