"""AnnData that are read lazily, as anndata does since 0.12."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import pytest

if TYPE_CHECKING:
    from pathlib import Path


def if_possible(path: Path) -> list[ad.AnnData]:
    """Return the AnnData of a file, read lazily; nothing if anndata cannot do so."""
    return [ad.experimental.read_lazy(path)] if hasattr(ad.experimental, "read_lazy") else []


def read(path: Path) -> ad.AnnData:
    """Return the AnnData of a file, read lazily; skip the test if anndata cannot do so."""
    if not hasattr(ad.experimental, "read_lazy"):
        pytest.skip("anndata before 0.12 does not read lazily")
    return ad.experimental.read_lazy(path)
