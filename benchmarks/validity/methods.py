"""The counts that are compared: scvibridge's, simpler ones, and those of other packages."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy import special

import scvibridge as sb
from benchmarks.validity import peers
from benchmarks.validity.simulation import negative_binomial_quantile
from scvibridge.expression.depth import Depth
from scvibridge.models import detection
from scvibridge.models.adapters import Target, adapter_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from anndata import AnnData


@dataclass
class Case:
    """Cells with a model of them, and the request.

    Attributes
    ----------
    cells
        AnnData with counts in X.
    model
        SCVI, negative binomial with one dispersion per gene, trained on the cells.
    target
        Target batch.
    batch_key, labels_key, condition_key, sample_key
        Columns of ``obs``: the model's batch, the cell type, the condition and the replicate.
    seed
        Seed of the random numbers.
    """

    cells: AnnData
    model: Any
    target: str
    batch_key: str = "batch"
    labels_key: str = "cell_type"
    condition_key: str = "condition"
    sample_key: str = "donor"
    seed: int = 0

    @cached_property
    def counts(self) -> sp.csr_matrix:
        """Return the cells' observed counts."""
        return sp.csr_matrix(self.cells.X).astype(np.int32)

    @cached_property
    def codes(self) -> dict[str, np.ndarray]:
        """Return codes of batch, label and condition of each cell."""
        obs = self.cells.obs
        keys = {"label": self.labels_key, "condition": self.condition_key}
        codes = {
            name: obs[key].astype("category").cat.codes.to_numpy() for name, key in keys.items()
        }
        batches = [str(b) for b in adapter_for(self.model).batches]
        codes["batch"] = np.array([batches.index(b) for b in obs[self.batch_key].astype(str)])
        codes["target"] = np.array([batches.index(str(self.target))])
        return codes

    def at_home(self) -> np.ndarray:
        """Return which cells belong to the target batch."""
        return np.asarray(self.codes["batch"] == self.codes["target"][0])

    def corrected(self, **arguments: Any) -> AnnData:
        """Return scvibridge's corrected counts."""
        return self.corrected_and_warned(**arguments)[0]

    def corrected_and_warned(self, **arguments: Any) -> tuple[AnnData, list[str]]:
        """Return scvibridge's corrected counts, and the warnings that it issued."""
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always")
            counts = sb.corrected_counts(
                self.model,
                transform_batch=self.target,
                seed=self.seed,
                allow_confounded=True,
                progress=False,
                **arguments,
            )
        ours = [w for w in issued if issubclass(w.category, UserWarning)]
        return counts, [str(warning.message) for warning in ours]

    @cached_property
    def decoded(self) -> Decoded:
        """Return the decoder's output for each cell, for methods that are implemented here."""
        return decode(self)


@dataclass(frozen=True)
class Decoded:
    """The decoder's output for all cells, at the posterior means of z.

    Attributes
    ----------
    own
        Frequencies under the cell's batch, ``(n, n_genes)``, float32.
    log_ratio
        Log ratio of those under the target and the cell's batch, D of each cell.
    theta
        Inverse dispersions, ``(n_genes,)``.
    total
        Counts of each cell, ``(n,)``.
    depth
        Its depth ratio, "scaled".
    low
        Genes rarely detected in the cell's batch or the target, ``(n_batches, n_genes)``.
    """

    own: np.ndarray
    log_ratio: np.ndarray
    theta: np.ndarray
    total: np.ndarray
    depth: np.ndarray
    low: np.ndarray

    def mean(self, shift: np.ndarray) -> np.ndarray:
        """Compute the target mean k l rho exp(D), renormalised, for shifts D of each cell."""
        rate = self.own * np.exp(shift)
        factor = self.total * self.depth * self.own.sum(axis=1) / rate.sum(axis=1)
        return np.asarray(rate * factor[:, None])


