"""Fitting an output head: a penalised regression of counts on the decoder's last hidden layer.

Genes share nothing but the steps of the optimiser, so that each gets its own regression. Gradients
are written out: a minibatch takes a few products of matrices and no graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    import scipy.sparse as sp

    Reader = Callable[[np.ndarray], sp.csr_matrix]

# Rates of Adam: for the weights, and for intercepts and dispersions.
WEIGHT_RATE, OTHER_RATE = 5e-3, 2e-2
CELLS_PER_STEP = 128
# Epochs without a better held-out likelihood, after which a fit ends.
PATIENCE = 4
# Search range of a gene's inverse dispersion: beyond it, counts are uninformative.
LOG_THETA_START, LOG_THETA_RANGE = 1.0, (-5.0, 8.0)
_LARGEST_LOG_MEAN = 30.0
_EXACT_TERMS = 3
# Stands for the counts of a gene that no cell shows.
_LEAST_COUNT = 0.5


@dataclass(frozen=True)
class HeadCells:
    """Cells, and all that a head needs to know of them but counts.

    Attributes
    ----------
    features
        Standardised h, float32, shape ``(n_cells, n_features)``.
    batch
        Codes of the model's batches, shape ``(n_cells,)``.
    n_batches
        Number of batches.
    log_total
        Log of the cells' totals over all genes, float32, shape ``(n_cells,)``.
    """

    features: torch.Tensor
    batch: torch.Tensor
    n_batches: int
    log_total: torch.Tensor

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.batch)


@dataclass(frozen=True)
class HeadData(HeadCells):
    """What a head is fitted to: cells, and their counts of some genes.

    Attributes
    ----------
    counts
        Reads the counts of cells by their rows here, ``(n, n_genes)``.
    n_genes
        Number of genes.
    """

    counts: Reader
    n_genes: int

    def sums(self) -> np.ndarray:
        """Sum the counts of each gene over the cells of each batch, ``(n_batches, n_genes)``."""
        batch, sums = self.batch.cpu().numpy(), np.zeros((self.n_batches, self.n_genes))
        for rows in _cut(self.n_cells, self.n_genes):
            counts = self.counts(rows)
            for code in np.unique(batch[rows]):
                sums[code] += np.asarray(counts[batch[rows] == code].sum(axis=0)).ravel()
        return sums


@dataclass
class Parameters:
    """Parameters of a head while it is fitted: tensors, genes in columns."""

    weights: torch.Tensor
    intercept: torch.Tensor
    batch: torch.Tensor
    log_theta: torch.Tensor | None

    def tensors(self) -> list[torch.Tensor]:
        """Return the tensors that are not None."""
        given = (self.weights, self.intercept, self.batch, self.log_theta)
        return [values for values in given if values is not None]

    def copy(self) -> Parameters:
        """Return a copy that further steps do not change."""
        theta = None if self.log_theta is None else self.log_theta.clone()
        return Parameters(self.weights.clone(), self.intercept.clone(), self.batch.clone(), theta)

    def log_mean(
        self, features: torch.Tensor, batch: torch.Tensor, log_total: torch.Tensor
    ) -> torch.Tensor:
        """Log of the means of cells, ``(n, n_genes)``."""
        log_mean = features @ self.weights + self.intercept + self.batch[batch]
        return (log_mean + log_total[:, None]).clamp(max=_LARGEST_LOG_MEAN)

    def theta(self, batch: torch.Tensor) -> torch.Tensor | None:
        """Inverse dispersions of cells, one row or one for each cell."""
        if self.log_theta is None:
            return None
        rows = self.log_theta if len(self.log_theta) == 1 else self.log_theta[batch]
        return rows.exp()


def joined(blocks: list[Parameters]) -> list[np.ndarray]:
    """Put the parameters of blocks of genes together: weights, intercept, batch, if any theta."""
    parts = zip(*(block.tensors() for block in blocks), strict=True)
    return [torch.cat(part, dim=-1).cpu().numpy() for part in parts]


@dataclass(frozen=True)
class Fitted:
    """A head that was fitted: its parameters, and its held-out loss after each epoch."""

    parameters: Parameters
    losses: list[float]


@torch.inference_mode()
def fit_head(
    data: HeadData,
    held_out: HeadData,
    likelihood: str,
    dispersion: str,
    ridge: float,
    max_epochs: int,
    seed: int,
    stop: Event | None = None,
) -> Fitted:
    """Fit a head, and stop where held-out cells get no likelier.

    Parameters
    ----------
    data, held_out
        The cells to fit to, and those to judge by.
    likelihood
        ``"nb"`` or ``"poisson"``.
    dispersion
        ``"gene"`` or ``"gene-batch"``.
    ridge
        Weight of the penalty.
    max_epochs, seed
        Most passes through the cells, and the seed of their order.
    stop
        Ends the fit after an epoch where it is set.

    Notes
    -----
    Minimises mean over cells of [sum over genes of the negative log-likelihood] + ridge/2 |W|^2.
    Intercepts of batches are not penalised: else the penalty would take the batch effect of genes
    with few counts.
    """
    parameters = start(data, likelihood, dispersion)
    optimiser = torch.optim.Adam(
        [
            {"params": parameters.tensors()[:1], "rate": WEIGHT_RATE},
            {"params": parameters.tensors()[1:], "rate": OTHER_RATE},
        ],
    )
    generator = torch.Generator().manual_seed(seed)
    n_steps = max_epochs * math.ceil(data.n_cells / CELLS_PER_STEP)
    best, losses, step = parameters, [], 0
    for _ in range(max_epochs):
        order = torch.randperm(data.n_cells, generator=generator).numpy()
        for start_row in range(0, data.n_cells, CELLS_PER_STEP):
            _set_rates(optimiser, step / n_steps)
            _take_step(
                parameters, optimiser, data, order[start_row : start_row + CELLS_PER_STEP], ridge
            )
            step += 1
        losses.append(mean_loss(parameters, held_out))
        if losses[-1] == min(losses):
            best = parameters.copy()
        is_over = len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE
        if is_over or (stop is not None and stop.is_set()):
            break
    return Fitted(best, losses)


def start(data: HeadData, likelihood: str, dispersion: str) -> Parameters:
    """W = 0, b = log of counts over totals, c = 0."""
    device = data.features.device
    counts = torch.as_tensor(data.sums().sum(axis=0), device=device)
    total = data.log_total.double().exp().sum()
    zeros = torch.zeros((data.n_batches, data.n_genes), device=device)
    n_rows = data.n_batches if dispersion == "gene-batch" else 1
    return Parameters(
        torch.zeros((data.features.shape[1], data.n_genes), device=device),
        (counts.clamp(min=_LEAST_COUNT).log() - total.log()).float(),
        zeros,
        None if likelihood == "poisson" else torch.full_like(zeros[:n_rows], LOG_THETA_START),
    )


def _set_rates(optimiser: torch.optim.Adam, done: float) -> None:
    """Set the learning rates along half a cosine."""
    for group in optimiser.param_groups:
        group["lr"] = group["rate"] * 0.5 * (1.0 + math.cos(math.pi * done))


def _take_step(
    parameters: Parameters,
    optimiser: torch.optim.Adam,
    data: HeadData,
    rows: np.ndarray,
    ridge: float,
) -> None:
    found = gradients(parameters, data, rows, ridge)
    for values, gradient in zip(parameters.tensors(), found.tensors(), strict=True):
        values.grad = gradient
    optimiser.step()
    if parameters.log_theta is not None:
        parameters.log_theta.clamp_(*LOG_THETA_RANGE)


def gradients(parameters: Parameters, data: HeadData, rows: np.ndarray, ridge: float) -> Parameters:
    """Gradients of the loss of some cells, in the places of the parameters.

    Notes
    -----
    Of the log mean: theta (mu - x) / (mu + theta), mu - x for Poisson.
    """
    features, batch, x, log_mean = _of_rows(parameters, data, rows)
    mean, theta = log_mean.exp(), parameters.theta(batch)
    residual = mean - x
    if theta is not None:
        residual *= theta / (mean + theta)
    residual /= len(rows)
    members = _members(batch, data.n_batches)
    return Parameters(
        features.T @ residual + ridge * parameters.weights,
        residual.sum(dim=0),
        members @ residual,
        None if theta is None else _gradient_of_log_theta(parameters, members, x, mean, theta),
    )


def _gradient_of_log_theta(
    parameters: Parameters,
    members: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    theta: torch.Tensor,
) -> torch.Tensor:
    """Theta [log(1 + mu/theta) - (mu - x)/(mu + theta) - psi(x + theta) + psi(theta)], summed."""
    change = torch.log1p(mean / theta) - (mean - x) / (mean + theta)
    change -= digamma_gain(x, theta)
    change *= theta / len(x)
    assert parameters.log_theta is not None  # noqa: S101 - there is a theta
    if len(parameters.log_theta) == 1:
        return change.sum(dim=0, keepdim=True)
    return members @ change


def digamma_gain(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Psi(x + theta) - psi(theta) of whole numbers x, ``(n, n_genes)``.

    Notes
    -----
    The first terms of sum over k < x of 1/(theta + k), then the asymptotic series of psi
    (Abramowitz and Stegun, 6.3.18), whose error is below 1e-6 from 3 on. All entries are worked on
    alike: to look up those that are not zero takes longer.
    """
    gain = (x > 0) / theta
    for k in range(1, _EXACT_TERMS):
        gain += (x > k) / (theta + k)
    gain += _psi(x.clamp(min=_EXACT_TERMS) + theta)
    gain -= _psi(theta + _EXACT_TERMS)
    return gain


