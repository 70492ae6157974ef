"""Corrected counts by other packages: sva's ComBat-seq, inmoose's pycombat_seq, scvi-tools."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = Path(__file__).with_name("combat_seq.R")


def can_correct(samples: pd.DataFrame) -> bool:
    """Return whether ComBat-seq accepts these samples.

    It needs two batches, two samples in each, and a condition that is not confounded with the
    batches.
    """
    sizes = samples["batch"].value_counts()
    if (sizes > 0).sum() < 2 or (sizes[sizes > 0] < 2).any():
        return False
    batch, condition = (
        pd.get_dummies(samples[key].astype(str)).to_numpy(float) for key in ("batch", "condition")
    )
    design = np.hstack([batch, condition[:, 1:]])
    return bool(np.linalg.matrix_rank(design) == design.shape[1])


def combat_seq(counts: np.ndarray, samples: pd.DataFrame) -> np.ndarray:
    """Run ``sva::ComBat_seq``.

    Parameters
    ----------
    counts
        Shape ``(n_samples, n_genes)``.
    samples
        Column ``batch``, and covariates to keep.

    Returns
    -------
    Counts of the same shape.

    Raises
    ------
    RuntimeError
        If ComBat-seq stops, with its message.
    """
    (corrected,) = combat_seq_of_all([(counts, samples)])
    if isinstance(corrected, RuntimeError):
        raise corrected
    return corrected


def combat_seq_of_all(
    cases: Sequence[tuple[np.ndarray, pd.DataFrame]],
) -> list[np.ndarray | RuntimeError]:
    """Run :func:`combat_seq` on several matrices in one R process, whose start takes seconds.

    Returns
    -------
    The corrected counts of each case, or the error with which ComBat-seq stopped.
    """
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(number)) for number in range(len(cases))]
        for folder, (counts, samples) in zip(folders, cases, strict=True):
            folder.mkdir()
            np.asarray(counts, dtype="<f8").tofile(folder / "counts")
            samples.to_csv(folder / "samples.csv", index=False)
        command = ["Rscript", str(SCRIPT), *map(str, folders)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [
            np.fromfile(folder / "corrected", dtype="<f8").reshape(counts.shape)
            if (folder / "corrected").exists()
            else RuntimeError((folder / "error").read_text().strip())
            for folder, (counts, _) in zip(folders, cases, strict=True)
        ]


def pycombat_seq(counts: np.ndarray, samples: pd.DataFrame) -> np.ndarray:
    """Run ``inmoose.pycombat.pycombat_seq``; arguments and result as for :func:`combat_seq`."""
    from inmoose.pycombat import pycombat_seq as correct

    covariates = samples.drop(columns="batch")
    varying = covariates[[c for c in covariates if len(set(covariates[c])) > 1]].astype(str)
    silence = contextlib.redirect_stdout(io.StringIO())
    with silence, warnings.catch_warnings(), _no_log():
        warnings.simplefilter("ignore")
        corrected = correct(
            np.asarray(counts, dtype=np.int64).T,
            samples["batch"].astype(str).to_numpy(),
            covar_mod=varying if varying.shape[1] else None,
        )
    return np.asarray(corrected, dtype=float).T


@contextlib.contextmanager
def _no_log() -> Any:
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def posterior_predictive(model: Any, target: str, seed: int) -> Any:
    """Run scvi-tools' ``posterior_predictive_sample``, one sample under one target batch: CSR."""
    import scvi

    scvi.settings.seed = seed
    drawn = model.posterior_predictive_sample(n_samples=1, transform_batch=target)
    return drawn.to_scipy_sparse().tocsr().astype(np.int32)
