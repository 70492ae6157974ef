"""Drawing of counts on a GPU: from parameters on a device to CSR there, and to the host."""

from scvibridge.gpu.copies import HostCopies
from scvibridge.gpu.drawing import quantile_counts, row_sums, sample_counts
from scvibridge.gpu.parameters import (
    DeviceCounts,
    DeviceParameters,
    hash_tensor,
    upload_counts,
)

__all__ = [
    "DeviceCounts",
    "DeviceParameters",
    "HostCopies",
    "hash_tensor",
    "quantile_counts",
    "row_sums",
    "sample_counts",
    "upload_counts",
]
