"""Convert results to R objects, and R objects to AnnData (``scvibridge.r``).

rpy2 is imported, and R started, only by the first call.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


# By name, so that R's process can import `scvibridge.r.anndata_without_torch` first.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'scvibridge.r' has no attribute {name!r}")
    return getattr(importlib.import_module("scvibridge.r.objects"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
