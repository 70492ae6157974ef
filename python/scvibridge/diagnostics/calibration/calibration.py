"""Check whether held-out counts follow the model, and estimate a theta that fits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scvibridge._utils import arguments, wording
from scvibridge._utils.arguments import check_types, is_whole
from scvibridge._utils.devices import resolve_device
from scvibridge._utils.digests import digest_of_weights
from scvibridge._utils.wording import printable
from scvibridge.diagnostics.calibration import goodness_of_fit, tables
from scvibridge.diagnostics.calibration.added_genes import GoodnessOfAdded, PairedEncoder
from scvibridge.diagnostics.calibration.advice import advise
from scvibridge.diagnostics.calibration.held_out_batches import (
    JudgedCells,
    judge_batches,
    refit_theta,
    rows_by_batch,
)
from scvibridge.likelihood.cpu.philox import check_seed
from scvibridge.models import alignment
from scvibridge.models.adapters import adapter_for
from scvibridge.models.added_genes import part_data
from scvibridge.models.encoder import Encoder
from scvibridge.models.held_out import held_out_cells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


_FEWEST_REFERENCES = 5


@dataclass(frozen=True)
class Calibration:
    """The result of :func:`calibration`.

    Attributes
    ----------
    batches
        One row per batch: ``n_cells``; ``ks_rejection`` (share of genes whose counts the
        Kolmogorov-Smirnov test rejects at 5 %) and ``variance`` (of the normal scores of the
        counts, 1 if the model is right), each with the range of the reference data and a p-value;
        ``displacement`` (by how much the quantile of a count in its distribution, between 0 and 1,
        is off: root mean square beyond that of the reference data); ``misfit`` (``"none"`` if no
        p-value is small, otherwise ``"small"`` or ``"large"`` by its size, empty if there are too
        few cells); ``flagged`` (a large misfit) and the ``verdict`` in words.
    overall
        The same for all batches together, where a misfit is detected sooner than in a single batch.
    genes
        One row per gene: ``mean`` count, ``variance`` of the normal scores (mean over batches), the
        model's ``theta`` and ``theta_refitted``.
    genes_by_batch
        The same for each gene in each batch.
    theta
        Recommended inverse dispersions, for ``corrected_counts(dispersion=)``: a Series by gene or
        a DataFrame of genes by batches; None if the model's own fit as well.
    advice
        Which inverse dispersions to use, in words.
    gains
        Gain in held-out log-likelihood, per 1,000 entries, of each finer choice of theta.
    settings
        Settings that the result depends on: cells, seed, likelihood, and a digest of the model's
        weights.
    added
        For a model extended by :func:`extend_genes`, the same for the added genes, which the other
        attributes do not include; None for other models.
    """

    batches: pd.DataFrame
    overall: pd.Series
    genes: pd.DataFrame
    genes_by_batch: pd.DataFrame
    theta: pd.Series | pd.DataFrame | None
    advice: str
    gains: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    added: Calibration | None = None

    def summary(self) -> str:
        """Describe the result in words."""
        settings = self.settings
        basis = (
            f"Calibration on {settings['n_cells']} cells ({settings['cells']}), against "
            f"{settings['n_references']} data sets sampled from the model."
        )
        lines = [basis, *_findings(self)]
        if self.added is not None:
            n_genes = len(self.added.genes)
            lines += [f"The same for the added genes ({n_genes}):"]
            lines += _findings(self.added)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _findings(found: Calibration) -> list[str]:
    """Return verdicts and recommendation, one per line."""
    batches = [f"  {printable(name)}: {text}" for name, text in found.batches["verdict"].items()]
    together = f"  all together: {found.overall['verdict']}"
    return [_headline(found), *batches, together, found.advice]


def _headline(found: Calibration) -> str:
    """Summarize which batches have a large or a small misfit."""
    misfit = found.batches["misfit"]
    n_judged = int((found.batches["n_cells"] >= goodness_of_fit.MIN_CELLS).sum())
    if not n_judged:
        return "No batch has enough held-out cells: nothing can be concluded."
    large = misfit.index[misfit == goodness_of_fit.LARGE_MISFIT]
    if len(large):
        return f"Flagged because of a large misfit: {wording.list_names(large)}."
    if found.overall["flagged"]:
        return f"None of {n_judged} batches is flagged on its own, but all together are."
    n_small = int((misfit == goodness_of_fit.SMALL_MISFIT).sum())
    if n_small or found.overall["misfit"] == goodness_of_fit.SMALL_MISFIT:
        return (
            f"None of {n_judged} batches is flagged. The model does not fit exactly, but well "
            "enough for corrected counts."
        )
    return f"None of {n_judged} batches is flagged: no misfit was found."


def calibration(
    model: Any,
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    indices: Any = None,
    n_references: int = 20,
    seed: int = 0,
    max_cells: int = 2000,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Calibration:
    """Check whether held-out counts follow the model's likelihood, and estimate a theta that fits.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class.
    adata
        Cells to check: an AnnData, a path or a list of paths. The model's data if None. Cells that
        the model was trained on are left out.
    indices
        Held-out cells: positions, a mask, a slice or names, as in
        :func:`scvibridge.corrected_counts`. The cells held out of training
        (``model.validation_indices`` and ``test_indices``) if None.
    n_references
        Number of reference data sets sampled from the model, 5 or more.
    seed
        Seed of the random numbers, 0 to 2**32 - 1.
    max_cells
        Maximum number of cells to use per batch.
    batch_size
        Number of cells in a minibatch.
    device
        Device to run the model on: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    Calibration
        For an extended model, results for the model's genes equal those of the model alone; results
        for the added genes are in ``added``.

    Raises
    ------
    ValueError
        If no cells were held out, or it is unknown which; if the model is not trained, the data do
        not match it, or an argument is out of range.
    TypeError
        If the model's class is not supported, or an argument has the wrong type.

    Notes
    -----
    For each count x, the randomised probability integral transform is u = F(x - 1) + v f(x), where
    F is the cell's distribution under the model at the posterior mean of z and v is uniform. For a
    reference data set, z is sampled from q(z|x), counts are sampled from the model at that z, and
    they are encoded again. Counts of added genes are sampled at the same z, and their means are
    shares of the total of all sampled counts. Theta is refitted with the means fixed
    (``dispersion_fit``).

    Examples
    --------
    >>> fit = scvibridge.calibration(model)  # doctest: +SKIP
    >>> print(fit.summary())  # doctest: +SKIP
    >>> counts = scvibridge.corrected_counts(
    ...     model, transform_batch="V3", dispersion=fit
    ... )  # doctest: +SKIP
    """
    check_types(calibration, locals())
    adapter = adapter_for(model)
    _check(adapter, n_references, max_cells, batch_size, device)
    seed = int(check_seed(seed))
    data = alignment.align(adapter, alignment.resolve_adata(adapter, adata))
    if data.counts is None:
        raise ValueError(
            "the model's data were minified to latent variables: pass adata= with counts"
        )
    added = None
    if adapter.added is not None:
        data, further = part_data(adapter, data)
        added = adapter.added.adapter
    held_out = held_out_cells(adapter.own, data, indices)
    encoder = Encoder(adapter.own, data, batch_size, False)
    rows = rows_by_batch(encoder, _with_counts(data, held_out.rows), int(max_cells))
    settings = {
        "cells": held_out.described,
        "n_cells": sum(len(part) for part in rows),
        "n_references": int(n_references),
        "seed": seed,
        "model": digest_of_weights(adapter.own.module),
    }
    with adapter.on_device(device):
        cells = JudgedCells(encoder, rows, batch_size, seed)
        judge = goodness_of_fit.GoodnessOfFit(adapter.own, int(n_references), seed)
        found = _calibrate(cells, judge, settings, progress)
        if added is None:
            return found
        paired = PairedEncoder(added, further, encoder)
        cells = JudgedCells(paired, rows, batch_size, seed)
        of_added = _calibrate(cells, GoodnessOfAdded(added, judge), settings, progress)
    return replace(found, added=of_added)


def _with_counts(data: CellData, rows: np.ndarray) -> np.ndarray:
    """Leave out cells without counts, such as cells of which MULTIVI has only the regions.

    They follow any model.
    """
    counted = rows[data.totals()[rows] > 0]
    if not len(counted):
        raise ValueError("none of the held-out cells has counts: nothing can be concluded")
    return counted


def _calibrate(
    cells: JudgedCells,
    judge: goodness_of_fit.GoodnessOfFit,
    settings: dict[str, Any],
    progress: bool,
) -> Calibration:
    """Check the calibration of some genes of a model, and refit their theta."""
    adapter = cells.adapter
    fits = judge_batches(cells, judge, progress)
    refitted, gains = refit_theta(cells)
    advice = advise(adapter, gains, conclusive=bool(goodness_of_fit.judged_fits(fits)))
    found = tables.tables(adapter, fits, refitted, advice, gains)
    law = {"gene_likelihood": adapter.gene_likelihood, "dispersion": adapter.dispersion}
    return Calibration(**found, settings={**settings, **law})


def _check(
    adapter: Adapter, n_references: Any, max_cells: Any, batch_size: Any, device: str
) -> None:
    alignment.check_likelihood(adapter)
    least = {"n_references": _FEWEST_REFERENCES, "max_cells": goodness_of_fit.MIN_CELLS}
    given = {"n_references": n_references, "max_cells": max_cells}
    for name, value in given.items():
        if not is_whole(value) or value < least[name]:
            raise ValueError(f"{name} must be an integer of at least {least[name]}, got {value!r}")
    arguments.check_batch_size(batch_size, adapter.batches)
    resolve_device(device)
