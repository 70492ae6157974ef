"""Which classes of scvi-tools are supported, and why the others are not."""

from __future__ import annotations

import importlib
from typing import Any

from scvibridge._utils.wording import printable

# Module of scvi-tools that holds each class.
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

_NO_BATCH = "its decoder does not use a batch"

_NO_COUNTS = "it does not model RNA counts"

REFUSED = {
    "AmortizedLDA": "its topics are decoded without a batch",
    "CellAssign": "it assigns types by markers and has no latent space to decode from",
    "ContrastiveVI": "it has two latent spaces, background and salient, and it is not defined "
    "which of them a target batch should keep",
    "CYTOVI": "it models protein intensities, not RNA counts",
    "Decipher": _NO_BATCH,
    "DIAGVI": "it joins modalities of different cells, each with a separate decoder",
    "DRVI": "its additive decoder is not supported yet",
    "DestVI": "it decomposes spots into cell types and models no counts of cells",
    "GIMVI": "it has separate decoders for spatial and sequenced cells, so a target batch would "
    "have the genes of another technology",
    "JointEmbeddingSCVI": "it is new in scvi-tools 1.5 and not supported yet",
    "MLXSCVI": "it runs on MLX, not on torch",
    "METHYLANVI": _NO_COUNTS,
    "METHYLVI": _NO_COUNTS,
    "MRVI": "its decoder attends to samples and has its own counterfactuals: use "
    "its get_local_sample_distances and differential_expression",
    "PEAKVI": "it models whether peaks are open, not RNA counts",
    "POISSONVI": "it models fragments in peaks, not RNA counts",
    "RESOLVI": "it models counts as mixtures of a cell, its neighbours and background",
    "RNAStereoscope": _NO_BATCH,
    "SCAR": "it removes ambient counts, which it decodes separately from those of the cell",
    "SCBASSET": "it models peaks from their sequences, not RNA counts",
    "SCVIVA": "it decodes a cell together with its neighbourhood",
    "SOLO": "it detects doublets and has no decoder",
    "SpatialStereoscope": "it decomposes spots into cell types and models no counts of cells",
    "SysVI": "it models normalised values with a Gaussian, not counts",
    "Tangram": "it places cells in space and has no decoder",
    "VIVS": "it tests which features depend on each other",
    "VELOVI": "it models the kinetics of spliced and unspliced counts",
}

# Names of the same under other versions, and of variants.
_SAME = {
    "JaxMRVI": "MRVI",
    "TorchMRVI": "MRVI",
    "SCVIVAE": "SCVIVA",
    "SYSVI": "SysVI",
    "mlxSCVI": "MLXSCVI",
    "CONTRASTIVEVI": "ContrastiveVI",
}


def check_class(name: str) -> None:
    """Refuse a class that is not supported, by name and with the reason.

    Raises
    ------
    TypeError
        If it is not supported.
    """
    if name in SUPPORTED:
        return
    reason = REFUSED.get(_SAME.get(name, name))
    why = "it is no class that scvibridge knows" if reason is None else reason
    raise TypeError(
        f"models of class {printable(name)} are not supported: {why}. "
        f"Supported: {', '.join(SUPPORTED)}"
    )


def find_class(name: str) -> Any:
    """Return the class of scvi-tools of this name.

    Raises
    ------
    TypeError
        If it is not supported.
    """
    check_class(name)
    return getattr(importlib.import_module(SUPPORTED[name]), name)
