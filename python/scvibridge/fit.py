"""Calibration: whether the counts of held-out cells follow the model, and a theta that fits."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scvibridge import goodness, inputs, refitting
from scvibridge.advice import Advice, Gain, advise
from scvibridge.decoding import Encoder, blocks
from scvibridge.devices import resolve_device
from scvibridge.drawing import on_host
from scvibridge.held_out import halves, held_out_cells
from scvibridge.kernels.philox import check_seed
from scvibridge.models import adapter_for
from scvibridge.parameters import own_parameters
from scvibridge.progress import track
from scvibridge.subsets import choose_cells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from anndata import AnnData

    from scvibridge.decoding import Cells
    from scvibridge.goodness import BatchFit
    from scvibridge.models import Adapter
    from scvibridge.refitting import CountBlock, Refitted

_FEWEST_REFERENCES = 5
# Cells of which all u are held at a time.
_MOST_TOGETHER = 4000


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibration` found.

    Attributes
    ----------
    batches
        A row for each batch: ``n_cells``; ``ks_rejection`` (share of genes whose counts the test
        of Kolmogorov and Smirnov rejects at 5 %) and ``variance`` (of the normal scores of the
        counts, 1 where the model is right), each with the range of the reference data and a
        p-value; ``flagged`` and the ``verdict`` in words.
    overall
        Such a row for all batches together, which a misfit shows in before it does in any one.
    genes
        A row for each gene: ``mean`` count, ``variance`` of the normal scores (mean over batches),
        the model's ``theta`` and ``theta_refitted``.
    genes_by_batch
        The same for each gene in each batch.
    theta
        Inverse dispersions as advised, for ``corrected_counts(dispersion=)``: a Series by gene or
        a DataFrame of genes by batches; None where the model's own do as well.
    advice
        Which inverse dispersions to use, in words.
    gains
        Gain in held-out log-likelihood, per 1,000 entries, of each finer choice of theta.
    settings
        What it rests on: cells, seed, likelihood.
    """

    batches: pd.DataFrame
    overall: pd.Series
    genes: pd.DataFrame
    genes_by_batch: pd.DataFrame
    theta: pd.Series | pd.DataFrame | None
    advice: str
    gains: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """Tell the result in plain words."""
        settings = self.settings
        flagged = self.batches.index[self.batches["flagged"]]
        judged = int((self.batches["n_cells"] >= goodness.MIN_CELLS).sum())
        verdict = f"None of {judged} batches is flagged."
        if len(flagged):
            verdict = f"Flagged: {inputs.list_names(flagged)}."
        elif self.overall["flagged"]:
            verdict = f"None of {judged} batches is flagged by itself; all together are."
        elif not judged:
            verdict = "No batch has enough held-out cells: nothing can be concluded."
        basis = (
            f"Calibration on {settings['n_cells']} cells ({settings['cells']}), against "
            f"{settings['n_references']} data sets drawn from the model."
        )
        batches = [f"  {name}: {text}" for name, text in self.batches["verdict"].items()]
        together = f"  all together: {self.overall['verdict']}"
        return "\n".join([basis, verdict, *batches, together, self.advice])

    def __repr__(self) -> str:
        return self.summary()


