"""Check the parameters of a block of cells on a device, and compute those of its entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from scvibridge._utils.sparse_structure import check_structure
from scvibridge.likelihood.cpu.rows_of_counts import has_too_large

if TYPE_CHECKING:
    from scvibridge.likelihood.parameters import DeviceParameters

_FLOATS = (torch.float32, torch.float64)


def contiguous(parameters: DeviceParameters) -> DeviceParameters:
    """Return the same parameters, each tensor contiguous."""
    return parameters.map(lambda _, tensor: tensor.contiguous())


def check(parameters: DeviceParameters) -> None:
    """Check dtypes, shapes, devices, dispersions and rows; the kernels check rates and logits.

    Raises
    ------
    TypeError
        If a dtype is wrong.
    ValueError
        If shapes do not match, tensors are on several devices, `theta` is not above 0, or a row is
        out of range.
    """
    tensors = parameters.arrays()
    if np.ndim(parameters.rate) != 2:
        shape = tuple(parameters.rate.shape)
        raise ValueError(f"rate must have two axes, cells and genes, got shape {shape}")
    n_cells, n_genes = parameters.shape
    expected: dict[str, tuple[tuple[int | None, ...], tuple[torch.dtype, ...]]] = {
        "rate": ((n_cells, n_genes), _FLOATS),
        "factor": ((n_cells,), (torch.float64,)),
        "theta": ((None, n_genes), (torch.float64,)),
        "theta_row": ((n_cells,), (torch.int64,)),
        "zi_logits": ((n_cells, n_genes), _FLOATS),
        "ratio": ((None, n_genes), (torch.float64,)),
        "zi_shift": ((None, n_genes), (torch.float64,)),
        "shift_row": ((n_cells,), (torch.int64,)),
    }
    for name, tensor in tensors.items():
        wanted, dtypes = expected[name]
        _check(name, tensor, wanted, *dtypes)
    devices = {str(tensor.device) for tensor in tensors.values()}
    if len(devices) > 1:
        raise ValueError(f"all tensors must be on one device, got {', '.join(sorted(devices))}")
    if parameters.theta is not None and not bool((parameters.theta > 0).all()):
        bad = float(parameters.theta[~(parameters.theta > 0)][0])
        raise ValueError(f"theta must be above 0, got {bad}")
    for rows, table in (
        ("theta_row", "theta"),
        ("shift_row", "ratio"),
        ("shift_row", "zi_shift"),
    ):
        if table in tensors:
            _check_rows(rows, tensors[rows], table, tensors[table])


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
        shift = parameters.shift
        if shift is not None and shift.zi_shift is not None:
            logit = logit + shift.zi_shift[shift.shift_row]
    return Entries(mean, theta, logit)


def dense_mean(parameters: DeviceParameters) -> Tensor:
    """Return the means of the count component, shape (n, G), float64."""
    mean = parameters.rate.double() * parameters.factor[:, None]
    if parameters.shift is not None:
        mean *= parameters.shift.ratio[parameters.shift.shift_row]
    return mean


def entries_at(parameters: DeviceParameters, positions: Tensor) -> Entries:
    """Return parameters at some positions of the flattened (n, G) block, shapes (N,)."""
    rows, genes = row_and_gene(positions, parameters.shape[1])
    mean = parameters.rate[rows, genes].double() * parameters.factor[rows]
    shift = parameters.shift
    if shift is not None:
        mean *= shift.ratio[shift.shift_row[rows], genes]
    theta = torch.full_like(mean, torch.inf)
    if parameters.theta is not None:
        theta = parameters.theta[parameters.theta_row[rows], genes]
    logit = torch.full_like(mean, -torch.inf)
    if parameters.zi_logits is not None:
        logit = parameters.zi_logits[rows, genes].double()
        if shift is not None and shift.zi_shift is not None:
            logit = logit + shift.zi_shift[shift.shift_row[rows], genes]
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
    if has_too_large(counts):
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


def _check(name: str, tensor: Any, shape: tuple[int | None, ...], *dtypes: torch.dtype) -> None:
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


def _check_rows(name: str, rows: Tensor, table_name: str, table: Tensor) -> None:
    if not rows.numel():
        return
    lowest, highest = (int(value) for value in rows.aminmax())
    if lowest < 0 or highest >= table.shape[0]:
        raise ValueError(
            f"{name} must be in [0, {table.shape[0]}), the rows of {table_name}, "
            f"got values from {lowest} to {highest}"
        )
