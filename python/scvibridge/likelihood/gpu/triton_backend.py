"""Compute counts with two Triton kernels: for all entries, and for those that may be above 0.

The first kernel evaluates the probability of 0 and flags entries; most are certainly 0. The second
works on the compacted list of the others and walks upwards from 0, summing masses in double
precision. A count is left `PENDING` if it is farther away than the longest walk, or if rounding
could affect it.

A program of the second kernel is a single warp, so that its loop ends as soon as its own entries
are done and needs no barrier. Multiplications and additions are not fused, so that counts do not
depend on the compiler's choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
from torch import Tensor

from scvibridge.likelihood.gpu.triton_kernels import screen_kernel, solve_kernel

if TYPE_CHECKING:
    from scvibridge.likelihood.gpu import strips
    from scvibridge.likelihood.parameters import DeviceParameters

WALKS = (64, 16384)

"""Longest walks, one after the other, so that long ones do not delay short ones."""

# Two per thread: with more, double precision spills registers.
_GENES_PER_PROGRAM = 256

_ENTRIES_PER_PROGRAM = 64


class _Pointers(NamedTuple):
    """Parameters as kernel arguments: pointers, and None for missing tensors."""

    rate: Any
    factor: Any
    theta: Any
    theta_row: Any
    zi_logits: Any
    ratio: Any
    zi_shift: Any
    shift_row: Any


def strip_entries(device: torch.device) -> int:
    """Return the number of entries of a strip: one byte each, and 40 for each count above 0."""
    return 2**27 if device.type == "cuda" else 2**19


def screen(strip: strips.Strip) -> tuple[Tensor, Tensor]:
    """Flag entries whose count may be above 0, assuming that the observed counts are 0.

    Returns
    -------
    flags : uint8, shape (h, G)
        0 if the count is certainly 0.
    invalid : uint8, shape (h,)
        1 for rows with a mean that is negative or not finite, or a logit that is NaN.
    """
    height, n_genes = strip.shape
    device = strip.cells.device
    flags = torch.empty((height, n_genes), dtype=torch.uint8, device=device)
    invalid = torch.zeros(height, dtype=torch.uint8, device=device)
    grid = (height, triton.cdiv(n_genes, _GENES_PER_PROGRAM))
    screen_kernel[grid](
        _pointers(strip.source),
        _pointers(strip.target),
        strip.cells,
        strip.genes,
        strip.seed,
        flags,
        invalid,
        n_genes,
        block=_GENES_PER_PROGRAM,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return flags, invalid


def solve(strip: strips.Strip, positions: Tensor, observed: Tensor | None, longest: int) -> Tensor:
    """Sample or map the counts of some entries by walking upwards from 0.

    Parameters
    ----------
    strip
        The strip of rows.
    positions
        Positions of N entries in the flattened strip, int64.
    observed
        Their counts, int32; None to sample counts.
    longest
        Maximum number of steps.

    Returns
    -------
    Tensor of int32, shape (N,)
        The counts; `PENDING` if a count is farther away than `longest`, or if rounding could affect
        it.
    """
    counts = torch.empty(positions.shape, dtype=torch.int32, device=positions.device)
    solve_kernel[(triton.cdiv(positions.numel(), _ENTRIES_PER_PROGRAM),)](
        _pointers(strip.source),
        _pointers(strip.target),
        strip.cells,
        strip.genes,
        strip.seed,
        positions,
        observed,
        counts,
        positions.numel(),
        strip.shape[1],
        longest,
        keep_unchanged=strip.keep_unchanged,
        block=_ENTRIES_PER_PROGRAM,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return counts


def _pointers(parameters: DeviceParameters | None) -> _Pointers | None:
    if parameters is None:
        return None
    tensors = parameters.arrays()
    return _Pointers(*(tensors.get(name) for name in _Pointers._fields))
