"""What the R package needs to call functions of a model with R's own data first.

Nothing here imports torch or scvi-tools, or needs the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anndata import AnnData

from scvibridge.r_objects import csr_matrix
from scvibridge.raw_counts import ORIGIN_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def fit_to_model(
    adata: AnnData,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    beside: Sequence[Mapping[str, Any]] = (),
) -> AnnData:
    """Put counts from ``X`` where a model reads them, under its names of genes.

    Parameters
    ----------
    adata
        Cells by genes, raw counts in ``X``. It is not changed.
    genes
        New names of its genes; as they are if None.
    layer
        The layer that the model reads; ``X`` if None.
    beside
        Counts of proteins or regions of the same cells: the ``key`` in ``obsm`` that the model
        reads, ``n`` of them, and ``counts``, vectors of a CSR matrix, cells x n.

    Returns
    -------
    AnnData that shares the counts.
    """
    var = adata.var.copy()
    if genes is not None:
        var.index = list(genes)
    obsm = dict(adata.obsm)
    for part in beside:
        obsm[part["key"]] = csr_matrix(part["counts"], int(part["n"]))
    uns = dict(adata.uns)
    if layer is not None and ORIGIN_KEY in uns:
        uns[ORIGIN_KEY] = {**uns[ORIGIN_KEY], "slot": layer}
    tables = {"obs": adata.obs, "var": var, "obsm": obsm, "uns": uns}
    if layer is None:
        return AnnData(adata.X, **tables)
    return AnnData(layers={layer: adata.X}, **tables)
