"""Parameters and counts of a block of cells as tensors on one device."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from scvibridge._utils.sparse_structure import check_structure

_FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class DeviceParameters:
    """Parameters of the counts of n cells and G genes: Poisson, NB or ZINB.

    The mean of an entry is ``rate * factor``, times ``ratio[ratio_row]`` if there is a ratio. It is
    computed in double precision where it is used, to avoid a second matrix.

    Attributes
    ----------
    rate
        Frequencies of the decoder, shape (n, G), float32 or float64.
    factor
        Factor on the rates of each cell, shape (n,), float64: library, depth, renormalisation.
    theta
        Inverse dispersion, shape (K, G), float64, above 0: the variance is
        mean + mean**2 / theta, and infinity is the Poisson. None for a Poisson throughout.
    theta_row
        Row of `theta` that each cell uses, shape (n,), int64.
    zi_logits
        Logit of the dropout probability, shape (n, G), float32 or float64. None without zero
        inflation.
    ratio
        Ratio of target to source frequencies, shape (R, G), float64; 1 if None.
    ratio_row
        Row of `ratio` and of `zi_shift` that each cell uses, shape (n,), int64.
    zi_shift
        Added to `zi_logits`, shape (R, G), float64; nothing if None.

    Raises
    ------
    TypeError
        If a dtype is wrong.
    ValueError
        If shapes do not match, tensors are on several devices, or an array is missing.
    """

    rate: Tensor
    factor: Tensor
    theta: Tensor | None
    theta_row: Tensor
    zi_logits: Tensor | None
    ratio: Tensor | None = None
    ratio_row: Tensor | None = None
    zi_shift: Tensor | None = None

    def __post_init__(self) -> None:
        """Check dtypes, shapes and devices; `check_values` checks the values."""
        if self.rate.ndim != 2:
            shape = tuple(self.rate.shape)
            raise ValueError(f"rate must have two axes, cells and genes, got shape {shape}")
        n_cells, n_genes = self.shape
        _check("rate", self.rate, (n_cells, n_genes), *_FLOATS)
        _check("factor", self.factor, (n_cells,), torch.float64)
        _check("theta", self.theta, (None, n_genes), torch.float64)
        _check("theta_row", self.theta_row, (n_cells,), torch.int64)
        _check("zi_logits", self.zi_logits, (n_cells, n_genes), *_FLOATS)
        _check("ratio", self.ratio, (None, n_genes), torch.float64)
        _check("ratio_row", self.ratio_row, (n_cells,), torch.int64)
        _check("zi_shift", self.zi_shift, (None, n_genes), torch.float64)
        if self.ratio_row is None and (self.ratio is not None or self.zi_shift is not None):
            raise ValueError("ratio and zi_shift need ratio_row, the row of each cell")
        devices = {str(tensor.device) for tensor in self._tensors()}
        if len(devices) > 1:
            raise ValueError(f"all tensors must be on one device, got {', '.join(sorted(devices))}")

    def _tensors(self) -> list[Tensor]:
        values = (getattr(self, field.name) for field in fields(self))
        return [value for value in values if value is not None]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and genes."""
        return self.rate.shape[0], self.rate.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.rate.device

    def rows(self, rows: slice) -> DeviceParameters:
        """Return the parameters of some consecutive cells."""

        def some(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        return DeviceParameters(
            self.rate[rows],
            self.factor[rows],
            self.theta,
            self.theta_row[rows],
            some(self.zi_logits),
            self.ratio,
            some(self.ratio_row),
            self.zi_shift,
        )

    def contiguous(self) -> DeviceParameters:
        """Return the same parameters, each tensor contiguous."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {
            name: tensor.contiguous() for name, tensor in held.items() if tensor is not None
        }
        return replace(self, **tensors)

    def check_values(self) -> None:
        """Check values that are used as indices or divisors.

        Raises
        ------
        ValueError
            If `theta` is not above 0, or a row is out of range.
        """
        if self.theta is not None and not bool((self.theta > 0).all()):
            bad = float(self.theta[~(self.theta > 0)][0])
            raise ValueError(f"theta must be above 0, got {bad}")
        _check_rows("theta_row", self.theta_row, "theta", self.theta)
        for name in ("ratio", "zi_shift"):
            _check_rows("ratio_row", self.ratio_row, name, getattr(self, name))


class Entries(NamedTuple):
    """Parameters of single entries, or of a dense block of them, in double precision."""

    mean: Tensor
    theta: Tensor
    logit: Tensor

    def at(self, places: Tensor) -> Entries:
        """Return the parameters of some of the entries."""
        return Entries(*(tensor[places] for tensor in self))


def dense_entries(parameters: DeviceParameters) -> Entries:
    """Return parameters of all entries, as tensors that broadcast to (n, G)."""
    mean = dense_mean(parameters)
    theta = mean.new_full((1, 1), torch.inf)
    if parameters.theta is not None:
        theta = parameters.theta[parameters.theta_row]
    logit = mean.new_full((1, 1), -torch.inf)
    if parameters.zi_logits is not None:
        logit = parameters.zi_logits.double()
        if parameters.zi_shift is not None:
            logit = logit + parameters.zi_shift[parameters.ratio_row]
    return Entries(mean, theta, logit)


def dense_mean(parameters: DeviceParameters) -> Tensor:
    """Return the means of the count component, shape (n, G), float64."""
    mean = parameters.rate.double() * parameters.factor[:, None]
    if parameters.ratio is not None:
        mean *= parameters.ratio[parameters.ratio_row]
    return mean


def entries_at(parameters: DeviceParameters, positions: Tensor) -> Entries:
    """Return parameters at some positions of the flattened (n, G) block, shapes (N,)."""
    rows, genes = row_and_gene(positions, parameters.shape[1])
    mean = parameters.rate[rows, genes].double() * parameters.factor[rows]
    ratio_rows = None if parameters.ratio_row is None else parameters.ratio_row[rows]
    if parameters.ratio is not None:
        mean *= parameters.ratio[ratio_rows, genes]
    theta = torch.full_like(mean, torch.inf)
    if parameters.theta is not None:
        theta = parameters.theta[parameters.theta_row[rows], genes]
    logit = torch.full_like(mean, -torch.inf)
    if parameters.zi_logits is not None:
        logit = parameters.zi_logits[rows, genes].double()
        if parameters.zi_shift is not None:
            logit = logit + parameters.zi_shift[ratio_rows, genes]
    return Entries(mean, theta, logit)


def row_and_gene(positions: Tensor, n_genes: int) -> tuple[Tensor, Tensor]:
    """Split positions in a flattened (n, G) block."""
    rows = torch.div(positions, n_genes, rounding_mode="floor")
    return rows, positions - rows * n_genes


class DeviceCounts(NamedTuple):
    """Counts of n cells in CSR format on a device: sorted indices, no stored zeros."""

    indptr: Tensor
    """Shape (n + 1,), int64."""
    indices: Tensor
    """Gene of each count, int32."""
    data: Tensor
    """Counts above 0, int32."""


def upload_counts(counts: sparse.csr_matrix, device: torch.device | str) -> DeviceCounts:
    """Copy counts to a device.

    Parameters
    ----------
    counts
        Non-negative whole numbers, CSR, shape (n, G), of any dtype. It is not changed.
    device
        Device to copy to.

    Raises
    ------
    OverflowError
        If a count is above 2**31 - 1.
    TypeError
        If `counts` is not a CSR matrix.
    ValueError
        If a count is negative.
    """
    if not sparse.issparse(counts) or counts.format != "csr":
        raise TypeError(f"counts must be a CSR matrix, got {type(counts).__name__}")
    check_structure(counts, "counts")
    if counts.nnz and counts.data.min() < 0:
        raise ValueError(f"counts must not be negative, got {counts.data.min()}")
    if not counts.has_canonical_format or not np.all(counts.data):
        # Sums of entries that are stored twice may not fit a narrow type.
        counts = counts.astype(np.float64 if counts.dtype.kind == "f" else np.int64, copy=True)
        counts.sum_duplicates()
        counts.eliminate_zeros()
    if counts.nnz and counts.data.max() > np.iinfo(np.int32).max:
        raise OverflowError(f"counts must be below 2**31, got {counts.data.max()}")
    arrays = (
        counts.indptr.astype(np.int64),
        counts.indices.astype(np.int32),
        counts.data.astype(np.int32),
    )
    return DeviceCounts(*(torch.from_numpy(array).to(device) for array in arrays))


def hash_tensor(hashes: npt.NDArray[np.uint64] | Tensor, device: torch.device) -> Tensor:
    """Return 64-bit hashes as int64 with the same bits on a device, shape (n,).

    Hashes used for many blocks can be passed as such a tensor.
    """
    if isinstance(hashes, Tensor):
        return hashes.to(device=device, dtype=torch.int64)
    bits = np.ascontiguousarray(hashes, dtype=np.uint64).view(np.int64)
    return torch.tensor(bits, device=device)


def _check(
    name: str, tensor: Tensor | None, shape: tuple[int | None, ...], *dtypes: torch.dtype
) -> None:
    if tensor is None:
        return
    if not isinstance(tensor, Tensor) or tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        got = str(getattr(tensor, "dtype", "")).removeprefix("torch.")
        raise TypeError(f"{name} must be a tensor of {expected}, got {type(tensor).__name__} {got}")
    fits = tensor.ndim == len(shape) and all(
        wanted is None or wanted == got for wanted, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted_shape = tuple("any" if size is None else size for size in shape)
        raise ValueError(f"{name} must have shape {wanted_shape}, got {tuple(tensor.shape)}")


def _check_rows(name: str, rows: Tensor | None, table_name: str, table: Tensor | None) -> None:
    if rows is None or table is None or not rows.numel():
        return
    lowest, highest = (int(value) for value in rows.aminmax())
    if lowest < 0 or highest >= table.shape[0]:
        raise ValueError(
            f"{name} must be in [0, {table.shape[0]}), the rows of {table_name}, "
            f"got values from {lowest} to {highest}"
        )
