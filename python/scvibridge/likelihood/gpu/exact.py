"""Solve the few entries that a device leaves to the host, with functions of `likelihood.cpu`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scvibridge.likelihood.cpu.compilation import entry
from scvibridge.likelihood.cpu.zero_inflation import count_of_uniform, map_positive, map_zero

if TYPE_CHECKING:
    from torch import Tensor

    from scvibridge.likelihood.gpu.parameters import Entries


Column = npt.NDArray[np.float64]


@entry
def _draw(
    uniforms: Column, mean: Column, theta: Column, logit: Column, out: npt.NDArray[np.int64]
) -> None:
    for index in range(uniforms.shape[0]):
        out[index] = count_of_uniform(uniforms[index], mean[index], theta[index], logit[index])


@entry
def _map(
    observed: npt.NDArray[np.int64],
    uniforms: Column,
    mean: Column,
    theta: Column,
    logit: Column,
    new_mean: Column,
    new_theta: Column,
    new_logit: Column,
    out: npt.NDArray[np.int64],
) -> None:
    for index in range(uniforms.shape[0]):
        if observed[index] > 0:
            out[index] = map_positive(
                observed[index],
                uniforms[index],
                mean[index],
                theta[index],
                logit[index],
                new_mean[index],
                new_theta[index],
                new_logit[index],
            )
        else:
            out[index] = map_zero(
                uniforms[index],
                mean[index],
                theta[index],
                logit[index],
                new_mean[index],
                new_theta[index],
                new_logit[index],
            )


def solve_on_host(
    uniforms: Tensor, observed: Tensor | None, source: Entries | None, target: Entries
) -> npt.NDArray[np.int64]:
    """Sample or map the counts of single entries on the host.

    Parameters
    ----------
    uniforms
        Uniforms of N entries, float64.
    observed
        Counts to map; None to sample counts.
    source, target
        Parameters of the observed counts (None to sample) and of those to compute.

    Returns
    -------
    ndarray of int64, shape (N,)
    """
    out = np.empty(uniforms.shape[0], dtype=np.int64)
    if observed is None or source is None:
        mean, theta, logit = map(_column, target)
        _draw(_column(uniforms), mean, theta, logit, out)
    else:
        counts = observed.cpu().numpy().astype(np.int64)
        mean, theta, logit = map(_column, source)
        new_mean, new_theta, new_logit = map(_column, target)
        _map(
            counts,
            _column(uniforms),
            mean,
            theta,
            logit,
            new_mean,
            new_theta,
            new_logit,
            out,
        )
    return out


def _column(tensor: Tensor) -> npt.NDArray[Any]:
    return np.ascontiguousarray(tensor.cpu().numpy())
