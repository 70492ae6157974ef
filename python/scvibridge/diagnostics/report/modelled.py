"""Compute what requires the model: support, calibration and normalized expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.diagnostics.report.provenance import asked_for
from scvibridge.io.row_reader import RowReader, with_rows

if TYPE_CHECKING:
    from anndata import AnnData

    from scvibridge.diagnostics.report.reading import Result


# Number of rows of a dense layer that are read at once.
_ROWS_PER_READ = 512

_NO_EXPRESSION = (
    "There is no normalized expression: compute the result with normalized=True (--normalized), or "
    "pass model= (--model)"
)


@dataclass(frozen=True)
class Model:
    """A model and the data to decode, if any."""

    model: Any
    adata: AnnData | str | None
    progress: bool

    def support(self, result: Result) -> Any:
        """Compute support in the target batches, by :func:`scvibridge.batch_support`."""
        from scvibridge.diagnostics.batch_support import batch_support

        found = batch_support(
            self.model,
            adata=self.adata,
            **asked_for(result),
            labels_key=None if result.labels is None else result.labels.key,
            condition_key=None if result.condition is None else result.condition.key,
            progress=self.progress,
        )
        if not found.cells.index.isin(result.adata.obs_names).any():
            raise ValueError("the model's data have none of the result's cells: pass adata=")
        return found

    def calibration(self, seed: int) -> Any:
        """Compute the model's calibration, by :func:`scvibridge.calibration`."""
        from scvibridge.diagnostics.calibration.calibration import calibration

        return calibration(self.model, adata=self.adata, seed=seed, progress=self.progress)

    def expression(self, result: Result, genes: np.ndarray) -> np.ndarray:
        """Compute normalized expression of the chosen cells at the target, ``(n_chosen, n)``."""
        from scvibridge.expression.normalized import normalized_expression

        made = normalized_expression(
            self.model,
            adata=self.adata,
            **asked_for(result),
            gene_list=[result.genes[gene] for gene in genes],
            indices=list(result.adata.obs_names[result.chosen]),
            progress=self.progress,
        )
        return np.asarray(made.X)


def expression_of(
    result: Result, genes: np.ndarray, model: Model | None
) -> tuple[np.ndarray | None, str]:
    """Return normalized expression of the chosen cells for some genes, and its source.

    It is read from the result's layer or else decoded by the model; None, with the reason, without
    either.
    """
    if result.has_normalized:
        layer = result.adata.layers["normalized"]
        return _columns(layer, result.chosen, genes), "layers['normalized'] of the result"
    if model is None:
        return None, _NO_EXPRESSION
    try:
        return model.expression(result, genes), "decoded by the model"
    except ValueError as error:  # e.g. if the model's data lack the cells of the result
        return None, f"The normalized expression cannot be computed from the model: {error}"


def _columns(layer: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    reader = RowReader(with_rows(layer))
    cuts = range(0, len(rows), _ROWS_PER_READ)
    parts = [reader.read(rows[cut : cut + _ROWS_PER_READ])[:, columns].toarray() for cut in cuts]
    return np.concatenate(parts)
