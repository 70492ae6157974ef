"""Labels, conditions and samples of the cells asked for, by name among the reference cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import arguments, wording
from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.models import same_cells

if TYPE_CHECKING:
    from anndata import AnnData

    from scvibridge.correction.records import Reference, Request
    from scvibridge.models.adapters import Adapter


# A larger share of cells without a group is a warning, not only a note.
MOST_UNMATCHED = 0.05

# Names of either side that a message spells out.
_MOST_NAMES = 6

_CONSEQUENCES = {
    "labels_key": "they count as cells without a label",
    "condition_key": "they count as cells without a condition",
    "sample_key": "their counts do not keep what their sample differs by",
}


def column_of(
    adapter: Adapter, adata: AnnData, key: str, argument: str
) -> tuple[np.ndarray, list[Any]]:
    """Return the codes of a column of ``obs`` (-1 where missing) and its categories.

    Among labels, the category that stands for "not labelled" in a semi-supervised model is missing.
    """
    codes, names = arguments.column_codes(adata, key, argument)
    unlabelled = adapter.registry.setup.get("unlabeled_category")
    if argument != "labels_key" or unlabelled is None or unlabelled not in names:
        return codes, names
    kept = [name for name in names if name != unlabelled]
    return positions_of(names, kept)[codes], kept


def positions_of(names: list[Any], known: list[Any]) -> np.ndarray:
    """Position of each name among those known, and a last entry of -1 for the code -1.

    A number and the same number written as text are one name, unless both are known.
    """
    exact = {name: code for code, name in enumerate(known)}
    texts: dict[str, int] = {}
    for code, name in enumerate(known):
        texts[str(name)] = -1 if str(name) in texts else code
    found = [exact.get(name, texts.get(str(name), -1)) for name in names]
    return np.array([*found, -1], dtype=np.int64)


def codes_of_cells(request: Request, argument: str, known: list[Any]) -> np.ndarray:
    """Return the codes of the cells asked for among the names of the reference; -1 where none."""
    key = _key(request, argument)
    codes, names = column_of(request.adapter, request.data.adata, key, argument)
    return positions_of(names, known)[codes][request.rows]


def _key(request: Request, argument: str) -> str:
    """Return the column that an argument names; it is asked for."""
    key = request.settings.column(argument)
    assert key is not None  # noqa: S101 - the reference has its codes
    return key


def check_columns(request: Request, reference: Reference) -> None:
    """Check that labels, conditions and samples of the cells are those of the reference.

    Raises
    ------
    ValueError
        If a column holds no values, or none that both the cells and the reference have.
    """
    for argument, (codes, names) in reference.columns().items():
        if codes is None:
            continue
        key = request.settings.column(argument)
        if not names:
            raise ValueError(
                empty_column(request, argument, "the data that effects are estimated on")
            )
        if request.data is reference.data or key not in request.data.adata.obs:
            continue
        _check_names(request, argument, names)
        _check_same_cells(request, reference, argument, codes, names)


def empty_column(request: Request, argument: str, where: str) -> str:
    """Say that a column holds no values."""
    word = request.adapter.registry.setup.get("unlabeled_category")
    unlabelled = argument == "labels_key" and word is not None
    values = f"missing or {word!r}, the model's word for cells without a label" * unlabelled
    return (
        f"{argument}={request.settings.column(argument)!r}: the column has no value in {where} "
        f"(all are {values or 'missing'}): name another column, or leave {argument} out"
    )


def _check_names(request: Request, argument: str, known: list[Any]) -> None:
    """Refuse names of which the reference has none, and warn where many are unknown to it."""
    key = _key(request, argument)
    codes, names = column_of(request.adapter, request.data.adata, key, argument)
    place = positions_of(names, known)
    if not (place[codes] >= 0).any():
        # Also where some cells alone are asked for: these are corrected as the whole would be.
        own = [names[code] for code in np.unique(codes) if code >= 0]
        raise ValueError(_no_match(request, argument, own, known))
    codes = codes[request.rows][request.target.changes(request.batch)]
    is_unknown = (codes >= 0) & (place[codes] < 0)
    if not is_unknown.any():
        return
    unknown = [names[code] for code in np.unique(codes[is_unknown])]
    request.note(
        f"{argument}={key!r}: {int(is_unknown.sum())} of {len(codes)} cells have values that the "
        f"data that effects are estimated on lack, so that {_CONSEQUENCES[argument]}: "
        f"{_sides(unknown, known)}",
        warn=is_unknown.sum() > MOST_UNMATCHED * len(codes),
    )


def _check_same_cells(
    request: Request, reference: Reference, argument: str, known: np.ndarray, names: list[Any]
) -> None:
    """Warn where cells that both data have are of other groups in the one than in the other."""
    key, own = _key(request, argument), request.data
    codes, own_names = column_of(request.adapter, own.adata, key, argument)
    n_other, n_shared = same_cells.n_other_groups(
        (own.names, reference.data.names), (codes, known), positions_of(own_names, names)
    )
    if n_other > same_cells.MOST_DIFFERING * n_shared:
        request.note(
            f"{argument}={key!r}: {n_other} of {n_shared} cells have another value in the data "
            "given than in the model's own data, on which effects are estimated. Bring the two "
            f"together, model.adata.obs[{key!r}] = ..., or give the new values a column of another "
            "name, which the model's data lack: effects are then estimated on the data given",
            warn=True,
        )


def _no_match(request: Request, argument: str, names: list[Any], known: list[Any]) -> str:
    if not names:
        return empty_column(request, argument, "the cells to correct")
    return (
        f"{argument}={request.settings.column(argument)!r} matches nothing: "
        f"{_sides(names, known)}. Give both the same names, or leave {argument} out"
    )


def _sides(names: list[Any], known: list[Any]) -> str:
    """Name both sides, and the nearest known name."""
    return (
        f"the cells have {wording.list_names(names, _MOST_NAMES)}, the data that effects are "
        f"estimated on have {wording.list_names(known, _MOST_NAMES)}"
        f"{wording.suggest(names[0], known)}"
    )


# -- groups --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Groupless:
    """Cells that are to be corrected and have no effect of their label, by the reason.

    Attributes
    ----------
    asked
        Number of cells to be corrected.
    missing, unknown, few
        Number of cells without a label, with a label unknown to the reference, and with one that
        has too few cells in their batch.
    absent
        Number of cells of each label that the target lacks, by its name.
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
        """Spell the reasons out."""
        parts = {
            "have no label": self.missing,
            "have a label that the data that effects are estimated on lack": self.unknown,
            f"have a label of fewer than {MIN_GROUP_CELLS} cells in their batch": self.few,
        }
        found = [f"{n} {text}" for text, n in parts.items() if n]
        if self.absent:
            found.append(
                f"{sum(self.absent.values())} have a label that the target lacks "
                f"({wording.list_names(self.absent, _MOST_NAMES)})"
            )
        return ", ".join(found)


