"""Get the support of cells from the result, from a BatchSupport or from a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.spelling import spelled
from scvibridge._utils.wording import list_names
from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.correction.support.tables import SUPPORTED, TOO_FEW, batches_apart
from scvibridge.diagnostics.report.blocks import Cell, Table, plain, table_of
from scvibridge.diagnostics.report.evidence import in_target

if TYPE_CHECKING:
    from scvibridge.diagnostics.report.reading import Groups, Result


_MOST_TYPES, _MOST_BATCHES = 25, 10

# Largest shares of unsupported cells for each colour of a table cell.
_LEVELS = (0.01, 0.05, 0.25, 0.5)


@dataclass(frozen=True)
class Support:
    """Which cells of the result are supported.

    Attributes
    ----------
    unsupported
        Shape ``(n_cells,)``: 1 for unsupported cells, 0 for supported ones, NaN if unknown.
    of_others
        Share of unsupported cells among the known cells of other batches than the target, or NaN.
    table
        Verdicts by label and batch, as in results and in :func:`scvibridge.batch_support`, or None.
    summary
        The summary of a BatchSupport; empty otherwise.
    by_label
        Whether the table has rows by label, not only by batch.
    """

    unsupported: np.ndarray
    of_others: float
    table: pd.DataFrame | None = None
    summary: str = ""
    by_label: bool = True

    @property
    def has_labels(self) -> bool:
        """Whether there is a table with rows by label."""
        return self.table is not None and self.by_label

    @property
    def unmixed(self) -> dict[str, float]:
        """Batches that the model has not mixed with the target; see `tables.batches_apart`."""
        return batches_apart(self.table) if self.table is not None and self.by_label else {}


def support_of(result: Result, given: Any) -> Support | None:
    """Return support as passed, or else as stored in the result; None without either.

    Raises
    ------
    ValueError
        If the support passed is for another target, or has none of the result's cells.
    """
    if given is None:
        supported = result.flag("supported")
        if supported is None:
            return None
        unsupported = 1.0 - np.asarray(supported, dtype=np.float64)
        table = result.provenance.get("support_by_label")
        labels = None if table is None else pd.DataFrame(dict(table))
        return Support(unsupported, _of_others(result, unsupported), labels)
    targets = spelled(given.settings["transform_batch"])
    if set(targets) != set(result.targets):
        raise ValueError(
            f"support= is for the target {list_names(targets)}, but the counts are for "
            f"{list_names(result.targets)}: pass batch_support() for the same target"
        )
    supported = given.cells["supported"].reindex(result.adata.obs_names)
    if supported.isna().all():
        raise ValueError(
            "support= has none of the result's cells: pass batch_support() for these cells"
        )
    unsupported = 1.0 - supported.astype(float).to_numpy()
    share = _of_others(result, unsupported)
    by_label = given.settings["labels_key"] is not None
    return Support(unsupported, share, given.labels, _first_lines(given.summary()), by_label)


def _first_lines(summary: str) -> str:
    """Return the summary without its lines by label, which the tables contain."""
    return "\n".join(line for line in summary.splitlines() if not line.startswith(" "))


def _of_others(result: Result, unsupported: np.ndarray) -> float:
    values = unsupported[~in_target(result)]
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def support_table(result: Result, support: Support | None) -> Table:
    """Tabulate cells and unsupported cells by type and batch, coloured as a heat map."""
    batches = _shown(result.batch, _MOST_BATCHES, result.targets)
    types = _shown(result.types, _MOST_TYPES, [])
    sizes = _grid(result, np.ones(result.n_cells))
    shares = None
    if support is not None:
        # Cells whose support is unknown do not count as unsupported.
        with np.errstate(invalid="ignore"):
            shares = _grid(result, np.nan_to_num(support.unsupported)) / sizes
    rows = [
        [Cell(plain(result.types.names[t], 40)), *(_cell(sizes, shares, b, t) for b in batches)]
        for t in types
    ]
    names = [plain(result.batch.names[b], 24) for b in batches]
    head = [f"{name} (target)" if name in result.targets else name for name in names]
    caption = "Cells by type and batch"
    if support is not None:
        caption += ", with the share of cells without support in the target in brackets"
    return Table(caption, ["", *head], rows, _rest(result, batches, types))


def verdict_table(support: Support) -> Table | None:
    """Return the labels and batches that are not or only partly supported; None if there are none.

    Those with too few cells are in the table of cells, in italics.
    """
    if support.table is None or "verdict" not in support.table:
        return None
    doubtful = support.table[~support.table["verdict"].isin((SUPPORTED, TOO_FEW))]
    if doubtful.empty:
        return None
    return table_of(doubtful.reset_index(drop=True), "Types and batches that are not supported")


def condition_table(batch: Groups, condition: Groups) -> Table:
    """Tabulate cells by condition and batch."""
    shown = _shown(batch, _MOST_BATCHES, [])
    sizes = np.zeros((len(condition.names), len(batch.names)), dtype=np.int64)
    np.add.at(sizes, (condition.codes, batch.codes), 1)
    rows = [
        [Cell(plain(name, 40)), *(_count(sizes[c, b]) for b in shown)]
        for c, name in enumerate(condition.names[:_MOST_TYPES])
    ]
    head = [f"{condition.key}", *(plain(batch.names[b], 24) for b in shown)]
    rest = len(batch.names) - len(shown)
    note = f"Only the largest batches are shown; there are {rest:,} more." if rest else ""
    return Table("Cells by condition and batch", head, rows, note)


def _shown(groups: Groups, most: int, first: list[str]) -> list[int]:
    """Return the positions of the groups to show: `first`, then the largest."""
    by_size = sorted(
        range(len(groups.names)), key=lambda i: (groups.names[i] not in first, -groups.sizes[i])
    )
    return sorted(by_size[:most])


def _grid(result: Result, values: np.ndarray) -> np.ndarray:
    grid = np.zeros((len(result.batch.names), len(result.types.names)))
    np.add.at(grid, (result.batch.codes, result.types.codes), values)
    return grid


def _cell(sizes: np.ndarray, shares: np.ndarray | None, batch: int, kind: int) -> Cell:
    size = int(sizes[batch, kind])
    if size == 0 or shares is None:
        return _count(size)
    share = float(shares[batch, kind])
    level = sum(share > bound for bound in _LEVELS)
    few = " few" if size < MIN_GROUP_CELLS else ""
    return Cell(f"{size:,} ({share:.0%})", f"heat{level}{few}")


def _count(size: int) -> Cell:
    if size == 0:
        return Cell("\N{EN DASH}", "none")
    return Cell(f"{size:,}", "few" if size < MIN_GROUP_CELLS else "")


def _rest(result: Result, batches: list[int], types: list[int]) -> str:
    more = [
        f"{len(groups.names) - len(shown):,} more {what}"
        for groups, shown, what in (
            (result.batch, batches, "batches"),
            (result.types, types, "types"),
        )
        if len(groups.names) > len(shown)
    ]
    return f"Only the largest are shown; there are {' and '.join(more)}." if more else ""
