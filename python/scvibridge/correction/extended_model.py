"""Compute corrected counts of an extended model: its own genes and the added ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scvibridge.correction.count_blocks import Correction
from scvibridge.correction.estimates import Encoders, estimate_added
from scvibridge.correction.given_dispersion import GivenThetas
from scvibridge.expression.extended_model import Both, Columns
from scvibridge.models.added_genes import AddedEncoder, part_data

if TYPE_CHECKING:
    from typing import Self

    import numpy as np

    from scvibridge.correction.estimates import Estimates
    from scvibridge.correction.records import Reference, Request
    from scvibridge.correction.residual_plan import ResidualPlan
    from scvibridge.io.plan import Remember
    from scvibridge.models.adapters import Adapter, AddedGenes
    from scvibridge.models.cell_data import CellData
    from scvibridge.models.encoder import Encoder


@dataclass(frozen=True)
class Part:
    """A request for the counts of some of a model's genes, and the reference cells."""

    request: Request
    reference: Reference

    def of_rows(self, rows: np.ndarray) -> Self:
        """Return the same for other requested cells."""
        return replace(self, request=replace(self.request, rows=rows))


@dataclass(frozen=True)
class AddedPart(Part):
    """A request for the counts of the genes that were added to a model."""

    genes: AddedGenes[Adapter]


@dataclass(frozen=True)
class Added:
    """The added genes of a request, and what their estimates share with those of the model's.

    Attributes
    ----------
    part
        The request and reference of the added genes.
    own, encoders
        The estimates of the model's genes, and their encoders.
    residual_plan
        Effects missed by the decoder that can be estimated from the samples; None for none.
    """

    part: AddedPart
    own: Estimates
    encoders: Encoders
    residual_plan: ResidualPlan | None


def part_request(request: Request, reference: Reference) -> tuple[Part, AddedPart | None]:
    """Split a request into own genes and added genes; the second is None if none were added."""
    adapter = request.adapter
    if adapter.added is None:
        return Part(request, reference), None
    columns = Columns.of(adapter, request.genes)
    data = part_data(adapter, request.data)
    everyone = reference.everyone.data
    estimated = data if everyone is request.data else part_data(adapter, everyone)
    kept, n_own = request.genes_kept, adapter.n_own
    own = replace(
        request,
        adapter=adapter.own,
        data=data[0],
        genes=columns.own,
        genes_kept=None if kept is None else kept[kept < n_own],
    )
    added = replace(
        request,
        adapter=adapter.added.adapter,
        data=data[1],
        genes=columns.added,
        dispersion=GivenThetas(None),
        genes_kept=None if kept is None else kept[kept >= n_own] - n_own,
    )
    return (
        Part(own, reference.of_part(estimated[0])),
        AddedPart(added, reference.of_part(estimated[1]), adapter.added),
    )


def with_added(request: Request, own: Correction, added: Added, remember: Remember) -> Both:
    """Build the job that computes the counts of added genes together with those of the model's.

    Parameters
    ----------
    request
        The request for all genes.
    own
        The job that computes the counts of the model's genes.
    added
        The added genes.
    remember
        Stores what depends on the decoder's arithmetic.
    """
    part = added.part
    encoders = _encoders(part, added.encoders)
    found = estimate_added(
        part.request, part.reference, added.own, encoders, remember, added.residual_plan
    )
    correction = Correction(part.request, part.reference, found, lambda _: {})
    return Both(part.genes, Columns.of(request.adapter, request.genes), own, correction)


def _encoders(added: Part, own: Encoders) -> Encoders:
    def of(data: CellData, encoder: Encoder) -> AddedEncoder:
        return AddedEncoder(added.request.adapter, data, encoder)

    first, reference = of(added.request.data, own.own), added.reference
    same = own.everyone is own.own
    everyone = first if same else of(reference.everyone.data, own.everyone)
    chosen = everyone if reference.whole is None else of(reference.data, own.reference)
    return Encoders(first, chosen, everyone)
