"""Assemble the provenance of corrected counts from settings and findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scvibridge._utils.digests import digest
from scvibridge.correction.given_dispersion import OWN
from scvibridge.expression import results
from scvibridge.expression.records import described_values
from scvibridge.expression.targets import described

if TYPE_CHECKING:
    from scvibridge.correction.findings import Found
    from scvibridge.correction.given_dispersion import GivenTheta, GivenThetas
    from scvibridge.correction.records import CheckResults, Reference, Request
    from scvibridge.models.adapters import Adapter


@dataclass(frozen=True)
class Findings:
    """What was found on the way to a result, in the order of the steps.

    Attributes
    ----------
    checked
        What the checks before any work found.
    dropped
        Support of the cells if unsupported ones were left out, which is known before effects are
        estimated.
    estimated
        What the estimates of depth and effects found.
    """

    checked: CheckResults
    dropped: Found
    estimated: Found


def describe(
    request: Request,
    reference: Reference,
    findings: Findings,
    support: Found,
    genes_kept: list[str] | None = None,
) -> dict[str, Any]:
    """Return the provenance: settings by name, and what was estimated.

    Parameters
    ----------
    request, reference
        The request, and the cells to estimate from. For an extended model, those for its own genes.
    findings
        What checks and estimates found.
    support
        Support of the cells, known once all blocks are computed.
    genes_kept
        Names of all genes whose counts are returned as observed.
    """
    checked, dropped, estimated = findings.checked, findings.dropped, findings.estimated
    steps = (reference.found, checked, dropped, estimated, support)
    return results.provenance(
        request.adapter,
        "corrected_counts",
        {
            **described(request.adapter),
            **_described_strata(request.adapter),
            **described_values(request.settings),
            **estimated.values,
            **checked.residual.values,
            **_described_theta(request.dispersion),
            # No cell type, in the report as in the effects.
            "unlabeled_category": request.adapter.registry.setup.get("unlabeled_category"),
            "confounding": checked.confounding,
            **checked.design.values,
            **checked.corrected.values,
            **dropped.values,
            **support.values,
            **_described_cells(reference),
            "genes_kept": genes_kept,
            "notes": [note for step in steps for note in step.notes],
        },
    )


def _described_cells(reference: Reference) -> dict[str, Any]:
    """Return which cells effects and depth were estimated on."""
    data, chosen = reference.is_model_data, reference.chosen
    where = "the model's data" if data else "the given data"
    if chosen is None:
        return {"estimated_on": where}
    some = f"{len(chosen.rows)} of {chosen.n_all} cells of {where}"
    return {"estimated_on": some, **chosen.described()}


def _described_strata(adapter: Adapter) -> dict[str, Any]:
    """Return the target strata, if covariates other than the batch were changed."""
    if not adapter.target.asked:
        return {}
    targets = adapter.target.names(adapter.batches)
    return {"targets": targets, "strata_key": results.STRATUM_COLUMN}


def _described_theta(given: GivenThetas) -> dict[str, Any]:
    """Return where the inverse dispersions come from; for given ones also a digest."""
    own, added = given.own, given.added
    shown = {"theta_from": OWN} if own is None else _described("theta", own)
    return shown if added is None else {**shown, **_described("theta_added", added)}


def _described(name: str, given: GivenTheta) -> dict[str, Any]:
    if given.table is None:
        return {f"{name}_from": given.source}
    return {
        f"{name}_from": given.source,
        f"{name}_by": given.by,
        f"{name}_digest": digest(given.table),
    }
