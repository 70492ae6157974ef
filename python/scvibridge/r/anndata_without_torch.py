"""Import anndata so that it does not import torch. Importing this module does it.

anndata 0.11 imports torch, if it is installed, for its ``AnnLoader``. In R's process that is too
early: `scvibridge.r.blas` has to load torch's library first, and an isolated call needs that torch
is never loaded there. ``AnnLoader`` does not work in such a process; scvi-tools does not use it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, cast


def import_anndata() -> None:
    """Import anndata as if torch were not installed, unless either is imported already."""
    if {"anndata", "torch"} & set(sys.modules):
        return
    modules = cast("dict[str, Any]", sys.modules)
    modules["torch"] = None  # for `importlib.util.find_spec`: it is not there
    try:
        importlib.import_module("anndata")
    finally:
        del modules["torch"]


import_anndata()
