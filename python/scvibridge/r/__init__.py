"""Convert results to R objects, and R objects to AnnData (``scvibridge.r``).

rpy2 is imported, and R started, only by the first call.
"""

from __future__ import annotations

from scvibridge.r.objects import (
    check_available,
    from_r,
    read_rds,
    read_result,
    result_from_r,
    sce_to_seurat,
    to_sce,
    to_seurat,
    write_rds,
)

__all__ = [
    "check_available",
    "from_r",
    "read_rds",
    "read_result",
    "result_from_r",
    "sce_to_seurat",
    "to_sce",
    "to_seurat",
    "write_rds",
]
