"""Compute the corrected counts of a request block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scvibridge._utils.devices import resolve_device
from scvibridge._utils.torch_threads import in_order
from scvibridge.correction.correctable import count_corrected
from scvibridge.correction.estimates import Estimates, empty_cells
from scvibridge.correction.findings import NOTHING, Found
from scvibridge.correction.mapping import Mapping
from scvibridge.correction.sampling import Sampling
from scvibridge.correction.support.scores import COLUMN, judge, masked, report, score
from scvibridge.expression import results
from scvibridge.expression.depth import Depth
from scvibridge.expression.means import DEFAULT_DEPTH, Decoding, MeanSettings, block_mean
from scvibridge.io.blocks import block_size, minibatch_entries, parts_of
from scvibridge.io.h5ad import PROVENANCE_KEY
from scvibridge.io.plan import Field
from scvibridge.likelihood.backends import drawing_on
from scvibridge.likelihood.cpu.philox import hash_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

    from scvibridge.correction.records import Reference, Request
    from scvibridge.correction.support.neighbours import TargetNeighbours
    from scvibridge.io.plan import Block
    from scvibridge.likelihood.backends import Collect
    from scvibridge.models.encoder import Cells


class Correction:
    """Compute the corrected counts of a request, block by block.

    Parameters
    ----------
    request
        The request.
    reference
        The cells to estimate from.
    estimates
        The estimates that all blocks share.
    describe
        Function that returns the provenance of the result, given which cells are supported.
    """

    def __init__(
        self,
        request: Request,
        reference: Reference,
        estimates: Estimates,
        describe: Callable[[Found], dict[str, Any]],
    ) -> None:
        self._request, self._estimates = request, estimates
        # What only the tables need; workers compute blocks.
        self._tables: _Tables | None = _Tables(request, reference, estimates, describe)
        adapter = request.adapter
        genes = adapter.genes if request.genes is None else adapter.genes[request.genes]
        shared = drawing_on(adapter.device), hash_genes(genes)
        self._method: Sampling | Mapping = (
            Sampling(request, estimates.depth, *shared)
            if estimates.mapped is None
            else Mapping(request, estimates.depth, estimates.mapped, *shared)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what only the tables need; workers compute blocks."""
        return {**self.__dict__, "_tables": None}

    @property
    def _device(self) -> torch.device:
        return resolve_device(self._request.running.device)

    @property
    def step(self) -> int:
        """Number of cells of a minibatch."""
        request, entries = self._request, minibatch_entries(self._device)
        return block_size(len(request.adapter.genes), request.running.batch_size, entries)

    def pieces(self, selection: slice) -> Iterator[Block]:
        """Compute a block of the requested cells in minibatches; yield the matrices by field."""
        device, cut = self._device, parts_of(selection, self.step)
        if device.type == "cpu":
            yield from in_order(self._collected, cut, device)
            return
        # On a device, the counts of a minibatch are transferred while the next one is computed.
        waiting: tuple[Block, Collect] | None = None
        for made in map(self._piece, cut):
            if waiting is not None:
                yield {"X": waiting[1](), **waiting[0]}
            waiting = made
        if waiting is not None:
            yield {"X": waiting[1](), **waiting[0]}

    def _collected(self, selection: slice) -> Block:
        """Compute a minibatch."""
        block, collect = self._piece(selection)
        return {"X": collect(), **block}

    def _piece(self, selection: slice) -> tuple[Block, Collect]:
        """Compute a minibatch, whose counts may still be in transfer."""
        request, adapter = self._request, self._request.adapter
        with adapter.on_device(request.running.device), torch.inference_mode():
            cells = self._estimates.encoder.cells(request.rows[selection])
            collect = self._method.counts(cells, selection)
            block = results.common_matrices(adapter, cells, request.genes)
            neighbours = self._estimates.neighbours
            if neighbours is not None:
                block[COLUMN], collect = self._support(neighbours, cells, collect)
            if request.settings.normalized:
                depth = cells.factor_at(np.full(cells.n_cells, DEFAULT_DEPTH))
                mean = block_mean(adapter, cells, _decoding(request), depth)
                block["layers/normalized"] = mean
            return block, collect

    def _support(
        self, neighbours: TargetNeighbours, cells: Cells, collect: Collect
    ) -> tuple[np.ndarray, Collect]:
        """Score the cells of a minibatch, and empty the rows of unsupported ones if requested."""
        request = self._request
        is_target = request.target.holds(cells.covariates.batch)
        scores = score(neighbours, request.adapter, cells.hashes, cells.latent.location, is_target)
        keep = scores[:, -1] > 0
        if request.settings.unsupported != "mask" or keep.all():
            return scores, collect
        return scores, lambda: masked(collect(), keep)

    def tables(self, columns: dict[str, np.ndarray], /) -> AnnData:
        """Build the result without its matrices.

        Raises
        ------
        RuntimeError
            If called in a worker.
        """
        if self._tables is None:
            raise RuntimeError("a worker computes blocks, without the tables of the result")
        return self._tables.build(columns)


