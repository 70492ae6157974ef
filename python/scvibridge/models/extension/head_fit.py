"""Fit an output head: a penalised regression of counts on the decoder's last hidden layer.

Genes share only the steps of the optimiser, so each gets a separate regression. Gradients are coded
by hand: a minibatch needs a few matrix products and no graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from scvibridge.models.extension.head_likelihood import deviance, digamma_gain, log_likelihood
from scvibridge.models.extension.head_parameters import (
    HeadData,
    Nonzeros,
    Parameters,
    cut_to_genes,
)

if TYPE_CHECKING:
    from threading import Event


# Adam learning rates: for the weights, and for intercepts and dispersions.
WEIGHT_RATE, OTHER_RATE = 5e-3, 2e-2

CELLS_PER_STEP = 128

# Number of epochs without a better held-out likelihood after which a fit stops.
PATIENCE = 4

# Search range of a gene's inverse dispersion: beyond it, counts are uninformative.
LOG_THETA_START, LOG_THETA_RANGE = 1.0, (-5.0, 8.0)

# Replaces the count of a gene that is zero in all cells.
_LEAST_COUNT = 0.5


@dataclass(frozen=True)
class Fitted:
    """A fitted head: its parameters, and its held-out loss after each epoch."""

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
    """Fit a head, and stop when the held-out likelihood no longer improves.

    Parameters
    ----------
    data, held_out
        The cells to fit to, and the cells for evaluation.
    likelihood
        ``"nb"`` or ``"poisson"``.
    dispersion
        ``"gene"`` or ``"gene-batch"``.
    ridge
        Weight of the penalty.
    max_epochs, seed
        Maximum number of passes through the cells, and the seed of their order.
    stop
        Ends the fit after any epoch at which it is set.

    Notes
    -----
    Minimises mean over cells of [sum over genes of the negative log-likelihood] + ridge/2 |W|^2.
    Batch intercepts are not penalised: otherwise the penalty would absorb the batch effect of genes
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
    """Return starting values: W = 0, b = log of counts over totals, c = 0."""
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
    """Compute gradients of the loss of some cells, arranged like the parameters.

    Notes
    -----
    Of the log mean: r = theta (mu - x) / (mu + theta), mu - x for Poisson. Of log theta:
    theta [log(1 + mu/theta) - psi(x + theta) + psi(theta)] - r. What depends on x is only computed
    for counts above zero.
    """
    features, batch, log_mean = _of_rows(parameters, data, rows)
    counts, n_cells = Nonzeros.of(data.counts(rows), features.device), len(rows)
    mean, theta = log_mean.exp_(), parameters.theta(batch)
    members = _members(batch, data.n_batches)
    if theta is None or parameters.log_theta is None:
        counts.add_to(mean, -counts.count)
        residual, change = mean, None
    else:
        share = theta / (mean + theta)
        change = torch.log1p(mean / theta)
        counts.add_to(change, -digamma_gain(counts.count, counts.values_of(theta)))
        residual = mean.mul_(share)
        counts.add_to(residual, -counts.count * counts.values_of(share))
    by_batch = members @ residual / n_cells
    return Parameters(
        (features / n_cells).T @ residual + ridge * parameters.weights,
        by_batch.sum(dim=0),
        by_batch,
        None
        if change is None or parameters.log_theta is None
        else _gradient_of_log_theta(parameters.log_theta, members @ change / n_cells, by_batch),
    )


def _gradient_of_log_theta(
    log_theta: torch.Tensor, change: torch.Tensor, residual: torch.Tensor
) -> torch.Tensor:
    """Combine what `gradients` adds up over the cells of each batch, ``(n_batches, n_genes)``."""
    if len(log_theta) == 1:
        change, residual = change.sum(dim=0, keepdim=True), residual.sum(dim=0, keepdim=True)
    return log_theta.exp() * change - residual


def _members(batch: torch.Tensor, n_batches: int) -> torch.Tensor:
    """Return the membership of cells in batches, ``(n_batches, n_cells)``, to sum over them."""
    return (torch.arange(n_batches, device=batch.device)[:, None] == batch).float()


def _of_rows(
    parameters: Parameters, data: HeadData, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the features, the batch and the log of the means of some cells."""
    place = torch.as_tensor(rows, device=data.batch.device)
    features, batch = data.features[place], data.batch[place]
    return features, batch, parameters.log_mean(features, batch, data.log_total[place])


# -- likelihoods ---------------------------------------------------------------------------------


def mean_loss(parameters: Parameters, data: HeadData) -> float:
    """Compute the mean over cells of the negative log-likelihood summed over genes."""
    total = 0.0
    for rows in cut_to_genes(data.n_cells, data.n_genes):
        _, batch, log_mean = _of_rows(parameters, data, rows)
        counts = Nonzeros.of(data.counts(rows), log_mean.device)
        total -= float(log_likelihood(counts, log_mean, parameters.theta(batch)).sum().double())
    return total / max(data.n_cells, 1)


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
    """Compute counts of each gene over totals, by batch, ``(n_batches, n_genes)``."""
    codes = data.batch.cpu().numpy()
    totals = np.bincount(codes, data.log_total.exp().cpu().numpy(), data.n_batches)
    sums = data.sums()
    # For batches without counts: a hundredth of a count, distributed like the gene over all cells.
    share = np.maximum(sums.sum(axis=0), _LEAST_COUNT) / totals.sum()
    return np.asarray((sums + 0.01) / (totals[:, None] + 0.01 / share))


def _deviances(parameters: Parameters, data: HeadData, shares: np.ndarray) -> np.ndarray:
    """Compute the deviance of each gene over some cells, for the head and for batch shares alone.

    Returns
    -------
    Shape ``(2, n_genes)``; both use the head's dispersions.
    """
    sums = np.zeros((2, data.n_genes))
    by_batch = torch.as_tensor(shares, device=data.batch.device).float()
    for rows in cut_to_genes(data.n_cells, data.n_genes):
        _, batch, log_mean = _of_rows(parameters, data, rows)
        counts = data.counts(rows).toarray().astype(np.float32, copy=False)
        x, theta = torch.as_tensor(counts, device=batch.device), parameters.theta(batch)
        total = data.log_total[torch.as_tensor(rows, device=batch.device)].exp()
        means = (log_mean.exp(), by_batch[batch] * total[:, None])
        for place, mean in enumerate(means):
            sums[place] += deviance(x, mean, theta).double().sum(dim=0).cpu().numpy()
    return sums
