"""Check likelihood parameters, and convert them to the form required by the CPU kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.likelihood.cpu.rows import Distribution

if TYPE_CHECKING:
    from scvibridge.likelihood.parameters import FloatArray, GroupShift, HostParameters

_NO_LOGITS = {np.dtype(kind): np.zeros((1, 1), dtype=kind) for kind in (np.float32, np.float64)}


class KernelArguments:
    """Checked parameters in the form required by kernels: one float dtype, contiguous, no None."""

    def __init__(self, parameters: HostParameters, dtype: np.dtype[Any]) -> None:
        n_cells, n_genes = parameters.shape
        self._rate = np.ascontiguousarray(parameters.rate, dtype=dtype)
        self._factor = np.ascontiguousarray(parameters.factor, dtype=np.float64)
        if parameters.theta is None:
            self._theta = np.full((1, n_genes), np.inf)
            self._theta_row = np.zeros(n_cells, dtype=np.intp)
        else:
            self._theta = np.ascontiguousarray(parameters.theta, dtype=np.float64)
            self._theta_row = np.ascontiguousarray(parameters.theta_row, dtype=np.intp)
        self._phi = 1.0 / self._theta
        self._zi_logits: FloatArray | None = None
        if parameters.zi_logits is not None:
            self._zi_logits = np.ascontiguousarray(parameters.zi_logits, dtype=dtype)
        self._set_shift(parameters.shift, n_cells, n_genes)

    def _set_shift(self, shift: GroupShift[np.ndarray] | None, n_cells: int, n_genes: int) -> None:
        self._shifted = shift is not None
        if shift is None:
            self._ratio = self._zi_shift = np.ones((1, 1))
            self._shift_row = np.zeros(n_cells, dtype=np.intp)
            return
        self._ratio = np.ascontiguousarray(shift.ratio, dtype=np.float64)
        nothing = (len(shift.ratio), n_genes) if self._zi_logits is not None else (1, 1)
        zi_shift = np.zeros(nothing) if shift.zi_shift is None else shift.zi_shift
        self._zi_shift = np.ascontiguousarray(zi_shift, dtype=np.float64)
        self._shift_row = np.ascontiguousarray(shift.shift_row, dtype=np.intp)

    def of(self, rows: slice) -> Distribution:
        """Return the parameters of some rows."""
        nothing = _NO_LOGITS[self._rate.dtype]
        return Distribution(
            rate=self._rate[rows],
            factor=self._factor[rows],
            theta=self._theta,
            phi=self._phi,
            theta_row=self._theta_row[rows],
            zero_inflated=self._zi_logits is not None,
            zi_logits=nothing if self._zi_logits is None else self._zi_logits[rows],
            shifted=self._shifted,
            ratio=self._ratio,
            zi_shift=self._zi_shift,
            shift_row=self._shift_row[rows],
        )


def common_dtype(*parameters: HostParameters) -> np.dtype[Any]:
    """Return float32 if all matrices have it, so that a kernel has only two versions."""
    matrices = [p.rate for p in parameters]
    matrices += [p.zi_logits for p in parameters if p.zi_logits is not None]
    single = all(matrix.dtype == np.float32 for matrix in matrices)
    return np.dtype(np.float32 if single else np.float64)


def check(parameters: HostParameters) -> None:
    """Check shapes, dtypes and dispersions; the kernels check rates and logits.

    Raises
    ------
    TypeError
        If a dtype is wrong.
    ValueError
        If shapes do not match, `theta` is not above 0, or `theta_row` is out of range.
    """
    _check_matrix("rate", parameters.rate)
    n_cells, n_genes = parameters.shape
    for name in ("theta_row", "factor"):
        values = getattr(parameters, name)
        if np.shape(values) != (n_cells,):
            raise ValueError(
                f"{name} must have one entry for each of the {n_cells} cells of rate, got shape "
                f"{np.shape(values)}"
            )
    if parameters.zi_logits is not None:
        _check_matrix("zi_logits", parameters.zi_logits)
        if parameters.zi_logits.shape != parameters.shape:
            raise ValueError(
                f"zi_logits must have the shape of rate, {parameters.shape}, "
                f"got {parameters.zi_logits.shape}"
            )
    if parameters.theta is not None:
        _check_theta(parameters.theta, parameters.theta_row, n_genes)


def _check_matrix(name: str, matrix: Any) -> None:
    if not isinstance(matrix, np.ndarray) or matrix.dtype not in (np.float32, np.float64):
        kind = getattr(matrix, "dtype", type(matrix).__name__)
        raise TypeError(f"{name} must be an ndarray of float32 or float64, got {kind}")
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two axes, cells and genes, got shape {matrix.shape}")


def _check_theta(theta: np.ndarray, theta_row: np.ndarray, n_genes: int) -> None:
    if theta.ndim != 2 or theta.shape[1] != n_genes:
        raise ValueError(f"theta must have shape (K, {n_genes}), got {theta.shape}")
    if not np.all(theta > 0):
        bad = theta[~(theta > 0)].flat[0]
        raise ValueError(f"theta must be above 0, got {bad}")
    rows = np.asarray(theta_row)
    if rows.size and (rows.min() < 0 or rows.max() >= theta.shape[0]):
        raise ValueError(
            f"theta_row must be in [0, {theta.shape[0]}), the rows of theta, "
            f"got values from {rows.min()} to {rows.max()}"
        )
