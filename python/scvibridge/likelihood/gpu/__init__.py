"""Compute counts on a GPU: from parameters to CSR on the device, and to the host."""

from __future__ import annotations

from scvibridge.likelihood.gpu.copies import HostCopies
from scvibridge.likelihood.gpu.drawing import quantile_counts, row_sums, sample_counts
from scvibridge.likelihood.gpu.parameters import (
    DeviceCounts,
    hash_tensor,
    upload_counts,
)

__all__ = [
    "DeviceCounts",
    "HostCopies",
    "hash_tensor",
    "quantile_counts",
    "row_sums",
    "sample_counts",
    "upload_counts",
]