def decode(case: Case) -> Decoded:
    """Decode all cells, under the cell's batch and under the target."""
    adapter, codes = adapter_for(case.model), case.codes
    own, there = (
        sb.normalized_expression(
            case.model, transform_batch=batch, library_size=1, progress=False
        ).X
        for batch in (None, case.target)
    )
    total = np.asarray(case.counts.sum(axis=1), dtype=float).ravel()
    target = Target(list(codes["target"]))
    in_target = target.holds(codes["batch"])
    learnt = Depth("scaled").learn(
        total, codes["batch"], in_target, codes["label"], adapter.batches
    )
    depth = learnt.ratio(total, codes["batch"])
    seen = np.stack(
        [
            np.asarray((case.counts[codes["batch"] == b] > 0).sum(axis=0)).ravel()
            for b in range(len(adapter.batches))
        ]
    )
    theta = np.exp(case.model.module.px_r.detach().numpy().astype(float))
    low = detection.Detection(seen, target).low()
    return Decoded(own, np.log(there) - np.log(own), theta, total, depth, low)


def label_effect(case: Case) -> np.ndarray:
    """Compute D of each cell's label and batch, conditions weighing equally, ``(n, n_genes)``."""
    decoded, codes = case.decoded, case.codes
    shift = np.zeros(decoded.own.shape, dtype=np.float32)
    for members in _groups(codes["batch"], codes["label"]):
        conditions = codes["condition"][members]
        means = [
            decoded.log_ratio[members[conditions == c]].mean(axis=0) for c in np.unique(conditions)
        ]
        shift[members] = np.where(decoded.low[codes["batch"][members[0]]], 0.0, np.mean(means, 0))
    shift[case.at_home()] = 0.0
    return shift


def _groups(*columns: np.ndarray) -> list[np.ndarray]:
    """Return positions of the members of each combination of codes."""
    _, group = np.unique(np.stack(columns), axis=1, return_inverse=True)
    return [np.flatnonzero(group.ravel() == g) for g in range(group.max() + 1)]


# -- methods: counts of a case ---------------------------------------------------------------------


def _raw(case: Case) -> sp.csr_matrix:
    return case.counts


def _thinned(case: Case) -> sp.csr_matrix:
    """Return raw counts, binomially thinned if the target is shallower."""
    rng = np.random.default_rng(case.seed)
    counts = case.counts.copy()
    kept = np.minimum(case.decoded.depth, 1.0)[
        np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    ]
    counts.data = rng.binomial(counts.data, kept).astype(np.int32)
    counts.eliminate_zeros()
    return counts


def _scvibridge(*, samples: bool = True, **arguments: Any) -> Callable[[Case], sp.csr_matrix]:
    def make(case: Case) -> sp.csr_matrix:
        keys = {"condition_key": case.condition_key}
        if arguments.get("effect") in (None, "label") and arguments.get("method") != "sample":
            keys["labels_key"] = case.labels_key
        if samples:
            keys["sample_key"] = case.sample_key
        return sp.csr_matrix(case.corrected(**keys, **arguments).X)

    return make


def _rounded_up_or_down(case: Case) -> sp.csr_matrix:
    """Return X k exp(D), rounded up with a probability equal to its fraction."""
    decoded, shift = case.decoded, label_effect(case)
    factor = decoded.mean(shift) / np.maximum(decoded.total[:, None] * decoded.own, 1e-30)
    wanted = case.counts.multiply(factor).tocsr()
    rng = np.random.default_rng(case.seed)
    wanted.data = np.floor(wanted.data + rng.random(wanted.nnz))
    wanted.eliminate_zeros()
    return wanted.astype(np.int32)


