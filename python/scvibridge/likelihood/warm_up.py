"""Compile the kernels before they are needed."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scvibridge.likelihood.cpu.nearest import Tiles, nearest
from scvibridge.likelihood.cpu.philox import LATENT_STREAM, hash_names, standard_normals
from scvibridge.likelihood.cpu.products import multiply_counts
from scvibridge.likelihood.cpu.tally import count_detections
from scvibridge.likelihood.on_cpu import mean_sums, quantile_counts, randomised_pit, sample_counts
from scvibridge.likelihood.parameters import CountParameters


def compile_kernels() -> None:
    """Call each kernel on two cells and two genes, with the dtypes of a model's counts.

    Later processes find the compiled kernels on disk, unless no folder is writable.
    """
    names, genes = hash_names(["cell 1", "cell 2"]), hash_names(["gene 1", "gene 2"])
    counts = sparse.csr_matrix(np.array([[1, 0], [2, 3]], dtype=np.int32))
    one, two = (
        CountParameters(
            np.full((2, 2), mean, dtype=np.float32),
            np.ones(2),
            np.ones((1, 2)),
            np.zeros(2, dtype=np.intp),
            None,
        )
        for mean in (1.0, 2.0)
    )
    sample_counts(one, names, genes, seed=0)
    quantile_counts(counts, one, two, names, genes, seed=0)
    randomised_pit(counts, one, names, genes, seed=0)
    mean_sums(one)
    standard_normals(names, 2, 0, LATENT_STREAM)
    nearest(np.zeros((2, 2)), Tiles.of(np.ones((2, 2))), 1)
    multiply_counts(
        counts.indptr,
        counts.indices,
        counts.data,
        np.ones((2, 2), dtype=np.float32),
        logarithm=True,
        out=np.zeros((2, 2), dtype=np.float32),
    )
    detected, totals = np.zeros((1, 2), dtype=np.int64), np.zeros(2)
    group = np.zeros(2, dtype=np.int64)
    count_detections(counts.indptr, counts.indices, counts.data, group, detected, totals)
