"""Sum the counts of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from scvibridge.likelihood.cpu.compilation import entry, kernel

# -- sums and packing ------------------------------------------------------------------------------


@kernel
def _row_sum(rate: npt.NDArray[np.floating[Any]], ratio: npt.NDArray[np.float64]) -> float:
    # Eight sums in parallel: a single one would wait for each addition to finish.
    sums = np.zeros(8)
    whole = rate.shape[0] // 8 * 8
    for start in range(0, whole, 8):
        for lane in range(8):
            sums[lane] += np.float64(rate[start + lane]) * ratio[start + lane]
    for gene in range(whole, rate.shape[0]):
        sums[0] += np.float64(rate[gene]) * ratio[gene]
    total = 0.0
    for lane in range(8):
        total += sums[lane]
    return total


@entry
def row_sums(
    rate: npt.NDArray[np.floating[Any]],
    ratio: npt.NDArray[np.float64],
    shift_row: npt.NDArray[np.intp],
    out: npt.NDArray[np.float64],
) -> None:
    """Fill `out` (n,) with the sums over genes of rate * ratio."""
    for row in range(rate.shape[0]):
        out[row] = _row_sum(rate[row], ratio[shift_row[row]])


@entry
def count_detections(
    indptr: npt.NDArray[np.integer[Any]],
    indices: npt.NDArray[np.integer[Any]],
    data: npt.NDArray[np.integer[Any]],
    group: npt.NDArray[np.int64],
    detected: npt.NDArray[np.int64],
    totals: npt.NDArray[np.float64],
) -> None:
    """Add to `detected` (n_groups, G) the number of rows with each gene, and fill `totals` (n,).

    The rows are CSR without stored zeros; `group` (n,) is the row of `detected` for each.
    """
    for row in range(totals.shape[0]):
        total = 0
        seen = detected[group[row]]
        for stored in range(indptr[row], indptr[row + 1]):
            seen[indices[stored]] += 1
            total += data[stored]
        totals[row] = total
