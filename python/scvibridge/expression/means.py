"""Compute the means of a block of cells at a depth and, if requested, for other batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge._utils import arguments, wording
from scvibridge._utils.devices import resolve_device
from scvibridge._utils.torch_threads import in_order
from scvibridge.expression import results
from scvibridge.expression.depth import Depth
from scvibridge.expression.records import Running, described_values
from scvibridge.expression.targets import described
from scvibridge.io.blocks import block_size, minibatch_entries, parts_of
from scvibridge.io.h5ad import PROVENANCE_KEY
from scvibridge.likelihood.cpu.philox import check_seed
from scvibridge.models import alignment
from scvibridge.models.encoder import Cells, Encoder, draw_latent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from scvibridge.io.plan import Block
    from scvibridge.models.adapters import Adapter, Covariates
    from scvibridge.models.cell_data import CellData


DEFAULT_DEPTH = 1e4


@dataclass(frozen=True)
class MeanSettings:
    """Settings that means depend on; see :func:`normalized_expression` for its fields."""

    library_size: Depth
    n_samples: int | None = None
    seed: int = 0
    zero_inflation: bool = False

    @staticmethod
    def of(library_size: Any, n_samples: Any, seed: Any, zero_inflation: Any) -> MeanSettings:
        """Check the arguments."""
        return MeanSettings(
            Depth.of(library_size),
            arguments.check_n_samples(n_samples),
            int(check_seed(seed)),
            bool(zero_inflation),
        )


@dataclass(frozen=True)
class Decoding:
    """How a matrix of means is decoded: settings, genes (None for all), and how to run."""

    settings: MeanSettings
    genes: np.ndarray | None
    running: Running

    @property
    def depth(self) -> Depth:
        """The requested depth."""
        return self.settings.library_size


def _fixed_depth(
    adapter: Adapter,
    data: CellData,
    reference: CellData,
    rows: np.ndarray,
    depth: Depth,
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the depth of each cell, None for the model's own library, and notes on it."""
    if depth.is_latent:
        return None, ()
    if not isinstance(depth.asked, str):
        return np.full(len(rows), depth.asked), ()
    ratio, notes = depth_ratio(adapter, data, reference, rows, depth)
    return _totals(data, depth)[rows] * ratio, notes


def depth_ratio(
    adapter: Adapter,
    data: CellData,
    reference: CellData,
    rows: np.ndarray,
    depth: Depth,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the ratio of the named depth to each cell's total, and notes on how it was learned."""
    if depth.is_learnt:
        batch, target = reference.covariates.batch, adapter.target
        in_target = target.holds(batch) if target.codes else np.ones(len(batch), dtype=bool)
        totals = _totals(reference, depth)
        depth = depth.learn(totals, batch, in_target, None, adapter.batches)
    return depth.ratio(_totals(data, depth)[rows], data.covariates.batch[rows]), depth.notes


@dataclass(frozen=True)
class DepthSource:
    """The cells that a depth is learned from, and notes on them for the provenance."""

    data: CellData
    notes: tuple[str, ...] = ()


def depth_source(adapter: Adapter, data: CellData, depth: Depth) -> DepthSource:
    """Return the cells that a depth is learned from: the model's, or `data`.

    The model's data are not used if they have no cells of one of the batches of `data`.
    """
    if not depth.is_learnt:
        return DepthSource(data)
    reference = alignment.reference_data(adapter, data)
    lacking = alignment.lacking_batches(data, reference)
    if not lacking:
        return DepthSource(reference)
    names = wording.list_names(adapter.batches[code] for code in lacking)
    note = f"depth is estimated from the data passed: the model's data have no cells of {names}"
    return DepthSource(data, (note,))


def _totals(data: CellData, depth: Depth) -> np.ndarray:
    """Return the totals that depths refer to, over all genes if the model is extended."""
    if data.depth_totals is not None and depth.is_common:
        return data.depth_totals
    return data.totals()


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
    source
        The cells from which a depth is learned.
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
        source: DepthSource,
        encoder: Encoder | None = None,
        depth: np.ndarray | None = None,
    ) -> None:
        self._notes = source.notes
        self._adapter, self._data, self._rows = adapter, data, rows
        self._decoding, self._kind = decoding, kind
        running = decoding.running
        self._encoder = encoder or Encoder(adapter, data, running.batch_size, running.progress)
        self.depth = depth
        if depth is None:
            self.depth, learned = _fixed_depth(adapter, data, source.data, rows, decoding.depth)
            self._notes += learned

    @property
    def _device(self) -> torch.device:
        return resolve_device(self._decoding.running.device)

    @property
    def step(self) -> int:
        """Number of cells of a minibatch."""
        entries = minibatch_entries(self._device)
        return block_size(len(self._adapter.genes), self._decoding.running.batch_size, entries)

    def pieces(self, selection: slice) -> Iterator[Block]:
        """Compute a block of the requested cells in minibatches; yield the matrices by field."""
        yield from in_order(self._piece, parts_of(selection, self.step), self._device)

    def _piece(self, selection: slice) -> Block:
        adapter, decoding = self._adapter, self._decoding
        with adapter.on_device(decoding.running.device), torch.inference_mode():
            cells = self._encoder.cells(self._rows[selection])
            fixed = None if self.depth is None else self.depth[selection]
            if fixed is not None and decoding.depth.is_common:
                fixed = cells.factor_at(fixed)
            mean = block_mean(adapter, cells, decoding, fixed)
            common = results.common_matrices(adapter, cells, decoding.genes)
            return {"X": mean, **common}

    def tables(self, _: dict[str, np.ndarray]) -> AnnData:
        """Build the result without its matrices."""
        adapter, decoding = self._adapter, self._decoding
        result = results.tables(adapter, self._data, self._rows, decoding.genes)
        settings = {
            **described(adapter),
            **described_values(decoding.settings),
            "notes": list(self._notes),
        }
        result.uns[PROVENANCE_KEY] = results.provenance(adapter, self._kind, settings)
        return result


def block_mean(
    adapter: Adapter, cells: Cells, decoding: Decoding, depth: np.ndarray | None
) -> np.ndarray:
    """Return the means of a block, shape ``(n_cells, n_genes)``, float32.

    Samples are added one by one, so that memory use does not grow with their number.
    """
    latent, covariates, settings = cells.latent, cells.covariates, decoding.settings
    if settings.n_samples is None:
        mean = _means_at(adapter, covariates, latent.location, latent.log_library, decoding, depth)
        return mean.cpu().numpy()

    def mean_of(sample: int) -> torch.Tensor:
        z, log_library = draw_latent(cells, settings.seed, sample)
        return _means_at(adapter, covariates, z, log_library, decoding, depth)

    total = mean_of(0)
    for sample in range(1, settings.n_samples):
        total.add_(mean_of(sample))
    return total.div_(settings.n_samples).cpu().numpy()


def _means_at(
    adapter: Adapter,
    covariates: Covariates,
    z: np.ndarray,
    log_library: np.ndarray,
    decoding: Decoding,
    depth: np.ndarray | None,
) -> torch.Tensor:
    """Return the means of a block at given latent variables."""
    decoded = adapter.decode_target(z, covariates)
    mean = decoded.rate().float()
    if decoding.settings.zero_inflation and decoded.zi_logits is not None:
        mean *= torch.sigmoid(-decoded.zi_logits)
    if decoding.genes is not None:
        mean = mean[:, torch.as_tensor(decoding.genes, device=mean.device)]
    factor = np.exp(log_library) if depth is None else depth
    mean *= torch.as_tensor(factor.astype(np.float32), device=mean.device)[:, None]
    return mean
