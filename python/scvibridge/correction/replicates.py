"""Check whether each batch is one replicate: a donor, patient or sample."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scvibridge._utils import arguments

if TYPE_CHECKING:
    from scvibridge.correction.records import Reference, Request


# Usual names of columns with replicates.
_REPLICATE = re.compile(
    r"(?<![a-z])(donor|patient|subject|individual|participant|person|sample|replicate|biopsy|"
    r"specimen|mouse|animal|orig[._]?ident)(?![a-z]{3})",
    re.IGNORECASE,
)

ADVICE = (
    "correcting the batch then also removes differences between replicates and between the "
    "conditions they belong to: compare conditions on the raw counts"
)

# With two samples in each of 8 batches, a share of .16 of the discoveries under ``~ condition`` was
# false (raw counts, with the batch in the design: .07); with four in each of 4, .07 (raw: .06).
FEWEST_SAMPLES = 4


def describe(request: Request, reference: Reference) -> str | None:
    """Describe how batches are replicates; None if this is unknown or they do not seem to be.

    With `sample_key`, samples are counted. Without conditions, replicates are guessed from the
    names of columns in ``obs``: the batch itself, or a column with a different value in each batch.
    """
    if len(request.adapter.batches) < 2 or request.target.asked:
        return None
    batch = reference.data.covariates.batch
    if reference.samples is not None:
        if _is_one_for_each(batch, reference.samples, own=False):
            return f"each batch has a single sample (sample_key={request.settings.sample_key!r})"
        return None
    return None if reference.condition is not None else _guess(request, reference)


def few_samples(request: Request, reference: Reference) -> str | None:
    """Warn that batches have few samples each; None if they do not, or if this is unknown.

    Removing the mean of n samples removes a share of 1 / n of the variance between them. A batch
    counts with its number of samples, the target included; the median decides.
    """
    if reference.samples is None or len(request.adapter.batches) < 2 or request.target.asked:
        return None
    known = reference.samples >= 0
    pairs = np.unique(
        np.stack([reference.data.covariates.batch[known], reference.samples[known]]), axis=1
    )
    counts, n_batches = (np.unique(part, return_counts=True)[1] for part in pairs)
    if len(counts) < 2 or not 1 < np.median(counts) < FEWEST_SAMPLES:
        return None
    if np.median(n_batches) > 1:  # batches are then compared within samples
        return None
    return (
        f"batches have few samples (sample_key={request.settings.sample_key!r}, median "
        f"{np.median(counts):g}): correcting the batch removes part of the variance between "
        "samples, so tests of the condition have too many false discoveries without the batch in "
        "the design (~ batch + condition)"
    )


def _guess(request: Request, reference: Reference) -> str | None:
    """Describe the column whose name suggests that the batch is the replicate."""
    key, batch = request.adapter.batch_key, reference.data.covariates.batch
    if key is not None and _REPLICATE.search(key):
        return f"the batch column {key!r} looks like the replicate"
    adata = reference.data.adata
    for column, dtype in zip(adata.obs.columns, adata.obs.dtypes, strict=True):
        is_number = pd.api.types.is_float_dtype(dtype)
        if column == key or is_number or not _REPLICATE.search(str(column)):
            continue
        # Nobody named this column: it may hold anything, such as a barcode of each cell.
        with suppress(TypeError, ValueError):
            codes, _ = arguments.column_codes(adata, column, "sample_key")
            if _is_one_for_each(batch, codes, own=True):
                return f"each batch has a single {column!r}"
    return None


def _is_one_for_each(batch: np.ndarray, codes: np.ndarray, *, own: bool) -> bool:
    """Return whether each batch has one value and, with `own`, each value one batch."""
    known = codes >= 0
    if not known.any():
        return False
    pairs = np.unique(np.stack([batch[known], codes[known]]), axis=1)
    n_batches, n_values = (len(np.unique(part)) for part in pairs)
    n_pairs = pairs.shape[1]
    return n_batches > 1 and n_pairs == n_batches and (not own or n_pairs == n_values)
