"""Genes whose batch effect is all or none: seen in a batch and practically not in the target.

A technical batch effect changes how many counts of a gene are observed. If one side
lacks a gene altogether, the cells differ: in their donors (sex-linked genes), or in types that only
one side has.
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


# Share of the cells of one side that show a gene, at least, and of the other side, at most.
SEEN, NOT_SEEN = 0.1, 0.005

# Cells of the side without the gene that would show it at the other side's share: fewer may miss
# it by chance.
_LEAST_EXPECTED = 10

# Of human (capitals) and mouse: X inactivation, and genes of the Y chromosome.
SEX_LINKED = (
    "XIST", "TSIX", "RPS4Y1", "DDX3Y", "EIF1AY", "EIF2S3Y", "KDM5D", "NLGN4Y", "SRY", "TMSB4Y",
    "TTTY14", "TXLNGY", "USP9Y", "UTY", "ZFY",
)  # fmt: skip

_MOST_ROWS = 20


@dataclass(frozen=True)
class AllOrNone:
    """A gene that is all or none between a batch and the target.

    Attributes
    ----------
    gene
        Its position.
    batch
        Name of the batch.
    own, target
        Share of the cells of the batch and of the target that show it.
    """

    gene: int
    batch: str
    own: float
    target: float


def find(result: Result, tallies: Tallies) -> list[AllOrNone]:
    """Return the genes that are all or none, the clearest first; without those that were kept."""
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
        f"The batch effect of {counted(len(names), 'gene')} is all or none ({listed(shown)}): at "
        f"least {percent(SEEN)} of the cells of one side show it, and at most {percent(NOT_SEEN)} "
        f"of the other, batch or target. {_reason(result, linked)} genes_kept= (--genes-kept) "
        "leaves the counts of these genes unchanged.",
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
            "Where the batch is a donor, genes of the sex chromosomes (XIST, RPS4Y1) and of the "
            "germline (HLA, immunoglobulins) differ so, and not for technical reasons."
        )
    return "Such genes often tell of donors (XIST, RPS4Y1) or of cells that only one side has."


def table(result: Result, found: list[AllOrNone]) -> Table:
    """List the genes, with the share of the cells that show each."""
    rows = [
        [Cell(plain(result.genes[one.gene], 40), "name"), Cell(plain(one.batch, 40)),
         Cell(percent(one.own), "number"), Cell(percent(one.target), "number")]
        for one in found[:_MOST_ROWS]
    ]  # fmt: skip
    rest = len(found) - _MOST_ROWS
    note = "Shares of cells with raw counts of the gene." + (f" And {rest:,} more." * (rest > 0))
    head = ["gene", "batch", "seen in the batch", "seen in the target"]
    return Table("Genes whose batch effect is all or none", head, rows, note)
