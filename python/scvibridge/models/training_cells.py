"""Identify the cells that a model was trained on, by name.

scvi-tools stores their positions in the training data, without names: in data with another order
these are other cells. The names are known while the training data are in memory, and from digests
stored with models that scvibridge trains or saves; otherwise it is unknown which cells were held
out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils.digests import digest
from scvibridge.likelihood.cpu.philox import hash_names

if TYPE_CHECKING:
    from collections.abc import Callable


# scvi-tools saves and restores attributes of a model whose names end in an underscore.
ATTRIBUTE = "training_cells_"


@dataclass(frozen=True)
class TrainingCells:
    """Cells that a model was trained on.

    Attributes
    ----------
    hashes
        BLAKE2b-64 of names, shape ``(n,)``, uint64.
    all_but
        Whether the model may have been trained on all cells but these: it continues a model that
        was trained on cells whose names are unknown.
    """

    hashes: np.ndarray
    all_but: bool = False

    def among(self, hashes: np.ndarray) -> np.ndarray:
        """Return whether each cell is one of them, boolean, from the hashes of the cells' names."""
        found: np.ndarray = np.isin(hashes, self.hashes) != self.all_but
        return found


def training_cells(model: Any) -> TrainingCells | None:
    """Return the cells that a model was trained on, or None if their names are unknown."""
    positions = _positions(model)
    # A SCANVI made from a SCVI splits the same cells anew.
    if positions is None or getattr(model, "was_pretrained", False):
        return None
    hashes = names_of_rows(model)
    if hashes is None:
        return None
    if _continues_another(model):
        return TrainingCells(hashes[np.concatenate(positions[1:])], all_but=True)
    return TrainingCells(hashes[positions[0]])


def names_of_rows(model: Any) -> np.ndarray | None:
    """Return hashed names of all cells of the training data, in its order; None if unknown."""
    positions = _positions(model)
    if positions is None:
        return None
    hashes = _hashes_of_session(model, positions)
    return _kept_hashes(model, positions) if hashes is None else hashes


def _continues_another(model: Any) -> bool:
    """Return whether a model was made by ``load_query_data``, from one trained on other cells.

    It has frozen weights, until it is loaded from a file, and batches of which its data have no
    cells.
    """
    if not all(weight.requires_grad for weight in model.module.parameters()):
        return True
    manager = getattr(model, "adata_manager", None)
    if manager is None or manager.adata.n_obs != sum(map(len, _positions(model) or ())):
        return False  # these are not the cells that the model was trained on
    batches = manager.get_state_registry("batch").get("categorical_mapping", ())
    return len(np.unique(manager.get_from_registry("batch"))) < len(batches)


def keep_names(model: Any, names: Callable[[], Any] | None = None) -> None:
    """Store digests of the names with a model made by scvibridge, if not yet stored.

    Parameters
    ----------
    model
        The model; sets an attribute that scvi-tools saves with it.
    names
        Returns the names of the cells that the positions refer to, or None if they are unknown;
        by default, those of the data that the model was trained on in this session.
    """
    positions = _positions(model)
    if positions is None or _kept_hashes(model, positions) is not None:
        return
    hashes = _hashes_of_session(model, positions)
    if hashes is None and names is not None:
        hashes = _hashes(names(), positions)
    if hashes is not None:
        setattr(model, ATTRIBUTE, {"names": hashes, "split": digest(*positions)})


def with_names(model: Any) -> Any:
    """Return a shallow copy of a model, with digests of the names, to be saved."""
    copied = copy.copy(model)
    keep_names(copied)
    return copied


def _positions(model: Any) -> tuple[np.ndarray, ...] | None:
    """Return positions of the training cells, the held-out cells and the test cells."""
    parts = [getattr(model, f"{name}_indices", None) for name in ("train", "validation", "test")]
    if parts[0] is None:
        return None
    return tuple(np.asarray([] if part is None else part, dtype=np.int64) for part in parts)


def _hashes_of_session(model: Any, positions: tuple[np.ndarray, ...]) -> np.ndarray | None:
    """Return digests of the names in the data that the model was trained on in this session."""
    splitter = getattr(getattr(model, "trainer", None), "datamodule", None)
    data = getattr(getattr(splitter, "adata_manager", None), "adata", None)
    trained = getattr(splitter, "train_idx", None)
    if data is None or trained is None or not np.array_equal(trained, positions[0]):
        return None
    return _hashes(data.obs_names, positions)


def _hashes(names: Any, positions: tuple[np.ndarray, ...]) -> np.ndarray | None:
    """Return digests of names; None if they are not the names of all cells of the split."""
    if names is None or len(names) != sum(map(len, positions)):
        return None
    return np.asarray(hash_names([str(name) for name in names]), dtype=np.uint64)


def _kept_hashes(model: Any, positions: tuple[np.ndarray, ...]) -> np.ndarray | None:
    """Return the digests stored with the model; None if there are none for its current split."""
    kept = getattr(model, ATTRIBUTE, None)
    if not isinstance(kept, dict) or kept.get("split") != digest(*positions):
        return None
    hashes = np.asarray(kept.get("names"))
    valid = hashes.dtype == np.uint64 and hashes.shape == (sum(map(len, positions)),)
    return hashes if valid else None
