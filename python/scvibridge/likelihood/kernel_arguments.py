"""Convert likelihood parameters to the form required by the CPU kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.likelihood.cpu.rows import Distribution

if TYPE_CHECKING:
    from scvibridge.likelihood.parameters import CountParameters, FloatArray, GroupShift

_NO_LOGITS = {np.dtype(kind): np.zeros((1, 1), dtype=kind) for kind in (np.float32, np.float64)}


class KernelArguments:
    """Parameters in the form required by kernels: one float dtype, contiguous, no None."""

    def __init__(self, parameters: CountParameters, dtype: np.dtype[Any]) -> None:
        n_cells, n_genes = parameters.shape
        self._rate = np.ascontiguousarray(parameters.mean, dtype=dtype)
        if parameters.theta is None:
            self._theta = np.full((1, n_genes), np.inf)
            self._theta_row = np.zeros(n_cells, dtype=np.intp)
        else:
            self._theta = np.ascontiguousarray(parameters.theta, dtype=np.float64)
            self._theta_row = np.ascontiguousarray(parameters.theta_row, dtype=np.intp)
        self._phi = 1.0 / self._theta
        factor = np.ones(n_cells) if parameters.factor is None else parameters.factor
        self._factor = np.ascontiguousarray(factor, dtype=np.float64)
        self._logits: FloatArray | None = None
        if parameters.zi_logits is not None:
            self._logits = np.ascontiguousarray(parameters.zi_logits, dtype=dtype)
        self._set_shift(parameters.shift, n_cells, n_genes)

    def _set_shift(self, shift: GroupShift | None, n_cells: int, n_genes: int) -> None:
        self._shifted = shift is not None
        if shift is None:
            self._ratio = self._logit_shift = np.ones((1, 1))
            self._shift_row = np.zeros(n_cells, dtype=np.intp)
            return
        self._ratio = np.ascontiguousarray(shift.ratio, dtype=np.float64)
        logits = np.zeros((len(shift.ratio), n_genes) if self._logits is not None else (1, 1))
        self._logit_shift = logits if shift.zi_logits is None else shift.zi_logits
        self._logit_shift = np.ascontiguousarray(self._logit_shift, dtype=np.float64)
        self._shift_row = np.ascontiguousarray(shift.row, dtype=np.intp)

    def of(self, rows: slice) -> Distribution:
        """Return the parameters of some rows."""
        logits = _NO_LOGITS[self._rate.dtype] if self._logits is None else self._logits[rows]
        return Distribution(
            rate=self._rate[rows],
            factor=self._factor[rows],
            theta=self._theta,
            phi=self._phi,
            theta_row=self._theta_row[rows],
            zero_inflated=self._logits is not None,
            logit=logits,
            shifted=self._shifted,
            ratio=self._ratio,
            logit_shift=self._logit_shift,
            shift_row=self._shift_row[rows],
        )


def common_dtype(*parameters: CountParameters) -> np.dtype[Any]:
    """Return float32 if all matrices have it, so that a kernel has only two versions."""
    matrices = [p.mean for p in parameters]
    matrices += [p.zi_logits for p in parameters if p.zi_logits is not None]
    single = all(matrix.dtype == np.float32 for matrix in matrices)
    return np.dtype(np.float32 if single else np.float64)
