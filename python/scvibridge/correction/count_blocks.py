"""Compute the corrected counts of a request block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scvibridge._utils.devices import resolve_device
from scvibridge._utils.torch_threads import in_order
from scvibridge.correction import parameters
from scvibridge.correction.estimates import Estimates, empty_cells
from scvibridge.correction.support.scores import COLUMN, judge, masked, record, score
from scvibridge.expression import results
from scvibridge.expression.depth import Depth
from scvibridge.expression.means import DEFAULT_DEPTH, Decoding, MeanSettings, block_mean
from scvibridge.io.blocks import block_size, minibatch_entries, parts_of, stack
from scvibridge.io.h5ad import PROVENANCE_KEY
from scvibridge.io.plan import Field
from scvibridge.likelihood.backends import drawing_on
from scvibridge.likelihood.cpu.philox import hash_names
from scvibridge.models.encoder import Cells, draw_latent, order_of_parted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

    from scvibridge.correction.records import Reference, Request
    from scvibridge.io.plan import Block
    from scvibridge.likelihood.backends import Collect


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
        Function that returns the provenance of the result.
    """

    def __init__(
        self,
        request: Request,
        reference: Reference,
        estimates: Estimates,
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        self._request, self._estimates, self._describe = request, estimates, describe
        self._reference: Reference | None = reference
        adapter, detection = request.adapter, estimates.detection
        self._low = None if detection is None else detection.low()
        untouched = None
        if self._low is not None and request.settings.is_quantile:
            untouched = request.left_alone(self._low)
        self._untouched = untouched
        self._theta = parameters.target_theta(adapter, untouched)
        genes = adapter.genes if request.genes is None else adapter.genes[request.genes]
        self._gene_hashes = hash_names(genes)
        self._kept: np.ndarray | None = None
        if request.genes_kept is not None:
            returned = np.arange(len(adapter.genes)) if request.genes is None else request.genes
            self._kept = np.isin(returned, request.genes_kept)
        self._drawing = drawing_on(adapter.device)
        self._shifts = parameters.GroupShifts.of(estimates)

    def __getstate__(self) -> dict[str, Any]:
        """Drop what only describes the result; workers compute blocks."""
        return {**self.__dict__, "_describe": None, "_reference": None}

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
            make = self._quantile if request.settings.is_quantile else self._sample
            collect = make(cells, selection)
            block = results.common_matrices(adapter, cells, request.genes)
            if self._estimates.neighbours is not None:
                block[COLUMN], collect = self._support(cells, collect)
            if request.settings.normalized:
                depth = cells.factor_at(np.full(cells.n_cells, DEFAULT_DEPTH))
                mean = block_mean(adapter, cells, _decoding(request), depth)
                block["layers/normalized"] = mean
            return block, collect

    def _support(self, cells: Cells, collect: Collect) -> tuple[np.ndarray, Collect]:
        """Score the cells of a minibatch, and empty the rows of unsupported ones if requested."""
        request, neighbours = self._request, self._estimates.neighbours
        assert neighbours is not None  # noqa: S101 - checked by the caller
        is_target = request.target.holds(cells.covariates.batch)
        scores = score(neighbours, request.adapter, cells.names, cells.latent.location, is_target)
        keep = scores[:, -1] > 0
        if request.settings.unsupported != "mask" or keep.all():
            return scores, collect
        return scores, lambda: masked(collect(), keep)

    def _sample(self, cells: Cells, selection: slice) -> Collect:
        """Sample counts from the posterior predictive distribution under the target batches."""
        request, adapter = self._request, self._request.adapter
        z, log_library = draw_latent(cells, request.settings.seed)
        drawn = parameters.sampled_parameters(
            adapter,
            cells,
            z,
            log_library,
            self._estimates.depth[selection],
            self._theta.target,
            request.settings.zero_inflation,
        )
        if adapter.uses_size_factor:
            # A softplus scale does not add up to one, so keep the depth of the observed batch.
            after = self._drawing.sums(drawn)
            own = replace(drawn, rate=parameters.own_rate(adapter, cells, z))
            before = self._drawing.sums(own)
            drawn = parameters.renormalised(drawn, before, after, np.ones(cells.n_cells))
        return self._drawing.sample(
            drawn.of_genes(request.genes),
            cells.hashes,
            self._gene_hashes,
            request.settings.seed,
        )

    def _quantile(self, cells: Cells, selection: slice) -> Collect:
        """Map the cells' counts from the likelihood of the observed batch to that of the target."""
        positions = np.arange(selection.start, selection.stop)
        changed = self._changed(cells, positions)
        if changed.all():
            return self._map(cells, positions)
        kept = cells.selected_counts(self._request.genes)
        assert kept is not None  # noqa: S101 - quantile without counts was refused
        if not changed.any():
            return lambda: kept
        collect = self._map(cells.take(changed), positions[changed])
        order = order_of_parted(changed)
        return lambda: stack([collect(), kept[~changed]])[order]

    def _changed(self, cells: Cells, positions: np.ndarray) -> np.ndarray:
        """Return which cells can change: all except those of the target at unchanged depth."""
        request = self._request
        if not request.keep_unchanged:
            return np.ones(cells.n_cells, dtype=bool)
        mapped = request.target.changes(cells.covariates.batch)
        return mapped | (self._estimates.depth[positions] != 1.0)

    def _map(self, cells: Cells, positions: np.ndarray) -> Collect:
        request, groups = self._request, self._estimates.groups
        shifts = self._shifts.take(positions)
        if groups is None:
            assert self._untouched is not None  # noqa: S101 - quantile has counts, hence detection
            source, target = parameters.cell_parameters(
                request.adapter, cells, self._theta, self._untouched, shifts
            )
        else:
            assert self._estimates.group_rows is not None  # noqa: S101 - there are groups
            group_rows = self._estimates.group_rows[positions]
            source, target = parameters.group_parameters(
                request.adapter, cells, self._theta, groups, group_rows, shifts
            )
        before = after = np.ones(cells.n_cells)
        if request.adapter.renormalises:
            before, after = self._drawing.sums(source), self._drawing.sums(target)
        depth = self._estimates.depth[positions]
        target = parameters.renormalised(target, before, after, depth)
        counts = cells.selected_counts(request.genes)
        assert counts is not None  # noqa: S101 - quantile without counts was refused
        collect = self._drawing.map(
            counts,
            source.of_genes(request.genes),
            target.of_genes(request.genes),
            cells.hashes,
            self._gene_hashes,
            request.settings.seed,
            request.keep_unchanged,
        )
        kept = self._kept
        if kept is None or not kept.any():
            return collect
        return lambda: with_columns_of(collect(), counts, kept)

    def tables(self, columns: dict[str, np.ndarray], /) -> AnnData:
        """Build the result without its matrices."""
        request, estimates = self._request, self._estimates
        result = results.tables(request.adapter, request.data, request.rows, request.genes)
        if request.target.asked:
            names = np.array(request.adapter.batches, dtype=object)
            stratum = names[request.batch]
            result.obs[results.STRATUM_COLUMN] = pd.Categorical(stratum, categories=list(names))
        flags = {"depth_ratio": estimates.depth, "empty": empty_cells(request), **estimates.flags}
        if COLUMN in columns:
            flags |= self._support_flags(columns[COLUMN])
        results.add_flags(result, flags)
        if estimates.detection is not None and self._low is not None:
            present = estimates.detection.counts.any(axis=1)
            low = self._low[present]
            results.add_detection(result, estimates.detection.counts, low, request.genes)
        result.uns[PROVENANCE_KEY] = self._describe()
        return result

    def _support_flags(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of ``obs``, and record the outcome for the provenance."""
        request, neighbours = self._request, self._estimates.neighbours
        assert self._reference is not None  # noqa: S101 - not in a worker
        assert neighbours is not None  # noqa: S101 - there are scores
        record(request, judge(request, self._reference.everyone, scores, neighbours.can_tell))
        return {"support": scores[:, 0], "supported": scores[:, -1] > 0}


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


def with_columns_of(changed: sp.csr_matrix, own: sp.csr_matrix, kept: np.ndarray) -> sp.csr_matrix:
    """Take some columns of the own counts, and the others of the changed ones."""

    def columns(matrix: sp.csr_matrix, mask: np.ndarray) -> sp.csr_matrix:
        entries = mask[matrix.indices]
        ends = np.concatenate([[0], np.cumsum(entries)])
        indptr = ends[matrix.indptr].astype(matrix.indptr.dtype)
        data = matrix.data[entries].astype(np.int32, copy=False)
        return sp.csr_matrix((data, matrix.indices[entries], indptr), shape=matrix.shape)

    together = columns(changed, ~kept) + columns(own, kept)
    together.sort_indices()
    together.has_canonical_format = True
    return together


def _decoding(request: Request) -> Decoding:
    """Return how the normalized layer is decoded: at the posterior mean of z, for the targets."""
    settings = MeanSettings(Depth(DEFAULT_DEPTH), seed=request.settings.seed)
    return Decoding(settings, request.genes, request.running)