def _mid_quantile(case: Case) -> sp.csr_matrix:
    """Compute `quantile` with v = 1/2: no random noise, but not the target's distribution."""
    decoded, changed = case.decoded, np.flatnonzero(~case.at_home())
    counts = case.counts.toarray()
    target = decoded.mean(label_effect(case))
    for rows in np.array_split(changed, max(len(changed) // 500, 1)):
        mean = decoded.total[rows, None] * decoded.own[rows].astype(float)
        below, upto = _distribution(counts[rows], mean, decoded.theta)
        middle = np.minimum((below + upto) / 2, 1 - 1e-12)
        counts[rows] = negative_binomial_quantile(middle, target[rows].astype(float), decoded.theta)
    return sp.csr_matrix(counts)


def true_effect(case: Case, shift: np.ndarray) -> sp.csr_matrix:
    """Map counts with the true log effects of each cell, ``(n, n_genes)``.

    Means and dispersions are the model's: what is left of the batch effect and lost of the cell's
    counts is not the decoder's fault.
    """
    decoded, changed = case.decoded, np.flatnonzero(~case.at_home())
    counts = case.counts.toarray()
    target = decoded.mean(shift)
    rng = np.random.default_rng(case.seed)
    for rows in np.array_split(changed, max(len(changed) // 500, 1)):
        mean = decoded.total[rows, None] * decoded.own[rows].astype(float)
        below, upto = _distribution(counts[rows], mean, decoded.theta)
        uniform = below + rng.random(mean.shape) * (upto - below)
        counts[rows] = negative_binomial_quantile(
            np.minimum(uniform, 1 - 1e-12), target[rows].astype(float), decoded.theta
        )
    return sp.csr_matrix(counts)


def _distribution(
    counts: np.ndarray, mean: np.ndarray, theta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute P(count < x) and P(count <= x)."""
    probability = theta / (theta + mean)
    below = np.where(counts > 0, special.betainc(theta, np.maximum(counts, 1), probability), 0.0)
    return below, special.betainc(theta, counts + 1, probability)


def _rounded_mean(case: Case) -> sp.csr_matrix:
    """Return the decoder's mean under the target, rounded: not counts, though some use it so."""
    return sp.csr_matrix(np.rint(case.decoded.mean(label_effect(case))).astype(np.int32))


def _posterior_predictive(case: Case) -> sp.csr_matrix:
    return peers.posterior_predictive(case.model, case.target, case.seed)


def _peer(correct: Callable[..., np.ndarray]) -> Callable[[Case], sp.csr_matrix]:
    def make(case: Case) -> sp.csr_matrix:
        samples = case.cells.obs[[case.batch_key, case.labels_key, case.condition_key]]
        samples = samples.rename(columns={case.batch_key: "batch"})
        return sp.csr_matrix(correct(case.counts.toarray(), samples)).astype(np.int32)

    return make


METHODS: dict[str, Callable[[Case], sp.csr_matrix]] = {
    "raw": _raw,
    "raw, thinned": _thinned,
    "quantile, label": _scvibridge(),
    "quantile, label, no sample_key": _scvibridge(samples=False),
    "quantile, label, not shrunk": _scvibridge(shrinkage=0),
    "quantile, global": _scvibridge(effect="global"),
    "quantile, global, not shrunk": _scvibridge(effect="global", shrinkage=0),
    "quantile, local": _scvibridge(effect="local"),
    "quantile, cell": _scvibridge(effect="cell"),
    "sample": _scvibridge(method="sample"),
    "stochastic rounding": _rounded_up_or_down,
    "mid-quantile": _mid_quantile,
    "rounded mean": _rounded_mean,
    "posterior_predictive_sample": _posterior_predictive,
}
# Takes minutes: run for fewer seeds. pycombat_seq is the same method, and takes many times as
# long.
SLOW_METHODS: dict[str, Callable[[Case], sp.csr_matrix]] = {
    "ComBat_seq, cells": _peer(peers.combat_seq),
}


def _combat_seq_of_all(cases: Sequence[tuple[np.ndarray, pd.DataFrame]]) -> list[np.ndarray]:
    corrected = []
    for found in peers.combat_seq_of_all(cases):
        if isinstance(found, RuntimeError):
            raise found
        corrected.append(found)
    return corrected


def _pycombat_seq_of_all(cases: Sequence[tuple[np.ndarray, pd.DataFrame]]) -> list[np.ndarray]:
    return [peers.pycombat_seq(*case) for case in cases]


# On several pseudobulks: samples by genes, with a table that has columns batch and condition.
PSEUDOBULK_METHODS: dict[
    str, Callable[[Sequence[tuple[np.ndarray, pd.DataFrame]]], list[np.ndarray]]
] = {
    "ComBat_seq, pseudobulk": _combat_seq_of_all,
    "pycombat_seq, pseudobulk": _pycombat_seq_of_all,
}
