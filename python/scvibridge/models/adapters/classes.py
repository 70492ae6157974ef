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

_NO_BATCH = "its decoder knows no batch that could be exchanged"

_NO_COUNTS = "it models no counts of RNA"

REFUSED = {
    "AmortizedLDA": "its topics are decoded without a batch",
    "CellAssign": "it assigns types by markers and has no latent space to decode from",
    "ContrastiveVI": "it has two latent spaces, background and salient, and which of them a target "
    "batch should keep is not defined",
    "CYTOVI": "it models intensities of proteins, which are no counts of RNA",
    "Decipher": _NO_BATCH,
    "DIAGVI": "it joins modalities of different cells, each decoded by a head of its own",
    "DRVI": "its decoder adds up parts of the latent space, and has not been compared with it yet",
    "DestVI": "it decomposes spots into types, whose counts are not those of cells",
    "GIMVI": "it decodes spatial and sequenced cells by two heads, so that a target batch is "
    "another technology's genes",
    "JointEmbeddingSCVI": "it is new in scvi-tools 1.5, and has not been compared with it yet",
    "MLXSCVI": "it runs in MLX, not in torch",
    "METHYLANVI": _NO_COUNTS,
    "METHYLVI": _NO_COUNTS,
    "MRVI": "its decoder attends to samples, and the counterfactual of a sample is its own: use "
    "its get_local_sample_distances and differential_expression",
    "PEAKVI": "it models whether peaks are open, which are no counts of RNA",
    "POISSONVI": "it models fragments in peaks, which are no counts of RNA",
    "RESOLVI": "its counts mix those of neighbouring cells, and diffuse background",
    "RNAStereoscope": _NO_BATCH,
    "SCAR": "it removes ambient counts, and decodes them beside the cell's own",
    "SCBASSET": "it models peaks from their sequences, which are no counts of RNA",
    "SCVIVA": "it decodes a cell together with its neighbourhood",
    "SOLO": "it tells doublets, and has no decoder",
    "SpatialStereoscope": "it decomposes spots into types, whose counts are not those of cells",
    "SysVI": "it models normalised values by a Gaussian, which are no counts",
    "Tangram": "it places cells in space, and has no decoder",
    "VIVS": "it tests which features depend on each other",
    "VELOVI": "it models spliced and unspliced counts by their kinetics",
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
