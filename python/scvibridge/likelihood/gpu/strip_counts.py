"""Map the counts of one strip of genes on the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge.likelihood.cpu import rows_of_counts
from scvibridge.likelihood.gpu import torch_backend
from scvibridge.likelihood.gpu.exact import solve_on_host
from scvibridge.likelihood.gpu.parameters import DeviceCounts, entries_at, row_and_gene
from scvibridge.likelihood.gpu.strips import PENDING, Strip
from scvibridge.likelihood.parameters import check_status

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor


def counts_of_strip(
    backend: ModuleType, strip: Strip, known: DeviceCounts | None, first_row: int
) -> DeviceCounts:
    """Sample or map the counts of one strip of genes."""
    height, n_genes = strip.shape
    device = strip.cells.device
    if n_genes == 0:
        return _empty(height, device)
    flags, invalid = backend.screen(strip)
    _check_rows(invalid, rows_of_counts.INVALID, first_row)
    places = None if known is None else _places(known, n_genes)
    if places is not None:
        flags.view(-1)[places] = 1
    positions = torch.nonzero(flags.view(-1)).ravel()
    del flags
    if not positions.numel():
        return _empty(height, device)
    observed = None
    if known is not None and places is not None:
        observed = torch.zeros(positions.shape, dtype=torch.int32, device=device)
        observed[torch.searchsorted(positions, places)] = known.data
    counts = _walk(backend, strip, positions, observed)
    _solve_pending(strip, positions, observed, counts, first_row)
    return _compressed(positions, counts, height, n_genes)


def _places(counts: DeviceCounts, n_genes: int) -> Tensor:
    """Return the positions of the counts in the flattened strip."""
    per_row = counts.indptr.diff()
    rows = torch.repeat_interleave(torch.arange(len(per_row), device=per_row.device), per_row)
    return rows * n_genes + counts.indices


def _walk(backend: ModuleType, strip: Strip, positions: Tensor, observed: Tensor | None) -> Tensor:
    """Compute counts by the backend's walks, each on what the previous one left undecided."""
    shortest, *longer = backend.WALKS
    counts: Tensor = backend.solve(strip, positions, observed, shortest)
    for longest in longer:
        pending = torch.nonzero(counts == PENDING).ravel()
        if not pending.numel():
            break
        some = None if observed is None else observed[pending]
        counts[pending] = backend.solve(strip, positions[pending], some, longest)
    return counts


def _solve_pending(
    strip: Strip, positions: Tensor, observed: Tensor | None, counts: Tensor, first_row: int
) -> None:
    """Solve pending entries on the host, and write them into `counts`."""
    pending = torch.nonzero(counts == PENDING).ravel()
    if not pending.numel():
        return
    places = positions[pending]
    solved = solve_on_host(
        torch_backend.uniforms_at(strip, places),
        None if observed is None else observed[pending],
        None if strip.source is None else entries_at(strip.source, places),
        entries_at(strip.target, places),
    )
    if (solved > rows_of_counts.LARGEST_COUNT).any():
        rows = row_and_gene(places, strip.shape[1])[0]
        too_large = torch.zeros(strip.shape[0], dtype=torch.bool, device=rows.device)
        too_large[rows[torch.from_numpy(solved > rows_of_counts.LARGEST_COUNT).to(rows.device)]] = (
            True
        )
        _check_rows(too_large, rows_of_counts.TOO_LARGE, first_row)
    counts[pending] = torch.from_numpy(solved).to(counts)


def _check_rows(flagged: Tensor, code: int, first_row: int) -> None:
    """Raise the error for `code` if any row of the strip is flagged."""
    if bool(flagged.any()):
        status = np.zeros(first_row + len(flagged), dtype=np.int8)
        status[first_row:] = np.where(flagged.cpu().numpy(), code, rows_of_counts.FINE)
        check_status(status)


def _compressed(positions: Tensor, counts: Tensor, height: int, n_genes: int) -> DeviceCounts:
    stored = torch.nonzero(counts).ravel()
    positions, counts = positions[stored], counts[stored]
    edges = torch.arange(height + 1, device=positions.device) * n_genes
    _, genes = row_and_gene(positions, n_genes)
    return DeviceCounts(torch.searchsorted(positions, edges), genes.int(), counts)


def _empty(n_cells: int, device: torch.device) -> DeviceCounts:
    none = torch.empty(0, dtype=torch.int32, device=device)
    return DeviceCounts(torch.zeros(n_cells + 1, dtype=torch.int64, device=device), none, none)


def stacked_rows(parts: list[DeviceCounts], n_cells: int, device: torch.device) -> DeviceCounts:
    """Stack the rows of several strips."""
    if len(parts) <= 1:
        return parts[0] if parts else _empty(n_cells, device)
    indptr, start = [parts[0].indptr[:1]], 0
    for part in parts:
        indptr.append(part.indptr[1:] + start)
        start += len(part.data)
    return DeviceCounts(
        torch.cat(indptr),
        torch.cat([part.indices for part in parts]),
        torch.cat([part.data for part in parts]),
    )