def _psi(y: torch.Tensor) -> torch.Tensor:
    inverse = 1.0 / y
    square = inverse * inverse
    series = (1.0 / 120.0 - square / 252.0) * square - 1.0 / 12.0
    return y.log() - 0.5 * inverse + series * square


def _members(batch: torch.Tensor, n_batches: int) -> torch.Tensor:
    """Return the membership of cells in batches, ``(n_batches, n_cells)``, to sum over them."""
    return (torch.arange(n_batches, device=batch.device)[:, None] == batch).float()


def _of_rows(
    parameters: Parameters, data: HeadData, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    place = torch.as_tensor(rows, device=data.batch.device)
    features, batch = data.features[place], data.batch[place]
    counts = data.counts(rows).toarray().astype(np.float32, copy=False)
    x = torch.as_tensor(counts, device=features.device)
    return features, batch, x, parameters.log_mean(features, batch, data.log_total[place])


# -- likelihoods ---------------------------------------------------------------------------------


def mean_loss(parameters: Parameters, data: HeadData) -> float:
    """Mean over cells of the negative log-likelihood summed over genes, constants and all."""
    total = 0.0
    for rows in _cut(data.n_cells, data.n_genes):
        _, batch, x, log_mean = _of_rows(parameters, data, rows)
        total -= float(log_likelihood(x, log_mean, parameters.theta(batch)).sum().double())
    return total / max(data.n_cells, 1)


def log_likelihood(
    x: torch.Tensor, log_mean: torch.Tensor, theta: torch.Tensor | None
) -> torch.Tensor:
    """Log-probabilities of counts, ``(n, n_genes)``."""
    mean = log_mean.exp()
    cell, gene = x.nonzero(as_tuple=True)
    some = x[cell, gene]
    if theta is None:
        found = -mean
        found[cell, gene] += some * log_mean[cell, gene] - torch.lgamma(some + 1)
        return found
    found = -theta * torch.log1p(mean / theta)
    # In double precision, since large numbers are subtracted.
    own, some = theta.expand_as(x)[cell, gene].double(), some.double()
    found[cell, gene] += (
        torch.lgamma(some + own)
        - torch.lgamma(own)
        - torch.lgamma(some + 1)
        + some * (log_mean[cell, gene] - torch.log(own + mean[cell, gene]))
    ).float()
    return found


def deviance(x: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor | None) -> torch.Tensor:
    """Twice the log-likelihood that is missing to means that equal the counts, ``(n, n_genes)``."""
    gain = torch.xlogy(x, x / mean)
    if theta is None:
        return 2.0 * (gain - (x - mean))
    return 2.0 * (gain - (x + theta) * torch.log1p((x - mean) / (mean + theta)))


@torch.inference_mode()
def quality_of(parameters: Parameters, data: HeadData, held_out: HeadData) -> pd.DataFrame:
    """Compute the quality of each gene's fit in held-out cells.

    Parameters
    ----------
    parameters
        The head.
    data
        The cells used for fitting.
    held_out
        Other cells.

    Returns
    -------
    One row per gene: ``explained``, the deviance explained beyond the gene's share of each batch,
    and ``theta``, the mean over batches, if there is one.
    """
    ours, by_batch = _deviances(parameters, held_out, _shares_by_batch(data))
    explained = 1.0 - np.divide(ours, by_batch, out=np.ones(len(ours)), where=by_batch > 0)
    theta = parameters.log_theta
    found = {} if theta is None else {"theta": theta.exp().mean(dim=0).cpu().numpy().astype(float)}
    return pd.DataFrame({"explained": explained, **found})


def _shares_by_batch(data: HeadData) -> np.ndarray:
    """Counts of each gene over totals, by batch, ``(n_batches, n_genes)``."""
    codes = data.batch.cpu().numpy()
    totals = np.bincount(codes, data.log_total.exp().cpu().numpy(), data.n_batches)
    sums = data.sums()
    # A hundredth of a count, spread as the gene is over all cells, for batches without any.
    share = np.maximum(sums.sum(axis=0), _LEAST_COUNT) / totals.sum()
    return np.asarray((sums + 0.01) / (totals[:, None] + 0.01 / share))


def _deviances(parameters: Parameters, data: HeadData, shares: np.ndarray) -> np.ndarray:
    """Deviance of each gene over some cells: of a head, and of shares by batch alone.

    Returns
    -------
    Shape ``(2, n_genes)``; both under the head's dispersions.
    """
    sums = np.zeros((2, data.n_genes))
    by_batch = torch.as_tensor(shares, device=data.batch.device).float()
    for rows in _cut(data.n_cells, data.n_genes):
        _, batch, x, log_mean = _of_rows(parameters, data, rows)
        theta = parameters.theta(batch)
        total = data.log_total[torch.as_tensor(rows, device=batch.device)].exp()
        means = (log_mean.exp(), by_batch[batch] * total[:, None])
        for place, mean in enumerate(means):
            sums[place] += deviance(x, mean, theta).double().sum(dim=0).cpu().numpy()
    return sums


def _cut(n_cells: int, n_genes: int) -> list[np.ndarray]:
    """Cut cells into blocks of a few million entries at most."""
    size = max(1, min(2048, 4_000_000 // max(n_genes, 1)))
    return [np.arange(first, min(first + size, n_cells)) for first in range(0, n_cells, size)]
