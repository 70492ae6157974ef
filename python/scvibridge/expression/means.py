"""Compute the means of a block of cells at a depth and, if asked for, at other batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge._utils.devices import resolve_device
from scvibridge.expression import results
from scvibridge.expression.depth import estimate_depth
from scvibridge.io.blocks import blocks, minibatch_entries
from scvibridge.io.h5ad import PROVENANCE_KEY
from scvibridge.models import alignment
from scvibridge.models.encoder import Cells, Encoder, decode_target, draw_latent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from scvibridge.io.plan import Block
    from scvibridge.models.adapters import Adapter, Covariates
    from scvibridge.models.cell_data import CellData


DEFAULT_DEPTH = 1e4


@dataclass(frozen=True)
class Decoding:
    """How a matrix of means is decoded: targets (None: the observed batch), depth and draws."""

    targets: list[int] | None
    library_size: str | float
    n_samples: int | None
    zero_inflation: bool
    seed: int
    genes: np.ndarray | None
    batch_size: int | None
    device: str
    progress: bool
    # What was requested if covariates other than the batch are changed.
    transformed: dict[str, Any] = field(default_factory=dict)


def _fixed_depth(
    adapter: Adapter,
    data: CellData,
    reference: CellData | None,
    rows: np.ndarray,
    decoding: Decoding,
) -> np.ndarray | None:
    """Return the depth of each cell, shape ``(n_cells,)``; None for the model's own library."""
    if decoding.library_size == "latent":
        return None
    if not isinstance(decoding.library_size, str):
        return np.full(len(rows), decoding.library_size)
    totals = _totals(data, decoding)[rows]
    if decoding.library_size == "observed":
        return totals
    return totals * depth_ratio(adapter, data, reference, rows, decoding)


def depth_ratio(
    adapter: Adapter,
    data: CellData,
    reference: CellData | None,
    rows: np.ndarray,
    decoding: Decoding,
) -> np.ndarray:
    """Return the ratio of the named depth to each cell's total, shape ``(n_cells,)``."""
    totals = _totals(data, decoding)[rows]
    reference = alignment.reference_data(adapter, data) if reference is None else reference
    batch = reference.covariates.batch
    targets = list(range(len(adapter.batches))) if decoding.targets is None else decoding.targets
    depth = estimate_depth(
        decoding.library_size, _totals(reference, decoding), batch, targets, None, adapter.batches
    )
    return depth.ratio(totals, data.covariates.batch[rows])


def _totals(data: CellData, decoding: Decoding) -> np.ndarray:
    """Return the totals that depths are computed from: over all genes, if the model is extended."""
    if data.depth_totals is not None and _is_given(decoding.library_size):
        return data.depth_totals
    return data.totals()


def _is_given(library_size: str | float) -> bool:
    """Return whether all cells are scaled to the same depth."""
    return library_size == "median" or not isinstance(library_size, str)


class Means:
    """Compute a matrix of means, block by block.

    Parameters
    ----------
    adapter, data
        The model and the cells.
    rows
        Positions of the requested cells.
    decoding
        How the means are decoded.
    kind
        Name of the function that was called.
    reference
        The cells that a depth is learnt from; the model's data if None.
    encoder, depth
        The encoder of the cells, and their depths, if known.
    """

    def __init__(
        self,
        adapter: Adapter,
        data: CellData,
        rows: np.ndarray,
        decoding: Decoding,
        kind: str,
        reference: CellData | None = None,
        encoder: Encoder | None = None,
        depth: np.ndarray | None = None,
    ) -> None:
        self._adapter, self._data, self._rows = adapter, data, rows
        self._decoding, self._kind = decoding, kind
        self._encoder = encoder or Encoder(adapter, data, decoding.batch_size, decoding.progress)
        self.depth = depth
        if depth is None:
            self.depth = _fixed_depth(adapter, data, reference, rows, decoding)

    def pieces(self, selection: slice) -> Iterator[Block]:
        """Compute a block of the requested cells in minibatches: the matrices of each by field."""
        decoding, n_genes = self._decoding, len(self._adapter.genes)
        n_cells = selection.stop - selection.start
        entries = minibatch_entries(resolve_device(decoding.device))
        for piece in blocks(n_cells, n_genes, decoding.batch_size, entries):
            yield self._piece(slice(selection.start + piece.start, selection.start + piece.stop))

    def _piece(self, selection: slice) -> Block:
        adapter, decoding = self._adapter, self._decoding
        with adapter.on_device(decoding.device), torch.inference_mode():
            cells = self._encoder.cells(self._rows[selection])
            fixed = None if self.depth is None else self.depth[selection]
            if fixed is not None and _is_given(decoding.library_size):
                fixed = cells.factor_at(fixed)
            mean = block_mean(adapter, cells, decoding, fixed)
            common = results.common_matrices(adapter, cells, decoding.genes, decoding.targets)
            return {"X": mean, **common}

    def tables(self, _: dict[str, np.ndarray]) -> AnnData:
        """Return all of the result except its matrices."""
        adapter, decoding = self._adapter, self._decoding
        result = results.tables(adapter, self._data, self._rows, decoding.genes)
        settings = {
            "transform_batch": results.batch_names(adapter, decoding.targets),
            **decoding.transformed,
            "library_size": decoding.library_size,
            "n_samples": decoding.n_samples,
            "seed": decoding.seed,
            "zero_inflation": decoding.zero_inflation,
            "notes": [],
        }
        result.uns[PROVENANCE_KEY] = results.provenance(adapter, self._kind, settings)
        return result


def block_mean(
    adapter: Adapter, cells: Cells, decoding: Decoding, depth: np.ndarray | None
) -> np.ndarray:
    """Return the means of a block, shape ``(n_cells, n_genes)``, float32.

    Draws are averaged as they are computed, so that memory use does not grow with their number.
    """
    latent, covariates = cells.latent, cells.covariates
    if decoding.n_samples is None:
        mean = _means_at(adapter, covariates, latent.location, latent.log_library, decoding, depth)
        return mean.cpu().numpy()
    total: torch.Tensor | None = None
    for sample in range(decoding.n_samples):
        z, log_library = draw_latent(cells, decoding.seed, sample)
        mean = _means_at(adapter, covariates, z, log_library, decoding, depth)
        total = mean if total is None else total.add_(mean)
    assert total is not None  # noqa: S101 - at least one sample
    return total.div_(decoding.n_samples).cpu().numpy()


def _means_at(
    adapter: Adapter,
    covariates: Covariates,
    z: np.ndarray,
    log_library: np.ndarray,
    decoding: Decoding,
    depth: np.ndarray | None,
) -> torch.Tensor:
    """Return the means of a block at given latent variables."""
    decoded = decode_target(adapter, z, covariates, decoding.targets)
    mean = decoded.rate().float()
    if decoding.zero_inflation and decoded.zi_logits is not None:
        mean *= torch.sigmoid(-decoded.zi_logits)
    if decoding.genes is not None:
        mean = mean[:, torch.as_tensor(decoding.genes, device=mean.device)]
    factor = np.exp(log_library) if depth is None else depth
    mean *= torch.as_tensor(factor.astype(np.float32), device=mean.device)[:, None]
    return mean
