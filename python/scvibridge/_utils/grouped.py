"""Sums over groups of cells."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def members_of(group: np.ndarray, n_groups: int) -> sp.csr_matrix:
    """Return the matrix whose product with values of cells sums them by group.

    Parameters
    ----------
    group
        Group of each cell, shape ``(n_cells,)``.
    n_groups
        Number of groups.

    Returns
    -------
    Ones where a cell belongs to a group, shape ``(n_groups, n_cells)``.
    """
    cells = np.arange(len(group))
    return sp.csr_matrix((np.ones(len(group)), (group, cells)), (n_groups, len(group)))
