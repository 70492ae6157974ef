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
    from scvibridge.correction.estimates import Estimates
    from scvibridge.correction.records import Reference, Request
    from scvibridge.io.plan import Remember
    from scvibridge.models.cell_data import CellData
    from scvibridge.models.encoder import Encoder


@dataclass(frozen=True)
class Part:
    """A request for the counts of some of a model's genes, and the reference cells."""

    request: Request
    reference: Reference


def part_request(request: Request, reference: Reference) -> tuple[Part, Part | None]:
    """Split a request into own genes and added genes; the second is None if none were added."""
    adapter = request.adapter
    if adapter.added is None:
        return Part(request, reference), None
    columns = Columns.of(adapter, request.genes)
    data = part_data(adapter, request.data)
    everyone = reference.everyone.data
    estimated = data if everyone is request.data else part_data(adapter, everyone)
    kept, n_own = request.genes_kept, adapter.n_own
    own = replace(request, adapter=adapter.own, data=data[0], genes=columns.own)
    if kept is not None:
        own.genes_kept = kept[kept < n_own]
    added = replace(
        request,
        adapter=adapter.added.adapter,
        data=data[1],
        genes=columns.added,
        dispersion=GivenThetas(None),
        genes_kept=None if kept is None else kept[kept >= n_own] - n_own,
        notes=[],
    )
    return Part(own, reference.of_part(estimated[0])), Part(added, reference.of_part(estimated[1]))


def with_added(
    request: Request,
    own: Correction,
    added: Part,
    estimates: Estimates,
    encoders: Encoders,
    remember: Remember,
) -> Both:
    """Build the job that computes the counts of added genes together with those of the model's.

    Parameters
    ----------
    request
        The request for all genes.
    own, estimates, encoders
        The job that computes the counts of the model's genes, its estimates, and its encoders.
    added
        The request and data for the added genes.
    remember
        Stores what depends on the decoder's arithmetic.
    """
    genes = request.adapter.added
    assert genes is not None  # noqa: S101 - the request has added genes
    added.request.rows = request.rows
    further = _encoders(added, encoders)
    found = estimate_added(added.request, added.reference, estimates, further, remember)
    correction = Correction(added.request, added.reference, found, dict)
    return Both(genes, Columns.of(request.adapter, request.genes), own, correction)


def _encoders(added: Part, own: Encoders) -> Encoders:
    def of(data: CellData, encoder: Encoder) -> AddedEncoder:
        return AddedEncoder(added.request.adapter, data, encoder)

    first, reference = of(added.request.data, own.own), added.reference
    same = own.everyone is own.own
    everyone = first if same else of(reference.everyone.data, own.everyone)
    chosen = everyone if reference.whole is None else of(reference.data, own.reference)
    return Encoders(first, chosen, everyone)
