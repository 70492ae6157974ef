"""Sums over the counts of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from scvibridge.kernels.compilation import kernel


@kernel
def count_detections(
    indptr: npt.NDArray[np.integer[Any]],
    indices: npt.NDArray[np.integer[Any]],
    data: npt.NDArray[np.integer[Any]],
    group: npt.NDArray[np.int64],
    detected: npt.NDArray[np.int64],
    totals: npt.NDArray[np.float64],
) -> None:
    """Add to `detected` (n_groups, G) the rows that hold a gene, and fill `totals` (n,).

    The rows are CSR without stored zeros; `group` (n,) is the row of `detected` for each.
    """
    for row in range(totals.shape[0]):
        total = 0
        seen = detected[group[row]]
        for stored in range(indptr[row], indptr[row + 1]):
            seen[indices[stored]] += 1
            total += data[stored]
        totals[row] = total
