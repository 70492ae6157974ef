"""Build the tables of a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.spelling import spelled
from scvibridge.diagnostics.calibration import verdicts
from scvibridge.diagnostics.calibration.advice import Gain

if TYPE_CHECKING:
    from scvibridge.diagnostics.calibration.advice import Advice
    from scvibridge.diagnostics.calibration.dispersion_fit import Refitted
    from scvibridge.diagnostics.calibration.goodness_of_fit import BatchFit
    from scvibridge.models.adapters import Adapter


def tables(
    adapter: Adapter,
    fits: list[BatchFit | None],
    refitted: Refitted | None,
    advice: Advice,
    gains: list[Gain],
) -> dict[str, Any]:
    """Tabulate the results by the names of the attributes of `Calibration`."""
    thetas = None if refitted is None else _thetas(adapter, refitted)
    return {
        "batches": verdicts.table(adapter.batches, fits),
        "overall": verdicts.overall(fits),
        "genes": _genes(adapter, fits, refitted),
        "genes_by_batch": _genes_by_batch(adapter, fits, refitted),
        "theta": None if thetas is None or advice.by is None else thetas[advice.by],
        "advice": advice.text,
        "gains": pd.DataFrame([gain.row() for gain in gains], columns=list(Gain.COLUMNS)),
    }


def _thetas(adapter: Adapter, refitted: Refitted) -> dict[str, pd.Series | pd.DataFrame]:
    columns = pd.Index(spelled(adapter.batches), name=adapter.batch_key)
    genes = pd.Index(adapter.genes, name="gene")
    return {
        "gene": pd.Series(np.exp(refitted.gene), index=genes, name="theta"),
        "gene-batch": pd.DataFrame(np.exp(refitted.batch.T), index=genes, columns=columns),
    }


def _genes_by_batch(
    adapter: Adapter, fits: list[BatchFit | None], refitted: Refitted | None
) -> pd.DataFrame:
    own = _own_theta(adapter)
    parts = []
    for code, (batch, fit) in enumerate(zip(spelled(adapter.batches), fits, strict=True)):
        unknown = np.full(len(adapter.genes), np.nan)
        by_batch = unknown if refitted is None else np.exp(refitted.batch[code])
        parts.append(
            pd.DataFrame(
                {
                    "gene": adapter.genes,
                    "batch": batch,
                    "n_cells": 0 if fit is None else fit.n_cells,
                    "mean": unknown if fit is None else fit.mean,
                    "variance": unknown if fit is None else fit.variance,
                    "theta": own[code if len(own) > 1 else 0],
                    "theta_refitted": by_batch,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _own_theta(adapter: Adapter) -> np.ndarray:
    """Return the model's own theta, with a row for each batch if it varies by batch."""
    theta = adapter.theta()
    if theta is None:
        return np.full((1, len(adapter.genes)), np.nan)
    if adapter.dispersion == "gene-batch":
        return theta
    # The fit does not use labels: average thetas by label (geometric mean).
    return np.exp(np.log(theta).mean(axis=0, keepdims=True))


def _genes(
    adapter: Adapter, fits: list[BatchFit | None], refitted: Refitted | None
) -> pd.DataFrame:
    known = [fit for fit in fits if fit is not None and fit.n_cells > 1]
    weights = np.array([fit.n_cells - 1 for fit in known])
    unknown = np.full(len(adapter.genes), np.nan)
    own = np.exp(np.log(_own_theta(adapter)).mean(axis=0))
    columns = {
        name: np.average([getattr(fit, name) for fit in known], axis=0, weights=weights)
        if known
        else unknown
        for name in ("mean", "variance")
    }
    columns["theta"] = own
    columns["theta_refitted"] = unknown if refitted is None else np.exp(refitted.gene)
    return pd.DataFrame(columns, index=pd.Index(adapter.genes, name="gene"))
