"""The scvi-tools classes that are supported, and why the others are not."""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from typing import Any

from scvibridge._utils.wording import printable

# The scvi-tools module that defines each class.
SUPPORTED = {
    "SCVI": "scvi.model",
    "LinearSCVI": "scvi.model",
    "SCANVI": "scvi.model",
    "AUTOZI": "scvi.model",
    "CondSCVI": "scvi.model",
    "TOTALVI": "scvi.model",
    "TOTALANVI": "scvi.external",
    "MULTIVI": "scvi.model",
}

# The first version of scvi-tools whose class is supported, and why those before are not.
_SINCE = {"CondSCVI": ((1, 4, 1), "before, its counts followed another distribution")}

_NO_BATCH = "its decoder has no batch that could be changed"

_NO_COUNTS = "it does not model RNA counts"

REFUSED = {
    "AmortizedLDA": "its topics are decoded without a batch",
    "CellAssign": "it assigns cell types by markers and has no latent space to decode",
    "ContrastiveVI": "it has two latent spaces, background and salient, and it is not defined "
    "which of them a change of the batch should keep",
    "CYTOVI": "it models protein intensities, not RNA counts",
    "Decipher": _NO_BATCH,
    "DIAGVI": "it integrates modalities of different cells, each decoded by a separate head",
    "DRVI": "its decoder sums components of the latent space and has not been tested with "
    "scvibridge yet",
    "DestVI": "it decomposes spots into cell types; its counts are not those of cells",
    "GIMVI": "it decodes spatial and sequenced cells with separate heads, so decoding a cell in "
    "another batch would return the genes of the other technology",
    "JointEmbeddingSCVI": "it is new in scvi-tools 1.5 and has not been tested with scvibridge yet",
    "JaxSCVI": "it runs in JAX, not in PyTorch",
    "MLXSCVI": "it runs in MLX, not in PyTorch",
    "METHYLANVI": _NO_COUNTS,
    "METHYLVI": _NO_COUNTS,
    "MRVI": "its decoder attends to samples, and the class computes counterfactual samples itself: "
    "use its get_local_sample_distances and differential_expression",
    "PEAKVI": "it models whether peaks are accessible, not RNA counts",
    "POISSONVI": "it models fragments in peaks, not RNA counts",
    "RESOLVI": "its counts include those of neighbouring cells and diffuse background",
    "RNAStereoscope": _NO_BATCH,
    "SCAR": "it removes ambient counts and decodes them together with the cell's counts",
    "SCBASSET": "it models peaks from their sequences, not RNA counts",
    "SCVIVA": "it decodes a cell together with its neighbours",
    "SOLO": "it detects doublets and has no decoder",
    "SpatialStereoscope": "it decomposes spots into cell types; its counts are not those of cells",
    "SysVI": "it models normalised values with a Gaussian, not counts",
    "Tangram": "it places cells in space and has no decoder",
    "VIVS": "it tests which features depend on each other",
    "VELOVI": "it models the kinetics of spliced and unspliced counts",
}

# Other names of these classes in other versions, and variants.
_SAME = {
    "JaxMRVI": "MRVI",
    "TorchMRVI": "MRVI",
    "SCVIVAE": "SCVIVA",
    "SYSVI": "SysVI",
    "mlxSCVI": "MLXSCVI",
    "CONTRASTIVEVI": "ContrastiveVI",
}


def check_class(name: str) -> None:
    """Raise an error for a class that is not supported, with the reason.

    Raises
    ------
    TypeError
        If the class is not supported, or not in the installed version of scvi-tools.
    """
    if name in SUPPORTED:
        _check_version(name)
        return
    reason = REFUSED.get(_SAME.get(name, name))
    why = "scvibridge does not know this class" if reason is None else reason
    raise TypeError(
        f"models of class {printable(name)} are not supported: {why}. "
        f"Supported: {', '.join(SUPPORTED)}"
    )


def _check_version(name: str) -> None:
    if name not in _SINCE:
        return
    first, reason = _SINCE[name]
    installed = metadata.version("scvi-tools")
    if tuple(map(int, re.findall(r"\d+", installed)[:3])) < first:
        needed = ".".join(map(str, first))
        raise TypeError(
            f"models of class {name} need scvi-tools {needed} or later ({reason}), but scvi-tools "
            f"{installed} is installed"
        )


def find_class(name: str) -> Any:
    """Return the scvi-tools class with this name.

    Raises
    ------
    TypeError
        If the class is not supported.
    """
    check_class(name)
    return getattr(importlib.import_module(SUPPORTED[name]), name)