class _Tables:
    """Builds the tables of a result once all its blocks are computed; see :class:`Correction`."""

    def __init__(
        self,
        request: Request,
        reference: Reference,
        estimates: Estimates,
        describe: Callable[[Found], dict[str, Any]],
    ) -> None:
        self._request, self._reference = request, reference
        self._estimates, self._describe = estimates, describe
        # Tables are built again if a file turns out to be damaged, but users are warned only once.
        self._support: Found | None = None

    def build(self, columns: dict[str, np.ndarray]) -> AnnData:
        """Build the result without its matrices, from the values that blocks returned for it."""
        request, estimates = self._request, self._estimates
        result = results.tables(request.adapter, request.data, request.rows, request.genes)
        if request.target.asked:
            names = np.array(request.adapter.batches, dtype=object)
            stratum = names[request.batch]
            result.obs[results.STRATUM_COLUMN] = pd.Categorical(stratum, categories=list(names))
        flags = {"depth_ratio": estimates.depth, "empty": empty_cells(request), **estimates.flags}
        if COLUMN in columns:
            scores = columns[COLUMN]
            flags |= {"support": scores[:, 0], "supported": scores[:, -1] > 0}
        results.add_flags(result, flags)
        if estimates.detection is not None:
            detected, data = estimates.detection.counts, self._reference.data
            # For added genes, totals are those of all genes: a batch may have no counts of them.
            with_counts = np.unique(data.covariates.batch[data.totals() > 0])
            low = estimates.detection.low()[with_counts]
            results.add_detection(result, detected, low, request.genes)
        result.uns[PROVENANCE_KEY] = self._describe(self._report_support(columns))
        return result

    def _report_support(self, columns: dict[str, np.ndarray]) -> Found:
        """Return which cells are supported, unless it is known because others were dropped."""
        request, neighbours = self._request, self._estimates.neighbours
        if neighbours is None or COLUMN not in columns or request.settings.unsupported == "drop":
            return NOTHING
        if self._support is None:
            judged = judge(request, self._reference.everyone, columns[COLUMN], neighbours.can_tell)
            self._support = report(judged, request.settings)
            if request.settings.unsupported == "mask":
                self._support += count_corrected(request, self._reference, judged.supported)
        return self._support


def fields_of(request: Request, scored: bool) -> tuple[Field, ...]:
    """Return the matrices of a result; `scored` adds the cells' support scores."""
    adapter = request.adapter
    n_genes = len(adapter.genes) if request.genes is None else len(request.genes)
    fields = [Field("X", True, np.dtype(np.int32), n_genes)]
    if request.settings.normalized:
        fields.append(Field("layers/normalized", False, np.dtype(np.float32), n_genes))
    if scored:
        fields.append(Field(COLUMN, False, np.dtype(np.float64), 3))
    return (*fields, *results.common_fields(adapter, request.data, n_genes))


def _decoding(request: Request) -> Decoding:
    """Return how the normalized layer is decoded: at the posterior mean of z, for the targets."""
    settings = MeanSettings(Depth(DEFAULT_DEPTH), seed=request.settings.seed)
    return Decoding(settings, request.genes, request.running)