def calibration(
    model: Any,
    adata: AnnData | str | PathLike[str] | None = None,
    indices: Any = None,
    n_references: int = 20,
    seed: int = 0,
    max_cells: int = 2000,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Calibration:
    """Whether the counts of held-out cells follow the model's likelihood, and a theta that fits.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class.
    adata
        Cells to judge by: an AnnData or a path. The model's own data if None. Cells that the model
        was trained on are left out.
    indices
        Held-out cells: positions, a mask, a slice or names. Those that the training held out
        (``model.validation_indices`` and ``test_indices``) if None.
    n_references
        Number of reference data sets drawn from the model, 5 or more.
    seed
        Seed of the random numbers, 0 to 2**32 - 1.
    max_cells
        Largest number of cells of each batch that is used.
    batch_size
        Number of cells in a minibatch.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``, where the model is run.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If no cell was held out, or it cannot be told which; if the model is not trained, the data
        do not fit it, or an argument is out of its range.
    TypeError
        If the model is of a class that is not supported.

    Notes
    -----
    For each count x the randomised probability integral transform is u = F(x - 1) + v f(x), F the
    distribution that the model gives the cell at the posterior mean of z, v uniform. In a
    reference data set z is drawn from q(z|x), counts are drawn from the model at that z, and they
    are encoded again. Theta is refitted with the means fixed: see ``scvibridge.refitting``.

    Examples
    --------
    >>> fit = scvibridge.calibration(model)  # doctest: +SKIP
    >>> print(fit.summary())  # doctest: +SKIP
    >>> counts = scvibridge.corrected_counts(
    ...     model, transform_batch="V3", dispersion=fit
    ... )  # doctest: +SKIP
    """
    adapter = adapter_for(model)
    _check(adapter, n_references, max_cells, batch_size, device)
    seed = int(check_seed(seed))
    data = inputs.align(adapter, inputs.resolve_adata(adapter, adata))
    if data.counts is None:
        raise ValueError("the model's data were minified to latents: pass adata= with counts")
    held_out = held_out_cells(adapter, data, indices)
    encoder = Encoder(adapter, data, batch_size, False)
    rows = _rows_by_batch(encoder, held_out.rows, int(max_cells))
    with adapter.on_device(device):
        cells = _HeldOut(encoder, rows, batch_size, seed)
        fits = _judge(cells, int(n_references), seed, progress)
        refitted, gains = _refit(cells)
    settings = {
        "cells": held_out.described,
        "n_cells": sum(len(part) for part in rows),
        "n_references": int(n_references),
        "seed": seed,
        "gene_likelihood": adapter.gene_likelihood,
        "dispersion": adapter.dispersion,
    }
    return _assemble(adapter, fits, refitted, advise(adapter, gains), gains, settings)


def _check(
    adapter: Adapter, n_references: Any, max_cells: Any, batch_size: Any, device: str
) -> None:
    inputs.check_likelihood(adapter)
    least = {"n_references": _FEWEST_REFERENCES, "max_cells": goodness.MIN_CELLS}
    given = {"n_references": n_references, "max_cells": max_cells}
    for name, value in given.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < least[name]:
            raise ValueError(f"{name} must be a whole number from {least[name]}, got {value!r}")
    inputs.check_batch_size(batch_size, adapter.batches)
    resolve_device(device)


# -- cells -------------------------------------------------------------------------------------


def _rows_by_batch(encoder: Encoder, rows: np.ndarray, most: int) -> list[np.ndarray]:
    """Positions of the cells of each batch that are used."""
    data = encoder.data
    batch = data.covariates.batch[rows]
    return [
        choose_cells(data.names, rows[batch == code], most)
        for code in range(len(encoder.adapter.batches))
    ]


class _HeldOut:
    """The held-out cells that are used, batch by batch, parted into two halves."""

    def __init__(
        self, encoder: Encoder, rows: list[np.ndarray], batch_size: int | None, seed: int
    ) -> None:
        self.adapter = encoder.adapter
        self.rows = np.concatenate(rows)
        self.sizes = np.array([len(part) for part in rows])
        self._encoder, self._batch_size = encoder, batch_size
        encoder.prepare(np.sort(self.rows))
        names = encoder.data.names
        self._half = np.concatenate([halves(names[part], seed) for part in rows])

    def together(self) -> list[slice]:
        """Whole batches that are judged at a time, as places of their cells."""
        ends = np.cumsum(self.sizes)
        found, start = [], 0
        for stop, following in zip(ends, [*ends[1:], np.inf], strict=True):
            if following - start > _MOST_TOGETHER and stop > start:
                found.append(slice(start, int(stop)))
                start = int(stop)
        return found

    def pieces(self, place: slice) -> list[Cells]:
        """Encoded cells in blocks."""
        rows = self.rows[place]
        return [self._encoder.cells(rows[block]) for block in self._cut(len(rows))]

    def _cut(self, n_cells: int) -> list[slice]:
        return blocks(n_cells, len(self.adapter.genes), self._batch_size)

    def counted(self) -> Iterator[CountBlock]:
        """Counts and means of all cells in blocks; the group is twice the batch, plus the half."""
        for block in self._cut(len(self.rows)):
            cells = self._encoder.cells(self.rows[block])
            with torch.inference_mode():
                given = on_host(own_parameters(self.adapter, cells))
            assert cells.counts is not None  # noqa: S101 - refused before
            assert given.factor is not None  # noqa: S101 - the library
            logits = given.zi_logits
            yield refitting.CountBlock(
                cells.counts,
                given.mean.astype(float) * given.factor[:, None],
                None if logits is None else logits.astype(float),
                2 * cells.covariates.batch + self._half[block],
                self.adapter.theta_rows(cells.covariates),
            )


def _judge(cells: _HeldOut, n_references: int, seed: int, progress: bool) -> list[BatchFit | None]:
    """Judge each batch; None for one without cells."""
    judge = goodness.GoodnessOfFit(cells.adapter, n_references, seed)
    places = cells.together()
    work = [place for place in places for _ in range(n_references)]
    steps = track(work, "Comparing with reference data", progress)
    fits: dict[int, BatchFit] = {}
    for place in places:
        numbered = zip(range(n_references), steps, strict=False)
        fits |= judge.of_batches(cells.pieces(place), (n for n, _ in numbered))
    for _ in steps:  # none is left: progress ends
        pass
    return [fits.get(code) for code in range(len(cells.sizes))]


# -- theta -------------------------------------------------------------------------------------


def _refit(cells: _HeldOut) -> tuple[Refitted | None, list[Gain]]:
    """Refit theta on all cells, and judge it by halves; nothing where there is no such theta."""
    adapter = cells.adapter
    own = adapter.theta()
    if own is None:
        return None, []
    n_batches, n_genes = len(adapter.batches), len(adapter.genes)
    curves = refitting.curves(cells.counted(), 2 * n_batches, n_genes)
    curves = curves.reshape(n_batches, 2, n_genes, -1)
    by_batch = adapter.dispersion == "gene-batch"
    log_own = np.log(own)
    # Each half is judged by what the other one says.
    crossed = [refitting.refit_levels(curves[:, 1 - h], log_own, by_batch) for h in (0, 1)]
    refitted = refitting.refit_levels(curves.sum(axis=1), log_own, by_batch)
    return refitted, _gains(cells, own, crossed)


def _gains(cells: _HeldOut, own: np.ndarray, crossed: list[Refitted]) -> list[Gain]:
    """Gain of theta refitted by gene over the model's own, and so on, in held-out likelihood."""
    n_batches, n_genes = crossed[0].batch.shape
    gene = np.exp(np.stack([crossed[half].gene for half in (0, 1)] * n_batches))
    batch = np.exp(np.stack([crossed[h].batch[b] for b in range(n_batches) for h in (0, 1)]))
    likelihood = refitting.cell_log_likelihood
    found = [
        [
            likelihood(block, own, block.own_row),
            likelihood(block, gene, block.group),
            likelihood(block, batch, block.group),
        ]
        for block in cells.counted()
    ]
    of_own, of_gene, of_batch = np.concatenate(found, axis=1)
    gains = [Gain.of("gene", "the model's own", of_gene - of_own, n_genes)]
    if n_batches > 1:
        gains.append(Gain.of("gene-batch", "gene", of_batch - of_gene, n_genes))
        gains.append(Gain.of("gene-batch", "the model's own", of_batch - of_own, n_genes))
    return gains


# -- tables ------------------------------------------------------------------------------------


def _assemble(
    adapter: Adapter,
    fits: list[BatchFit | None],
    refitted: Refitted | None,
    advice: Advice,
    gains: list[Gain],
    settings: dict[str, Any],
) -> Calibration:
    thetas = None if refitted is None else _thetas(adapter, refitted)
    return Calibration(
        batches=goodness.table(adapter.batches, fits),
        overall=goodness.overall(fits),
        genes=_genes(adapter, fits, refitted),
        genes_by_batch=_genes_by_batch(adapter, fits, refitted),
        theta=None if thetas is None or advice.by is None else thetas[advice.by],
        advice=advice.text,
        gains=pd.DataFrame([gain.row() for gain in gains], columns=list(Gain.COLUMNS)),
        settings=settings,
    )


def _thetas(adapter: Adapter, refitted: Refitted) -> dict[str, pd.Series | pd.DataFrame]:
    columns = pd.Index([str(batch) for batch in adapter.batches], name=adapter.batch_key)
    genes = pd.Index(adapter.genes, name="gene")
    return {
        "gene": pd.Series(np.exp(refitted.gene), index=genes, name="theta"),
        "gene-batch": pd.DataFrame(np.exp(refitted.batch.T), index=genes, columns=columns),
    }


def _genes_by_batch(
    adapter: Adapter, fits: list[BatchFit | None], refitted: Refitted | None
) -> pd.DataFrame:
    own = _own_theta(adapter)
    parts = []
    for code, (batch, fit) in enumerate(zip(adapter.batches, fits, strict=True)):
        unknown = np.full(len(adapter.genes), np.nan)
        by_batch = unknown if refitted is None else np.exp(refitted.batch[code])
        parts.append(
            pd.DataFrame(
                {
                    "gene": adapter.genes,
                    "batch": str(batch),
                    "n_cells": 0 if fit is None else fit.n_cells,
                    "mean": unknown if fit is None else fit.mean,
                    "variance": unknown if fit is None else fit.variance,
                    "theta": own[code if len(own) > 1 else 0],
                    "theta_refitted": by_batch,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _own_theta(adapter: Adapter) -> np.ndarray:
    """The model's own theta: a row for each batch where it has such, else one."""
    theta = adapter.theta()
    if theta is None:
        return np.full((1, len(adapter.genes)), np.nan)
    if adapter.dispersion == "gene-batch":
        return theta
    # By label, a label has no part in the fit of a gene: their geometric mean.
    return np.exp(np.log(theta).mean(axis=0, keepdims=True))


def _genes(
    adapter: Adapter, fits: list[BatchFit | None], refitted: Refitted | None
) -> pd.DataFrame:
    known = [fit for fit in fits if fit is not None and fit.n_cells > 1]
    weights = np.array([fit.n_cells - 1 for fit in known])
    unknown = np.full(len(adapter.genes), np.nan)
    own = np.exp(np.log(_own_theta(adapter)).mean(axis=0))
    columns = {
        name: np.average([getattr(fit, name) for fit in known], axis=0, weights=weights)
        if known
        else unknown
        for name in ("mean", "variance")
    }
    columns["theta"] = own
    columns["theta_refitted"] = unknown if refitted is None else np.exp(refitted.gene)
    return pd.DataFrame(columns, index=pd.Index(adapter.genes, name="gene"))