def check_groups(request: Request, reference: Reference) -> None:
    """Check that cells have an effect of their label, rather than that of their whole batch.

    Raises
    ------
    ValueError
        If no label has one.
    """
    if request.settings.effect != "label" or not request.target.changes(request.batch).any():
        return
    sizes = _sizes(request, reference)
    key = f"labels_key={request.settings.labels_key!r}"
    targets = wording.list_names(request.adapter.batches[code] for code in request.target.codes)
    if not _has_groups(request, sizes).any():
        raise ValueError(_no_groups(request, reference, sizes))
    found = _without_group(request, reference, sizes)
    if not found.total:
        return
    many = {name: n for name, n in found.absent.items() if n >= MIN_GROUP_CELLS}
    rest = found.total - sum(many.values())
    request.note(
        f"labels: {found.total} of {found.asked} cells to correct took the effect of their whole "
        f"batch ({key}): {found.reasons()}",
        warn=rest > MOST_UNMATCHED * found.asked,
    )
    if many:
        request.corrected["labels_missing_from_target"] = list(many)
        among = "" if reference.chosen is None else " among those of estimate_on"
        request.note(
            f"labels: the target ({targets}) has no cell of "
            f"{wording.list_names(many, _MOST_NAMES)}{among}: how the batch affects these types is "
            f"not known, and their {sum(many.values())} cells take the average effect of their "
            "batch. Do not compare them with other types; choose a target that has them, or leave "
            "them out",
            warn=True,
        )


def _sizes(request: Request, reference: Reference) -> np.ndarray:
    """Number of reference cells by batch and label, shape ``(n_batches, n_labels)``."""
    assert reference.labels is not None  # noqa: S101 - effect="label" has labels
    n_batches, n_labels = len(request.adapter.batches), len(reference.label_names)
    known = reference.labels >= 0
    place = reference.data.covariates.batch[known] * n_labels + reference.labels[known]
    return np.bincount(place, minlength=n_batches * n_labels).reshape(n_batches, n_labels)


def _has_groups(request: Request, sizes: np.ndarray) -> np.ndarray:
    """Which labels of which batches have an effect, but for those of a single target."""
    in_target = sizes[request.target.codes].sum(axis=0) > 0
    has_group = (sizes >= MIN_GROUP_CELLS) & in_target
    if request.target.home is not None:
        has_group[request.target.home] = False
    return has_group


def _no_groups(request: Request, reference: Reference, sizes: np.ndarray) -> str:
    """Say that labels are of no use, and what either side has."""
    in_target = sizes[request.target.codes].sum(axis=0) > 0
    others = np.delete(sizes, request.target.codes, axis=0).sum(axis=0) > 0

    def shown(mask: np.ndarray) -> str:
        names = [reference.label_names[code] for code in np.flatnonzero(mask)]
        return wording.list_names(names, _MOST_NAMES) if names else "no labelled cells"

    targets = wording.list_names(request.adapter.batches[code] for code in request.target.codes)
    return (
        f"labels_key={request.settings.labels_key!r} gives no cell a batch effect of its label, "
        f"which takes {MIN_GROUP_CELLS} cells of it in a batch and some in the target: the target "
        f"({targets}) has {shown(in_target)}, the other batches have {shown(others)}. Name a "
        "column of cell types that they share, or use effect='global'"
    )


def _without_group(request: Request, reference: Reference, sizes: np.ndarray) -> _Groupless:
    """Count the cells that take the effect of their whole batch, by the reason."""
    n_labels = sizes.shape[1]
    asked = request.target.changes(request.batch)
    key = _key(request, "labels_key")
    own, _ = column_of(request.adapter, request.data.adata, key, "labels_key")
    given = own[request.rows][asked]
    label = codes_of_cells(request, "labels_key", reference.label_names)[asked]
    in_target = sizes[request.target.codes].sum(axis=0) > 0
    is_absent = (label >= 0) & ~in_target[label]
    of_batch = sizes[request.batch[asked], label]
    few = (label >= 0) & ~is_absent & (of_batch < MIN_GROUP_CELLS)
    counted = np.bincount(label[is_absent], minlength=n_labels)
    return _Groupless(
        asked=int(asked.sum()),
        missing=int((given < 0).sum()),
        unknown=int(((given >= 0) & (label < 0)).sum()),
        few=int(few.sum()),
        absent={
            str(reference.label_names[code]): int(counted[code]) for code in np.flatnonzero(counted)
        },
    )
