"""Select the cells from which batch effects and depth are estimated (`estimate_on`).

They are controls, bridge samples or a pool that was measured in every batch. They differ between
batches only by the batch effect, which is then removed from all cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils import arguments, selections, wording
from scvibridge._utils.arguments import shown
from scvibridge._utils.values_as_text import as_text, positions_of, quoted
from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.correction.chosen_cells import ARGUMENT, EstimationCells, describe_values
from scvibridge.correction.findings import NOTHING, Found, noted

if TYPE_CHECKING:
    from anndata import AnnData

    from scvibridge.correction.records import Reference, Request
    from scvibridge.correction.settings import CorrectionSettings


def check_applies(estimate_on: Any, settings: CorrectionSettings) -> None:
    """Raise an error if no effect is estimated from groups of cells.

    Raises
    ------
    ValueError
        If effects are those of single cells, or counts are sampled.
    """
    if estimate_on is None or settings.has_groups:
        return
    found = "method='sample'" if settings.method == "sample" else "effect='cell'"
    raise ValueError(
        f"{ARGUMENT} requires method='quantile' with effect='label', 'global' or 'local': with "
        f"{found}, no batch effect is estimated from groups of cells"
    )


def restrict(request: Request, reference: Reference) -> Reference:
    """Return the requested reference cells, or all of them if none were requested.

    Raises
    ------
    TypeError, ValueError
        If cells are not found, or none of them are of the target or of a batch to be corrected.
    """
    if request.estimate_on is None:
        return reference
    chosen = _choose(request.estimate_on, reference, same=reference.data is request.data)
    found = _check_batches(request, reference, chosen)
    return replace(reference.restricted(chosen), found=reference.found + found)


def _choose(given: Any, reference: Reference, *, same: bool) -> EstimationCells:
    adata = reference.data.adata
    if isinstance(given, Mapping):
        asked = {key: _values(key, values) for key, values in given.items()}
        rows = _rows_of_values(asked, adata)
        return EstimationCells(rows, adata.n_obs, {k: list(v) for k, v in asked.items()})
    if isinstance(given, str | bytes):
        raise TypeError(
            f"{ARGUMENT} must be values by column, a mask or a list of cell names, got the single "
            f"name {given!r}"
        )
    if selections.goes_by_position(given, ARGUMENT) and not same:
        raise ValueError(
            f"{ARGUMENT} is a mask without names, but effects are estimated on the model's data, "
            "which have other cells: pass a mask with cell names, or values by column"
        )
    rows = np.sort(selections.resolve_indices(given, adata, ARGUMENT))
    return EstimationCells(rows, adata.n_obs, None)


def _values(key: Any, values: Any) -> list[Any]:
    """Return the requested values of a column, one or several, as a list."""
    if not isinstance(key, str):
        raise TypeError(f"{ARGUMENT} must have names of columns as keys, got {shown(key)}")
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes)
    listed = list(values) if several else [values]
    if not listed:
        raise ValueError(f"{ARGUMENT} lists no values for the column {key!r}")
    if any(pd.api.types.is_scalar(value) and pd.isna(value) for value in listed):
        raise ValueError(
            f"{ARGUMENT} lists a missing value (NA) for the column {key!r}: first fill in a value "
            "for the cells that have none"
        )
    return [value.item() if isinstance(value, np.generic) else value for value in listed]


def _rows_of_values(asked: Mapping[str, list[Any]], adata: AnnData) -> np.ndarray:
    """Return the positions of the cells that have one of the values in every column."""
    if not asked:
        raise ValueError(f"{ARGUMENT} is empty: it has no column")
    chosen = np.ones(adata.n_obs, dtype=bool)
    for key, values in asked.items():
        codes, names = arguments.column_codes(adata, key, ARGUMENT)
        place = positions_of(values, names)
        unknown = [value for value, code in zip(values, place, strict=True) if code < 0]
        if unknown:
            raise ValueError(
                f"{ARGUMENT}: in the data on which effects are estimated, the column {key!r} has "
                f"no value {quoted(unknown[0])}; it has {wording.list_names(names, 6)}"
                f"{wording.suggest(as_text(unknown[0]), [as_text(name) for name in names])}"
            )
        chosen &= np.isin(codes, place)
    if not chosen.any():
        raise ValueError(f"{ARGUMENT} selects no cells: no cell has {describe_values(asked)}")
    return np.flatnonzero(chosen)


def _check_batches(request: Request, reference: Reference, chosen: EstimationCells) -> Found:
    """Raise an error if a batch has no selected cells, and warn if it has few."""
    n_batches = len(request.adapter.batches)
    batch = reference.data.covariates.batch
    sizes, everyone = (np.bincount(b, minlength=n_batches) for b in (batch[chosen.rows], batch))
    own = request.batch
    needed = np.union1d(own[request.target.changes(own)], request.target.codes).astype(np.int64)
    needed = needed[everyone[needed] > 0]

    def named(codes: np.ndarray) -> str:
        return wording.list_names((request.adapter.batches[code] for code in codes), 6)

    lacking = needed[sizes[needed] == 0]
    if len(lacking):
        is_target = "the target " if set(lacking.tolist()) & set(request.target.codes) else ""
        raise ValueError(
            f"{ARGUMENT} selects no cells of {is_target}{named(lacking)}, only cells of "
            f"{named(np.flatnonzero(sizes))}: the effect of a batch is estimated from cells of "
            "the batch and of the target. Select cells that every batch has, or leave out the "
            "batches without such cells (indices=)"
        )
    few = needed[sizes[needed] < MIN_GROUP_CELLS]
    if not len(few):
        return NOTHING
    return noted(
        f"{ARGUMENT} selects fewer than {MIN_GROUP_CELLS} cells of {named(few)}: effects "
        "estimated from so few cells depend on single cells",
        warn=True,
    )
