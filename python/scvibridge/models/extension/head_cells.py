"""The cells that an output head is fitted to and evaluated on, and their features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge.io.blocks import blocks
from scvibridge.likelihood.cpu.philox import hash_names
from scvibridge.models import cell_sampling
from scvibridge.models.adapters.extended import standardised
from scvibridge.models.cell_data import CellData, columns_of
from scvibridge.models.encoder import Encoder
from scvibridge.models.extension.head_parameters import HeadCells, HeadData
from scvibridge.models.held_out import held_out_rows
from scvibridge.models.training.trainer import check_enough_cells

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scvibridge.models.adapters import Adapter


# Maximum number of cells for evaluation, and their fraction if the model held out too few to be
# informative.
_MOST_HELD_OUT, _LEAST_HELD_OUT, _SHARE_HELD_OUT = 2000, 20, 0.1


@dataclass(frozen=True)
class ChosenCells(HeadCells):
    """Cells of the data.

    Attributes
    ----------
    rows
        Their positions in the data, in an order determined by their names.
    """

    rows: np.ndarray

    def of(self, counts: sp.csr_matrix) -> HeadData:
        """Return the data to fit some genes to, given their counts in all cells."""
        return HeadData(
            self.features,
            self.batch,
            self.n_batches,
            self.log_total,
            lambda some: counts[self.rows[some]],
            counts.shape[1],
        )

    def among(self, rows: np.ndarray) -> ChosenCells:
        """Keep the cells that are among some rows of the data."""
        kept = np.flatnonzero(np.isin(self.rows, rows))
        place = torch.as_tensor(kept, device=self.batch.device)
        return ChosenCells(
            self.features[place],
            self.batch[place],
            self.n_batches,
            self.log_total[place],
            self.rows[kept],
        )


@dataclass(frozen=True)
class Parted:
    """Cells for fitting and for evaluation, with the mean and standard deviation of features."""

    fitted: ChosenCells
    held_out: ChosenCells
    location: np.ndarray
    scale: np.ndarray


def part_cells(
    adapter: Adapter, whole: CellData, labels: np.ndarray | None, progress: bool
) -> Parted:
    """Split the cells and encode them.

    Parameters
    ----------
    adapter
        The model.
    whole
        Cells by the model's genes, then those to add.
    labels
        Codes of labels, from each of which cells for evaluation are chosen if the model held out
        none; or None.
    progress
        Whether to show progress.
    """
    fitted, held_out = _choose(adapter, whole, labels)
    features = _features(adapter, whole, [fitted, held_out], progress)
    spread = features[0].std(dim=0)
    location, scale = features[0].mean(dim=0), torch.where(spread > 1e-6, spread, 1.0)
    made = [
        _cells(adapter, whole, rows, standardised(values, location, scale))
        for rows, values in zip((fitted, held_out), features, strict=True)
    ]
    return Parted(made[0], made[1], location.cpu().numpy(), scale.cpu().numpy())


def _features(
    adapter: Adapter, whole: CellData, groups: list[np.ndarray], progress: bool
) -> list[torch.Tensor]:
    """Encode groups of cells and return h for each, ``(n_cells, n_features)``."""
    own = columns_of(whole.require_counts(), 0, len(adapter.genes))
    data = CellData(whole.adata, own, whole.covariates, whole.n_batches)
    encoder = Encoder(adapter, data, None, progress)
    encoder.prepare(np.sort(np.concatenate(groups)))
    found = []
    for rows in groups:
        order = np.argsort(rows)
        latent = encoder.prepare(rows[order]).take(np.argsort(order))
        found.append(
            torch.cat(
                [
                    adapter.features(
                        latent.location[block], whole.covariates.take(rows[block])
                    ).float()
                    for block in blocks(len(rows), len(adapter.genes), None)
                ]
            )
        )
    return found


def _cells(
    adapter: Adapter, whole: CellData, rows: np.ndarray, features: torch.Tensor
) -> ChosenCells:
    device = features.device
    return ChosenCells(
        features,
        torch.as_tensor(whole.covariates.own().batch[rows], device=device),
        len(adapter.model_batches),
        torch.as_tensor(np.log(whole.totals()[rows]), device=device).float(),
        rows,
    )


def _choose(
    adapter: Adapter, whole: CellData, labels: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose cells for fitting and for evaluation, each in the order of the hashes of their names.

    Cells for evaluation are those that the model held out, or else some of each batch and label.
    Cells
    without counts are in neither set.
    """
    counted = whole.totals() > 0
    check_enough_cells(int(counted.sum()), "extend_genes()")
    held_out = held_out_rows(adapter, whole)
    held_out = held_out[counted[held_out]]
    if len(held_out) < _LEAST_HELD_OUT or len(held_out) > counted.sum() / 2:
        held_out = _some_of_each(whole, labels, counted)
    is_held_out = np.isin(np.arange(whole.n_cells), held_out)
    judges = cell_sampling.choose_cells(whole.names, held_out, _MOST_HELD_OUT)
    fitted = np.flatnonzero(counted & ~is_held_out)
    return _by_name(whole, fitted), _by_name(whole, judges)


def _by_name(whole: CellData, rows: np.ndarray) -> np.ndarray:
    return rows[np.argsort(hash_names(whole.names[rows]), kind="stable")]


def _some_of_each(whole: CellData, labels: np.ndarray | None, counted: np.ndarray) -> np.ndarray:
    """Choose a fraction of the cells of each batch and label, by the hashes of their names."""
    group = np.zeros(whole.n_cells, dtype=np.int64) if labels is None else labels
    keys = np.stack([whole.covariates.own().batch, group])
    _, place = np.unique(keys, axis=1, return_inverse=True)
    chosen = []
    for index in range(place.max() + 1):
        members = np.flatnonzero((place.ravel() == index) & counted)
        most = int(_SHARE_HELD_OUT * len(members))
        chosen.append(cell_sampling.choose_cells(whole.names, members, most))
    found = np.sort(np.concatenate(chosen))
    if len(found):
        return found
    # No batch and label has ten cells: use the fraction of all cells.
    members = np.flatnonzero(counted)
    return cell_sampling.choose_cells(whole.names, members, int(_SHARE_HELD_OUT * len(members)))
