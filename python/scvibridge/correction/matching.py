"""Match labels, conditions and samples of the requested cells by name to those of the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import arguments, values_as_text, wording
from scvibridge._utils.spelling import spelled
from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.correction.findings import NOTHING, Found, noted
from scvibridge.models import same_cells

if TYPE_CHECKING:
    from anndata import AnnData

    from scvibridge.correction.records import Reference, Request
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


# Warn, instead of only recording a note, if a larger share of cells has no group.
MOST_UNMATCHED = 0.05

# Number of names that a message lists for each side.
_MOST_NAMES = 6

_CONSEQUENCES = {
    "labels_key": "these count as cells without a label",
    "condition_key": "these count as cells without a condition",
    "sample_key": "differences between their samples are not preserved",
}


def column_of(
    adapter: Adapter, adata: AnnData, key: str, argument: str
) -> tuple[np.ndarray, list[Any]]:
    """Return the codes of a column of ``obs`` (-1 where missing) and its categories.

    For labels, the "unlabeled" category of a semi-supervised model counts as missing.
    """
    codes, names = arguments.column_codes(adata, key, argument)
    unlabelled = adapter.registry.setup.get("unlabeled_category")
    if argument != "labels_key" or unlabelled is None:
        return codes, names
    return values_as_text.as_missing(codes, names, unlabelled)


def codes_of(
    request: Request, data: CellData, argument: str
) -> tuple[np.ndarray | None, list[Any]]:
    """Return codes and names of the column that an argument names; None if it was not passed."""
    key = request.settings.column(argument)
    return (None, []) if key is None else column_of(request.adapter, data.adata, key, argument)


def positions_of(names: list[Any], known: list[Any]) -> np.ndarray:
    """Return the position of each name among the known ones, plus a last entry -1 for code -1.

    See :func:`scvibridge._utils.values_as_text.positions_of`.
    """
    return np.append(values_as_text.positions_of(names, known), -1)


def codes_of_cells(request: Request, argument: str, known: list[Any]) -> np.ndarray:
    """Return the codes of the requested cells among the names of the reference; -1 for none."""
    key = request.settings.require_column(argument)
    codes, names = column_of(request.adapter, request.data.adata, key, argument)
    return positions_of(names, known)[codes][request.rows]


def check_columns(request: Request, reference: Reference) -> Found:
    """Check that labels, conditions and samples of the requested cells match the reference.

    Raises
    ------
    ValueError
        If a column has no values, or none that both the cells and the reference have.
    """
    found = NOTHING
    for argument, (codes, names) in reference.columns().items():
        if codes is None:
            continue
        key = request.settings.column(argument)
        if not names:
            raise ValueError(
                empty_column(request, argument, "the data from which effects are estimated")
            )
        if request.data is reference.data or key not in request.data.adata.obs:
            continue
        found += _check_names(request, argument, names)
        found += _check_same_cells(request, reference, argument, codes, names)
    return found


def empty_column(request: Request, argument: str, where: str) -> str:
    """Return the message for a column without values."""
    word = request.adapter.registry.setup.get("unlabeled_category")
    unlabelled = argument == "labels_key" and word is not None
    values = f"missing or {word!r}, which the model uses for unlabeled cells" * unlabelled
    return (
        f"{argument}={request.settings.column(argument)!r}: the column has no values in {where} "
        f"(all are {values or 'missing'}). Pass another column, or omit {argument}"
    )


def _check_names(request: Request, argument: str, known: list[Any]) -> Found:
    """Refuse names if the reference has none of them; warn if many are unknown to it."""
    key = request.settings.require_column(argument)
    codes, names = column_of(request.adapter, request.data.adata, key, argument)
    place = positions_of(names, known)
    if not (place[codes] >= 0).any():
        # This also applies if only some cells are requested: they are corrected like the whole.
        own = [names[code] for code in np.unique(codes) if code >= 0]
        raise ValueError(_no_match(request, argument, own, known))
    codes = codes[request.rows][request.target.changes(request.batch)]
    is_unknown = (codes >= 0) & (place[codes] < 0)
    if not is_unknown.any():
        return NOTHING
    unknown = [names[code] for code in np.unique(codes[is_unknown])]
    return noted(
        f"{argument}={key!r}: {int(is_unknown.sum())} of {len(codes)} cells have values that are "
        f"not in the data from which effects are estimated; {_CONSEQUENCES[argument]}: "
        f"{_sides(unknown, known)}",
        warn=is_unknown.sum() > MOST_UNMATCHED * len(codes),
    )


def _check_same_cells(
    request: Request, reference: Reference, argument: str, known: np.ndarray, names: list[Any]
) -> Found:
    """Warn if cells that are in both data sets belong to different groups in the two."""
    key, own = request.settings.require_column(argument), request.data
    codes, own_names = column_of(request.adapter, own.adata, key, argument)
    n_other, n_shared = same_cells.n_other_groups(
        (own.names, reference.data.names), (codes, known), positions_of(own_names, names)
    )
    if n_other <= same_cells.MOST_DIFFERING * n_shared:
        return NOTHING
    return noted(
        f"{argument}={key!r}: {n_other} of {n_shared} cells have other values in the data "
        "passed than in the model's data, from which effects are estimated. Assign the new "
        f"values, model.adata.obs[{key!r}] = ..., or give the new values a column name that "
        "the model's data do not have: effects are then estimated from the data passed",
        warn=True,
    )


def _no_match(request: Request, argument: str, names: list[Any], known: list[Any]) -> str:
    if not names:
        return empty_column(request, argument, "the cells to correct")
    return (
        f"{argument}={request.settings.column(argument)!r} matches nothing: "
        f"{_sides(names, known)}. Use the same names in both, or omit {argument}"
    )


def _sides(names: list[Any], known: list[Any]) -> str:
    """List the names of both sides, and suggest the nearest known name."""
    return (
        f"the cells have {wording.list_names(names, _MOST_NAMES)}; the data from which effects "
        f"are estimated have {wording.list_names(known, _MOST_NAMES)}"
        f"{wording.suggest(names[0], known)}"
    )


# -- groups --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Groupless:
    """Numbers of cells to correct that have no effect of their label, by reason.

    Attributes
    ----------
    asked
        Number of cells to correct.
    missing, unknown, few
        Number of cells without a label, with a label unknown to the reference, and with a label
        that has too few cells in their batch.
    absent
        Number of cells of each label that the target lacks, by name.
    """

    asked: int
    missing: int
    unknown: int
    few: int
    absent: dict[str, int]

    @property
    def total(self) -> int:
        """Number of cells without an effect of their label."""
        return self.missing + self.unknown + self.few + sum(self.absent.values())

    def reasons(self) -> str:
        """List the reasons."""
        parts = {
            "have no label": self.missing,
            "have a label that is not in the data from which effects are estimated": self.unknown,
            f"have a label with fewer than {MIN_GROUP_CELLS} cells in their batch": self.few,
        }
        found = [f"{n} {text}" for text, n in parts.items() if n]
        if self.absent:
            found.append(
                f"{sum(self.absent.values())} have a label that the target lacks "
                f"({wording.list_names(self.absent, _MOST_NAMES)})"
            )
        return ", ".join(found)


def check_groups(request: Request, reference: Reference) -> Found:
    """Check that cells have an effect of their label, not only that of their batch.

    Raises
    ------
    ValueError
        If no label has one.
    """
    if request.settings.effect != "label" or not request.target.changes(request.batch).any():
        return NOTHING
    sizes = _sizes(request, reference)
    key = f"labels_key={request.settings.labels_key!r}"
    targets = wording.list_names(request.adapter.batches[code] for code in request.target.codes)
    if not _has_groups(request, sizes).any():
        raise ValueError(_no_groups(request, reference, sizes))
    without = _without_group(request, reference, sizes)
    if not without.total:
        return NOTHING
    many = {name: n for name, n in without.absent.items() if n >= MIN_GROUP_CELLS}
    rest = without.total - sum(many.values())
    found = noted(
        f"labels: {without.total} of {without.asked} cells to correct used the effect of their "
        f"batch ({key}): {without.reasons()}",
        warn=rest > MOST_UNMATCHED * without.asked,
    )
    if not many:
        return found
    among = "" if reference.chosen is None else " among those of estimate_on"
    found += Found(values={"labels_missing_from_target": list(many)})
    return found + noted(
        f"labels: the target ({targets}) has no cells of "
        f"{wording.list_names(many, _MOST_NAMES)}{among}. The batch effect on these types is "
        f"unknown, and their {sum(many.values())} cells use the average effect of their batch. "
        "Do not compare them with other types; choose a target that has these types, or leave "
        "them out",
        warn=True,
    )


def _sizes(request: Request, reference: Reference) -> np.ndarray:
    """Count reference cells by batch and label, shape ``(n_batches, n_labels)``."""
    labels = reference.codes("labels_key")
    n_batches, n_labels = len(request.adapter.batches), len(reference.label_names)
    known = labels >= 0
    place = reference.data.covariates.batch[known] * n_labels + labels[known]
    return np.bincount(place, minlength=n_batches * n_labels).reshape(n_batches, n_labels)


def _has_groups(request: Request, sizes: np.ndarray) -> np.ndarray:
    """Return which labels of which batches have an effect, apart from those of a single target."""
    in_target = sizes[request.target.codes].sum(axis=0) > 0
    has_group = (sizes >= MIN_GROUP_CELLS) & in_target
    if request.target.unchanged_batch is not None:
        has_group[request.target.unchanged_batch] = False
    return has_group


def _no_groups(request: Request, reference: Reference, sizes: np.ndarray) -> str:
    """Explain why no label has an effect, and list the labels of both sides."""
    in_target = sizes[request.target.codes].sum(axis=0) > 0
    others = np.delete(sizes, request.target.codes, axis=0).sum(axis=0) > 0

    def shown(mask: np.ndarray) -> str:
        names = [reference.label_names[code] for code in np.flatnonzero(mask)]
        return wording.list_names(names, _MOST_NAMES) if names else "no labelled cells"

    targets = wording.list_names(request.adapter.batches[code] for code in request.target.codes)
    return (
        f"labels_key={request.settings.labels_key!r} does not give any cell a batch effect of its "
        f"label, which needs at least {MIN_GROUP_CELLS} cells of the label in a batch and some in "
        f"the target. The target ({targets}) has {shown(in_target)}, the other batches have "
        f"{shown(others)}. Pass a column of cell types that they share, or use effect='global'"
    )


def _without_group(request: Request, reference: Reference, sizes: np.ndarray) -> _Groupless:
    """Count the cells that use the effect of their batch, by reason."""
    n_labels = sizes.shape[1]
    asked = request.target.changes(request.batch)
    key = request.settings.require_column("labels_key")
    own, _ = column_of(request.adapter, request.data.adata, key, "labels_key")
    given = own[request.rows][asked]
    label = codes_of_cells(request, "labels_key", reference.label_names)[asked]
    in_target = sizes[request.target.codes].sum(axis=0) > 0
    is_absent = (label >= 0) & ~in_target[label]
    of_batch = sizes[request.batch[asked], label]
    few = (label >= 0) & ~is_absent & (of_batch < MIN_GROUP_CELLS)
    counted = np.bincount(label[is_absent], minlength=n_labels)
    names = spelled(reference.label_names)
    return _Groupless(
        asked=int(asked.sum()),
        missing=int((given < 0).sum()),
        unknown=int(((given >= 0) & (label < 0)).sum()),
        few=int(few.sum()),
        absent={names[code]: int(counted[code]) for code in np.flatnonzero(counted)},
    )
