"""Drawing by two Triton kernels: one over all entries, one over those that may be above 0.

The first evaluates the probability of 0 and leaves a flag for each entry; most are 0 for sure. The
second works on the compacted list of the others and walks up from 0, summing masses in double
precision. A count is left `PENDING` where it is farther away than the walk is long, or where
rounding may have a say in it.

A program of the second kernel is a single warp, so that its loop ends as soon as its own entries
are done and needs no barrier. Multiplications and additions are not fused: what is drawn does not
depend on what the compiler makes of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
from torch import Tensor

from scvibridge.likelihood.gpu.triton_kernels import screen_kernel, solve_kernel

if TYPE_CHECKING:
    from scvibridge.likelihood.gpu import strips
    from scvibridge.likelihood.gpu.parameters import DeviceParameters

WALKS = (64, 16384)

"""Longest walks, one after the other: long ones must not hold up the short ones beside them."""

# Two for each thread: with more, the double precision spills registers.
_GENES_PER_PROGRAM = 256

_ENTRIES_PER_PROGRAM = 64


class _Pointers(NamedTuple):
    """`DeviceParameters` as a kernel takes them: pointers, and None for what there is not."""

    rate: Any
    factor: Any
    theta: Any
    theta_row: Any
    zi_logits: Any
    ratio: Any
    ratio_row: Any
    zi_shift: Any


def strip_entries(device: torch.device) -> int:
    """Entries of a strip: a byte for each, and some 40 for each count above 0."""
    return 2**27 if device.type == "cuda" else 2**19


def screen(strip: strips.Strip) -> tuple[Tensor, Tensor]:
    """Flag entries whose count may be above 0, assuming that the observed counts are 0.

    Returns
    -------
    flags : uint8, shape (h, G)
        0 where the count is certainly 0.
    invalid : uint8, shape (h,)
        1 for rows with a mean that is negative or not finite, or a logit that is not a number.
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
    """Draw or map the counts of some entries by walking up from 0.

    Parameters
    ----------
    strip
        The strip of rows.
    positions
        Places of N entries in the flattened strip, int64.
    observed
        Their counts, int32; None where counts are drawn.
    longest
        Largest number of steps.

    Returns
    -------
    Tensor of int32, shape (N,)
        The counts; `PENDING` where a count is farther away than `longest`, or where rounding may
        have a say in it.
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
    return _Pointers(*(getattr(parameters, name) for name in _Pointers._fields))
