"""The format of zarr that anndata writes, which anndata 0.11 cannot choose."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anndata as ad
import pytest


def written_as(zarr_format: int) -> AbstractContextManager[Any]:
    """Let anndata write a format within the context; skip the test if it cannot."""
    if hasattr(ad.settings, "zarr_write_format"):
        return ad.settings.override(zarr_write_format=zarr_format)
    if zarr_format != 2:
        pytest.skip("anndata before 0.12 writes format 2 alone")
    return nullcontext()


def format_of(group: Any) -> int:
    """Return the format of a group."""
    return group.metadata.zarr_format if hasattr(group, "metadata") else 2


def is_consolidated(group: Any) -> bool:
    """Return whether a group has consolidated metadata."""
    if hasattr(group, "metadata"):
        return group.metadata.consolidated_metadata is not None
    return ".zmetadata" in group.store
