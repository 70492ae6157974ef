"""Formats of zarr: anndata 0.11 and zarr 2 have one."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import zarr

IS_ZARR_2 = not hasattr(zarr.Group, "create_array")


def new_group(path: Path) -> Any:
    """Return a new group of format 2, which every version of zarr writes."""
    settings = {} if IS_ZARR_2 else {"zarr_format": 2}
    return zarr.open_group(path, mode="w", **settings)


def add_array(group: Any, name: str, values: np.ndarray, **settings: Any) -> Any:
    """Add an array to a group; zarr 2 has another name for that."""
    create = getattr(group, "create_array", None) or group.create_dataset
    return create(name, data=values, **settings)


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
