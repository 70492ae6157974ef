"""Genes that are detected in a batch and hardly in the target, or the other way round.

A technical batch effect changes how many counts of a gene are observed. If a gene is missing
altogether on one side, the cells themselves differ: they come from other donors (sex-linked genes)
or are of types that only one side has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.diagnostics.report.blocks import (
    CAUTION,
    Cell,
    Table,
    Text,
    counted,
    listed,
    percent,
    plain,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvibridge.diagnostics.report.reading import Result
    from scvibridge.diagnostics.report.tallies import Tallies


# Smallest share of cells with the gene on one side, and largest share on the other.
SEEN, NOT_SEEN = 0.1, 0.005

# Number of cells that are expected to have the gene on the side without it, at the share of the
# other side. If fewer are expected, it may be missing by chance.
_LEAST_EXPECTED = 10

# Genes of X inactivation and of the Y chromosome, of human and mouse (compared in capitals).
SEX_LINKED = (
    "XIST", "TSIX", "RPS4Y1", "DDX3Y", "EIF1AY", "EIF2S3Y", "KDM5D", "NLGN4Y", "SRY", "TMSB4Y",
    "TTTY14", "TXLNGY", "USP9Y", "UTY", "ZFY",
)  # fmt: skip

_MOST_ROWS = 20


@dataclass(frozen=True)
class AllOrNone:
    """A gene with an all-or-none difference between a batch and the target.

    Attributes
    ----------
    gene
        Its position.
    batch
        Name of the batch.
    own, target
        Shares of the cells of the batch and of the target with counts of it.
    """

    gene: int
    batch: str
    own: float
    target: float


def find(result: Result, tallies: Tallies) -> list[AllOrNone]:
    """Return the genes, the largest difference first, without those that were left unchanged."""
    sizes = tallies.sizes.sum(axis=1)
    in_target = np.isin(result.batch.names, result.targets)
    n_target = int(sizes[in_target].sum())
    target = tallies.seen[in_target].sum(axis=0) / max(n_target, 1)
    kept = {str(name) for name in np.atleast_1d(result.provenance.get("genes_kept", []))}
    is_kept = np.array([name in kept for name in result.genes], dtype=bool)
    found = []
    for code in np.flatnonzero(~in_target):
        n_own = int(sizes[code])
        own = tallies.seen[code] / max(n_own, 1)
        more = np.maximum(own, target)
        n_less = np.where(own > target, n_target, n_own)
        clear = (more >= SEEN) & (np.minimum(own, target) <= NOT_SEEN) & ~is_kept
        for gene in np.flatnonzero(clear & (more * n_less >= _LEAST_EXPECTED)).tolist():
            name = result.batch.names[code]
            found.append(AllOrNone(gene, name, float(own[gene]), float(target[gene])))
    return sorted(found, key=lambda one: -max(one.own, one.target))


def finding(result: Result, found: list[AllOrNone]) -> Iterator[Text]:
    """Describe which genes are all or none, and how to leave them unchanged."""
    if not found:
        return
    names = list(dict.fromkeys(result.genes[one.gene] for one in found))
    linked = [name for name in names if name.upper() in SEX_LINKED]
    shown = [*linked, *(name for name in names if name not in linked)]
    yield Text(
        f"The batch effect of {counted(len(names), 'gene')} is all or none ({listed(shown)}): of "
        f"the batch and the target, one has counts of the gene in at least {percent(SEEN)} of its "
        f"cells, the other in at most {percent(NOT_SEEN)}. {_reason(result, linked)} To leave the "
        "counts of such genes unchanged, pass genes_kept= (--genes-kept).",
        CAUTION,
    )


def _reason(result: Result, linked: list[str]) -> str:
    if linked:
        verb = "is" if len(linked) == 1 else "are"
        return (
            f"{listed(linked)} {verb} sex-linked: such genes differ between donors, not between "
            "technologies."
        )
    if "batch_is_replicate" in result.provenance:
        return (
            "If batches are donors, sex-linked genes (XIST, RPS4Y1) and genes that vary between "
            "people (HLA, immunoglobulins) differ in this way, and not for technical reasons."
        )
    return (
        "Such genes often mark a difference between donors (XIST, RPS4Y1), or cell types that only "
        "one of the two has."
    )


def table(result: Result, found: list[AllOrNone]) -> Table:
    """List the genes with their shares of cells."""
    rows = [
        [Cell(plain(result.genes[one.gene], 40), "name"), Cell(plain(one.batch, 40)),
         Cell(percent(one.own), "number"), Cell(percent(one.target), "number")]
        for one in found[:_MOST_ROWS]
    ]  # fmt: skip
    rest = len(found) - _MOST_ROWS
    note = "Shares of cells with raw counts of the gene." + (f" {rest:,} more." * (rest > 0))
    head = ["gene", "batch", "cells of the batch", "cells of the target"]
    return Table("Genes whose batch effect is all or none", head, rows, note)
