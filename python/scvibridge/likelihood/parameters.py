"""Parameters of the count likelihoods for a block of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scvibridge.likelihood.cpu import rows_of_counts

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class GroupShift:
    """Change of parameters shared by the cells of a group, stored once per group.

    Attributes
    ----------
    ratio
        Factor on the means of each gene, shape (R, G), finite and not negative.
    zi_logits
        Added to the logits of the dropout probability, shape (R, G); nothing if None.
    row
        Row of both that each cell uses, shape (n,).
    """

    ratio: npt.NDArray[np.float64]
    zi_logits: npt.NDArray[np.float64] | None
    row: npt.NDArray[np.intp]


@dataclass(frozen=True)
class CountParameters:
    """Parameters of the counts of n cells and G genes: Poisson, NB or ZINB.

    Attributes
    ----------
    mean
        Mean of the count component, shape (n, G), float32 or float64, finite and not negative; with
        `factor` and `shift`, the value to which these are applied.
    theta
        Inverse dispersion, shape (K, G), above 0: the variance is mean + mean**2 / theta, and
        infinity is the Poisson. None for a Poisson throughout.
    theta_row
        Row of `theta` that each cell uses, shape (n,), integers.
    zi_logits
        Logit of the dropout probability, shape (n, G). None without zero inflation.
    factor
        Factor on the means of each cell, shape (n,); 1 if None.
    shift
        Change of the means and logits of groups of cells, or None.

    Raises
    ------
    TypeError
        If a dtype is wrong.
    ValueError
        If shapes do not match, `theta` is not above 0, or `theta_row` is out of range.
    """

    mean: FloatArray
    theta: npt.NDArray[np.float64] | None
    theta_row: npt.NDArray[np.intp]
    zi_logits: FloatArray | None
    factor: npt.NDArray[np.float64] | None = None
    shift: GroupShift | None = None

    def __post_init__(self) -> None:
        """Check shapes, dtypes and dispersions; the kernels check means and logits."""
        _check_matrix("mean", self.mean)
        if np.shape(self.theta_row) != (self.mean.shape[0],):
            raise ValueError(
                f"theta_row must have one entry for each of the {self.mean.shape[0]} cells of "
                f"mean, got shape {np.shape(self.theta_row)}"
            )
        if self.zi_logits is not None:
            _check_matrix("zi_logits", self.zi_logits)
            if self.zi_logits.shape != self.mean.shape:
                raise ValueError(
                    f"zi_logits must have the shape of mean, {self.mean.shape}, "
                    f"got {self.zi_logits.shape}"
                )
        if self.theta is not None:
            self._check_theta(self.theta)

    def _check_theta(self, theta: npt.NDArray[np.float64]) -> None:
        n_genes = self.mean.shape[1]
        if theta.ndim != 2 or theta.shape[1] != n_genes:
            raise ValueError(f"theta must have shape (K, {n_genes}), got {theta.shape}")
        if not np.all(theta > 0):
            bad = theta[~(theta > 0)].flat[0]
            raise ValueError(f"theta must be above 0, got {bad}")
        rows = np.asarray(self.theta_row)
        if rows.size and (rows.min() < 0 or rows.max() >= theta.shape[0]):
            raise ValueError(
                f"theta_row must be in [0, {theta.shape[0]}), the rows of theta, "
                f"got values from {rows.min()} to {rows.max()}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and genes."""
        return self.mean.shape[0], self.mean.shape[1]


def check_status(status: npt.NDArray[np.int8], first: int = 0) -> None:
    """Refuse invalid parameters or counts.

    Parameters
    ----------
    status
        A code of `scvibridge.likelihood.cpu.draw` for each row, shape (n,).
    first
        Number of the first of these rows in its block.

    Raises
    ------
    ValueError
        If a mean is negative or not finite, or a logit is NaN.
    OverflowError
        If a count is above 2**31 - 1.
    """
    if np.any(status == rows_of_counts.INVALID):
        row = first + int(np.argmax(status == rows_of_counts.INVALID))
        raise ValueError(
            f"means must be finite and not negative, and logits not NaN; row {row} of this block "
            "has others. Was the model trained to the end?"
        )
    if np.any(status == rows_of_counts.TOO_LARGE):
        row = first + int(np.argmax(status == rows_of_counts.TOO_LARGE))
        raise OverflowError(
            f"a count in row {row} of this block is above 2**31 - 1 = {2**31 - 1}, the largest "
            "that int32 and R's integers can hold; use a smaller library_size"
        )


def _check_matrix(name: str, matrix: Any) -> None:
    if not isinstance(matrix, np.ndarray) or matrix.dtype not in (np.float32, np.float64):
        kind = getattr(matrix, "dtype", type(matrix).__name__)
        raise TypeError(f"{name} must be an ndarray of float32 or float64, got {kind}")
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two axes, cells and genes, got shape {matrix.shape}")


@dataclass(frozen=True)
class BlockParameters:
    """Parameters of the counts of a block: tensors on the model's device, tables on the host.

    Attributes
    ----------
    rate
        Frequencies, shape ``(n, n_genes)``; the mean is rate * factor, shifted by the group.
    zi_logits
        Logits of the dropout probability, shape ``(n, n_genes)``, or None.
    theta
        Inverse dispersions, ``(n_rows, n_genes)``; a tensor with a row for each cell if the decoder
        computes them, None for Poisson.
    theta_row
        Row of `theta` of each cell, shape ``(n,)``.
    factor
        Library times depth, shape ``(n,)``.
    shift
        Change of rates and logits of groups of cells, or None.
    """

    rate: torch.Tensor
    zi_logits: torch.Tensor | None
    theta: np.ndarray | torch.Tensor | None
    theta_row: np.ndarray
    factor: np.ndarray
    shift: GroupShift | None = None

    def of_genes(self, genes: np.ndarray | None) -> BlockParameters:
        """Return the parameters of some genes, in the given order."""
        if genes is None:
            return self
        columns = torch.as_tensor(genes, device=self.rate.device)
        shift = self.shift
        if shift is not None:
            logits = None if shift.zi_logits is None else shift.zi_logits[:, genes]
            shift = GroupShift(shift.ratio[:, genes], logits, shift.row)
        if isinstance(self.theta, torch.Tensor):
            theta: np.ndarray | torch.Tensor | None = self.theta[:, columns]
        else:
            theta = None if self.theta is None else self.theta[:, genes]
        return BlockParameters(
            self.rate[:, columns],
            None if self.zi_logits is None else self.zi_logits[:, columns],
            theta,
            self.theta_row,
            self.factor,
            shift,
        )
