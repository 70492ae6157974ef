"""The cells that a model has not been trained on: the fit is judged by them alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import selections
from scvibridge.likelihood.cpu.philox import hash_names

if TYPE_CHECKING:
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


_NOTHING = "so nothing can be concluded about its fit"

UNKNOWN = "held-out cells unknown (the model keeps their positions without names): the default"

NONE = "no held-out cells: the default"


@dataclass(frozen=True)
class HeldOutCells:
    """Cells to judge a fit by.

    Attributes
    ----------
    rows
        Their positions in the data, sorted, shape ``(n,)``.
    described
        What they are, in words.
    """

    rows: np.ndarray
    described: str


def held_out_cells(adapter: Adapter, data: CellData, indices: Any) -> HeldOutCells:
    """Choose the cells that were held out of the training, and refuse those that were not.

    Raises
    ------
    ValueError
        If no cells were held out, it is unknown which, or `indices` includes training cells.
    """
    known = adapter.training_cells()
    trained = None if known is None else known.among(data.names)
    if indices is not None:
        rows = np.sort(selections.resolve_indices(indices, data.adata))
        if trained is not None and trained[rows].any():
            raise ValueError(
                f"indices names {int(trained[rows].sum())} cells that the model was trained on, "
                f"{_NOTHING}: name held-out cells, e.g. model.validation_indices"
            )
        return HeldOutCells(rows, "the cells that indices names")
    if trained is None:
        raise ValueError(
            "it cannot be told which cells the model was trained on: scvi-tools saves their "
            f"positions in the data of the training, without names, {_NOTHING}. Pass indices= "
            "(--indices) of cells that were held out, or load a model that was saved with its data "
            "(model.save(..., save_anndata=True)) or trained by scvibridge.train_scvi()"
        )
    rows = np.flatnonzero(~trained)
    if len(rows) == 0:
        raise ValueError(
            f"the model was trained on all of these cells, {_NOTHING}: train with train_size below "
            "1 (scvi-tools' default is 0.9), or pass other cells as adata="
        )
    if not trained.any():
        return HeldOutCells(rows, "cells that the training did not see")
    return HeldOutCells(rows, "the cells held out of the training")


def held_out_rows(adapter: Adapter, data: CellData) -> np.ndarray:
    """Positions of the cells that the model was not trained on; none where it is not known."""
    known = adapter.training_cells()
    if known is None:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(~known.among(data.names))


def described(adapter: Adapter, n_cells: int) -> str:
    """Say for the provenance which held-out cells an estimate rests on."""
    if n_cells:
        return f"{n_cells} held-out cells"
    return UNKNOWN if adapter.training_cells() is None else NONE


def halves(names: np.ndarray, seed: int) -> np.ndarray:
    """Part cells at random into halves 0 and 1, by their names and a seed, shape ``(n,)``."""
    order = np.argsort(hash_names(f"{seed}/{name}" for name in names), kind="stable")
    half = np.empty(len(names), dtype=np.int64)
    half[order] = np.arange(len(names)) % 2
    return half
