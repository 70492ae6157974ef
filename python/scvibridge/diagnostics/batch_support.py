"""Check which cells a target batch supports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from scvibridge._utils import wording
from scvibridge._utils.arguments import check_types
from scvibridge._utils.digests import digest_of_weights
from scvibridge._utils.wording import printable
from scvibridge.correction.estimates import Encoders
from scvibridge.correction.reference import choose_reference, examine_design
from scvibridge.correction.request import check_request
from scvibridge.correction.settings import CorrectionSettings
from scvibridge.correction.support import tables
from scvibridge.correction.support.scores import fit_neighbours, is_scored, judge, score_rows
from scvibridge.expression.records import Running
from scvibridge.models.adapters import adapter_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import numpy as np
    from anndata import AnnData

    from scvibridge.correction.records import Reference, Request
    from scvibridge.models.adapters import Adapter


@dataclass(frozen=True, repr=False)
class BatchSupport:
    """Which cells a target batch supports; the result of :func:`batch_support`.

    Attributes
    ----------
    cells
        One row for each cell, by name: ``batch``, ``label`` (with labels), ``share`` (of target
        cells among its k nearest neighbours, divided by the target's share of all cells),
        ``p_value`` (conformal, of its distance to the 10th nearest target cell) and ``supported``.
    labels
        One row for each label and source batch: ``n_cells``, ``n_target`` (target cells of that
        label), ``share`` (median), ``unsupported`` (share of the cells) and ``verdict``. Without
        labels, one row for each source batch.
    by_label
        The same for each label, over all source batches.
    conditions
        Number of cells (``n_cells``) by ``label`` (with labels), ``batch`` and ``condition``; None
        without conditions.
    confounding
        Whether batch and condition can be separated: ``"balanced"``, ``"unbalanced"``, ``"partly
        checked"``, ``"partly confounded"`` or ``"confounded"``, with the reasons; ``"not checked"``
        without conditions.
    settings
        Settings that the result depends on.
    """

    cells: pd.DataFrame
    labels: pd.DataFrame
    by_label: pd.DataFrame
    conditions: pd.DataFrame | None
    confounding: str
    settings: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """Describe the result in words."""
        settings = self.settings
        target = wording.list_names(settings["transform_batch"])
        n_unsupported, n_others = settings["n_unsupported"], settings["n_others"]
        share = n_unsupported / max(n_others, 1)
        of_all = f"{n_unsupported} of {n_others} cells of other batches ({share:.1%})"
        lines = [f"Target {target}: {of_all} are not supported."]
        if not settings["can_tell"]:
            lines.append("The target has too few cells to determine which cells it supports.")
        elif self.mixing_problem is not None:
            lines.append(f"{self.mixing_problem}.")
        lines += [
            f"  {printable(row.label)}: {row.verdict} ({row.unsupported:.0%} of "
            f"{row.n_cells} cells unsupported; {row.n_target} in the target)"
            for row in self.by_label.itertuples()
        ]
        lines.append(f"Batch and condition: {self.confounding}.")
        return "\n".join(lines)

    @property
    def mixing_problem(self) -> str | None:
        """What to do if the model has not mixed the batches, or may not have; None otherwise."""
        if not self.settings["can_tell"]:
            return None
        others = ~self.cells["batch"].isin(self.settings["transform_batch"])
        by_label = "label" in self.cells and bool(self.cells["label"][others].notna().any())
        return tables.mixing_problem(self.labels, by_label=by_label)

    def __repr__(self) -> str:
        return self.summary()


def batch_support(
    model: Any,
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    transform_batch: Any = None,
    labels_key: str | None = None,
    condition_key: str | None = None,
    indices: Any = None,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
    transform_covariates: Any = None,
) -> BatchSupport:
    """Check which cells a target batch supports, that is, for which it has similar cells.

    For other cells the decoder extrapolates, and corrected counts are not supported by data. With
    labels, a model that has not mixed the batches is distinguished from a target that lacks a cell
    type; see ``mixing_problem`` of the result.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class.
    adata
        Cells to check: an AnnData, a path (h5ad, zarr) or a list of paths. The model's data if
        None. If possible, they are compared with cells of the model's data.
    transform_batch
        The target batch, or several, whose cells are pooled.
    labels_key
        Column of ``obs`` with cell types, by which the result is summarised.
    condition_key
        Column of ``obs`` with the condition of interest, to check whether it is confounded with the
        batch.
    indices
        Cells to check: positions, a mask, a slice or names, as in
        :func:`scvibridge.corrected_counts`; all if None.
    batch_size
        Number of cells in a minibatch.
    device
        Device to run the model on: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    progress
        Whether to show progress on standard error.
    transform_covariates
        Values of other covariates, alone or with the batch, that define the target, as in
        :func:`scvibridge.corrected_counts`.

    Returns
    -------
    BatchSupport

    Raises
    ------
    ValueError
        If the target is the only batch, the data contain no cells of it, they do not match the
        model, or an argument is out of range.
    TypeError
        If the model's class is not supported, or an argument has the wrong type.

    Notes
    -----
    Cells are compared by their latent means. With s the target's share of all cells and k = max(30,
    10 / s), ``share`` is the share of target cells among the k nearest others, over s. With d the
    distance to the 10th nearest other target cell and n target cells, ``p_value`` is (1 + number of
    target cells whose own d is as large) / (n + 1). Cells are unsupported if the share is below .25
    and the p-value at most .2, or if the p-value is at most .001. If k exceeds a tenth of the
    cells, no share is computed and support is undetermined. Cells of the target are supported.
    With more than 20,000 cells, neighbours are searched among about that many, selected by hashes
    of their names, at least a quarter of them from the target if it has that many.

    Examples
    --------
    >>> found = scvibridge.batch_support(
    ...     model, transform_batch="V3", labels_key="cell_type"
    ... )  # doctest: +SKIP
    >>> found.labels  # doctest: +SKIP
    """
    check_types(batch_support, locals())
    adapter = adapter_for(model)
    request = check_request(
        adapter,
        latents_alone(labels_key, condition_key),
        Running.of(adapter, batch_size, device, progress),
        adata=adata,
        transform_batch=transform_batch,
        transform_covariates=transform_covariates,
        indices=indices,
    )
    adapter = request.adapter
    reference = choose_reference(request)
    if len(request.target.codes) == len(adapter.batches):
        raise ValueError("all batches are targets: there are no cells whose support to check")
    if not is_scored(request, reference):
        raise ValueError("the data have no cells of the target batch to compare with")
    with adapter.on_device(request.running.device):
        encoders = Encoders.of(request, reference)
        neighbours = fit_neighbours(reference.data, adapter, encoders.reference.prepare)
        scores = score_rows(request, neighbours, encoders.own, request.rows)
    return _collect(request, reference, scores, neighbours.can_tell)


def latents_alone(labels_key: str | None, condition_key: str | None) -> CorrectionSettings:
    """Return settings as for sampling, which needs only the latents."""
    return CorrectionSettings.of(
        method="sample",
        labels_key=labels_key,
        condition_key=condition_key,
        library_size="latent",
        zero_inflation=False,
    )


def _collect(
    request: Request, reference: Reference, scores: np.ndarray, can_tell: bool
) -> BatchSupport:
    judged = judge(request, reference, scores, can_tell)
    n_unsupported, n_others = judged.unsupported()
    settings = {
        "transform_batch": [request.adapter.batches[code] for code in request.target.codes],
        "labels_key": request.settings.labels_key,
        "condition_key": request.settings.condition_key,
        "n_unsupported": n_unsupported,
        "n_others": n_others,
        "can_tell": can_tell,
        "model": digest_of_weights(request.adapter.own.module),
    }
    return BatchSupport(
        _table_of_cells(request, judged, scores),
        judged.by_label_and_batch,
        judged.by_label,
        _table_of_conditions(request.adapter, reference),
        _confounding(request.adapter, reference),
        settings,
    )


def _table_of_cells(request: Request, judged: tables.Judged, scores: np.ndarray) -> pd.DataFrame:
    index = pd.Index(request.data.names[request.rows], name="cell")
    columns: dict[str, Any] = {
        "batch": pd.Categorical.from_codes(judged.batch, list(judged.batch_names))
    }
    if judged.label is not None:
        columns["label"] = pd.Categorical.from_codes(judged.label, list(judged.label_names))
    columns |= {
        "share": scores[:, 0],
        "p_value": scores[:, 1],
        "supported": judged.supported,
    }
    return pd.DataFrame(columns, index=index)


def _table_of_conditions(adapter: Adapter, reference: Reference) -> pd.DataFrame | None:
    if reference.condition is None:
        return None
    columns = {
        "batch": (reference.data.covariates.batch, adapter.batches),
        "condition": (reference.condition, reference.condition_names),
    }
    if reference.labels is not None:
        columns = {"label": (reference.labels, reference.label_names), **columns}
    cells = pd.DataFrame(
        {name: pd.Categorical.from_codes(*coded) for name, coded in columns.items()}
    )
    counted = cells.groupby(list(columns), observed=False).size()
    return counted.rename("n_cells").reset_index()


def _confounding(adapter: Adapter, reference: Reference) -> str:
    if reference.condition is None:
        return "not checked"
    found = examine_design(adapter, reference)
    reasons = "; ".join(found.refusals + found.warnings)
    return f"{found.status}: {reasons}" if reasons else found.status
