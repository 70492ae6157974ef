"""From the parameters of a block of cells to counts: drawing, quantile mapping and its inverse.

Every result is a function of parameters, names and seed alone: the same for any number of threads,
any split into blocks, any order and any subset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from scvibridge.kernels import draw
from scvibridge.kernels.philox import check_seed
from scvibridge.kernels.rows import Distribution
from scvibridge.sparse_structure import check_structure

if TYPE_CHECKING:
    from collections.abc import Callable

# Entries of the strip of rows in which counts are made before they are packed.
_STRIP_ENTRIES = 2**21
_NO_LOGITS = {np.dtype(kind): np.zeros((1, 1), dtype=kind) for kind in (np.float32, np.float64)}

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class GroupShift:
    """What the cells of a group have in common: kept once a group, not once a cell.

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
        Mean of the count component, shape (n, G), float32 or float64, finite and not negative; or
        what becomes the mean by `factor` and `shift`.
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
        Change of the means and logits of groups of cells; none if None.

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
        """Check shapes, dtypes and the dispersion; the kernels check means and logits."""
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


def sample_counts(
    parameters: CountParameters,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: int,
) -> sparse.csr_matrix:
    """Draw counts: the quantile function at fresh uniforms.

    Parameters
    ----------
    parameters
        Parameters of n cells and G genes.
    cell_hashes, gene_hashes
        Hashed names (`scvibridge.kernels.philox.hash_names`), shapes (n,) and (G,).
    seed
        Seed in [0, 2**32).

    Returns
    -------
    csr_matrix of int32, shape (n, G)
        With sorted indices and no stored zeros.

    Raises
    ------
    OverflowError
        If a count is above 2**31 - 1.
    ValueError
        If shapes do not match, a mean is negative or not finite, or the seed is out of range.
    """
    cells, genes = _check_hashes(parameters.shape, cell_hashes, gene_hashes)
    key = check_seed(seed)
    arguments = _KernelArguments(parameters, _common_dtype(parameters))

    def fill(rows: slice, out: draw.DrawnRows, status: npt.NDArray[Any]) -> None:
        draw.sample_rows(arguments.of(rows), cells[rows], genes, key, out, status)

    return _packed_strips(parameters.shape, fill)


def quantile_counts(
    counts: sparse.csr_matrix,
    source: CountParameters,
    target: CountParameters,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: int,
    keep_unchanged: bool = True,
) -> sparse.csr_matrix:
    """Map observed counts from their source to a target distribution at the same quantile.

    The quantile is the randomised probability integral transform of the count under the source,
    u = F(x - 1) + v f(x). A count that is impossible under its source (above 0 at a mean of 0) is
    kept.

    Parameters
    ----------
    counts
        Observed counts, CSR of an integer dtype, shape (n, G), not negative.
    source, target
        Parameters of the observed and the wanted counts.
    cell_hashes, gene_hashes
        Hashed names (`scvibridge.kernels.philox.hash_names`), shapes (n,) and (G,).
    seed
        Seed in [0, 2**32).
    keep_unchanged
        Keep counts whose parameters are the same to the last bit, without computing them.

    Returns
    -------
    csr_matrix of int32, shape (n, G)
        With sorted indices and no stored zeros.

    Raises
    ------
    OverflowError
        If a count is above 2**31 - 1.
    TypeError
        If `counts` is not a CSR matrix of integers.
    ValueError
        If shapes do not match, counts are negative, a mean is negative or not finite, or the seed
        is out of range.
    """
    cells, genes = _check_hashes(source.shape, cell_hashes, gene_hashes)
    if target.shape != source.shape:
        raise ValueError(
            f"source and target must have the same shape, got {source.shape} and {target.shape}"
        )
    key = check_seed(seed)
    observed = _canonical_counts(counts, source.shape)
    entries = (observed.indices, observed.data)
    dtype = _common_dtype(source, target)
    source_arguments = _KernelArguments(source, dtype)
    target_arguments = _KernelArguments(target, dtype)

    def fill(rows: slice, out: draw.DrawnRows, status: npt.NDArray[Any]) -> None:
        draw.map_rows(
            draw.CompressedRows(observed.indptr[rows.start : rows.stop + 1], *entries),
            source_arguments.of(rows),
            target_arguments.of(rows),
            keep_unchanged,
            cells[rows],
            genes,
            key,
            out,
            status,
        )

    return _packed_strips(source.shape, fill)


def mean_sums(parameters: CountParameters) -> npt.NDArray[np.float64]:
    """Sum the means of each cell over all genes, shape (n,).

    Equal means give equal sums to the last bit, whether shifted or not.
    """
    n_cells, n_genes = parameters.shape
    shift = parameters.shift
    sums = np.empty(n_cells)
    if shift is None:
        draw.row_sums(parameters.mean, np.ones((1, n_genes)), np.zeros(n_cells, np.intp), sums)
    else:
        row = np.ascontiguousarray(shift.row, dtype=np.intp)
        draw.row_sums(parameters.mean, shift.ratio, row, sums)
    return sums if parameters.factor is None else sums * parameters.factor


def randomised_pit(
    counts: sparse.csr_matrix,
    parameters: CountParameters,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: int,
) -> npt.NDArray[np.float64]:
    """Randomised probability integral transform of counts, u = F(x - 1) + v f(x).

    Uniform where the counts follow the parameters. The result is dense: it is meant for checks of
    a fit, on as many cells and genes as memory allows.

    Parameters
    ----------
    counts
        Observed counts, CSR of an integer dtype, shape (n, G), not negative.
    parameters
        Parameters of n cells and G genes.
    cell_hashes, gene_hashes
        Hashed names (`scvibridge.kernels.philox.hash_names`), shapes (n,) and (G,).
    seed
        Seed in [0, 2**32).

    Returns
    -------
    ndarray of float64, shape (n, G)
        In [0, 1]; 1 where u rounds to it.

    Raises
    ------
    TypeError
        If `counts` is not a CSR matrix of integers.
    ValueError
        If shapes do not match, counts are negative, a mean is negative or not finite, or the seed
        is out of range.
    """
    cells, genes = _check_hashes(parameters.shape, cell_hashes, gene_hashes)
    key = check_seed(seed)
    observed = _canonical_counts(counts, parameters.shape)
    arguments = _KernelArguments(parameters, _common_dtype(parameters))
    uniforms = np.empty(parameters.shape, dtype=np.float64)
    status = np.zeros(parameters.shape[0], dtype=np.int8)
    draw.transform_rows(
        draw.CompressedRows(observed.indptr, observed.indices, observed.data),
        arguments.of(slice(0, parameters.shape[0])),
        cells,
        genes,
        key,
        uniforms,
        status,
    )
    check_status(status)
    return uniforms


class _KernelArguments:
    """Parameters as the kernels take them: one float dtype, contiguous, no None."""

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
        """Parameters of some rows."""
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


def _common_dtype(*parameters: CountParameters) -> np.dtype[Any]:
    """Return float32 where all of the matrices are, so that a kernel has only two versions."""
    matrices = [p.mean for p in parameters]
    matrices += [p.zi_logits for p in parameters if p.zi_logits is not None]
    single = all(matrix.dtype == np.float32 for matrix in matrices)
    return np.dtype(np.float32 if single else np.float64)


def _strip_height(n_genes: int) -> int:
    return max(1, _STRIP_ENTRIES // max(n_genes, 1))


def _packed_strips(
    shape: tuple[int, int],
    fill: Callable[[slice, draw.DrawnRows, npt.NDArray[Any]], None],
) -> sparse.csr_matrix:
    """Fill strips of rows one after the other and pack them."""
    n_cells, n_genes = shape
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    indices, data = [], []
    height = min(n_cells, _strip_height(n_genes))
    places = np.empty((2, height, n_genes), dtype=np.int32)
    for start in range(0, n_cells, height or 1):
        rows = slice(start, min(start + height, n_cells))
        n_rows = rows.stop - start
        length = np.empty(n_rows, dtype=np.int64)
        drawn = draw.DrawnRows(length, places[0, :n_rows], places[1, :n_rows])
        status = np.zeros(n_rows, dtype=np.int8)
        fill(rows, drawn, status)
        check_status(status, start)
        starts = np.concatenate([[0], np.cumsum(length)])
        indptr[start + 1 : rows.stop + 1] = indptr[start] + starts[1:]
        indices.append(np.empty(starts[-1], dtype=np.int32))
        data.append(np.empty(starts[-1], dtype=np.int32))
        draw.pack(drawn, starts, indices[-1], data[-1])
    return _assembled(shape, indptr, indices, data)


def _assembled(
    shape: tuple[int, int],
    indptr: npt.NDArray[np.int64],
    indices: list[npt.NDArray[np.int32]],
    data: list[npt.NDArray[np.int32]],
) -> sparse.csr_matrix:
    empty = np.empty(0, dtype=np.int32)
    matrix = sparse.csr_matrix(
        (
            np.concatenate(data) if data else empty,
            np.concatenate(indices) if indices else empty,
            indptr,
        ),
        shape=shape,
    )
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix


def check_status(status: npt.NDArray[np.int8], first: int = 0) -> None:
    """Refuse parameters or counts that are no such.

    Parameters
    ----------
    status
        A code of `scvibridge.kernels.draw` for each row, shape (n,).
    first
        Number of the first of these rows in its block.

    Raises
    ------
    ValueError
        If a mean is negative or not finite, or a logit is missing.
    OverflowError
        If a count is above 2**31 - 1.
    """
    if np.any(status == draw.INVALID):
        row = first + int(np.argmax(status == draw.INVALID))
        raise ValueError(
            f"means must be finite and not negative, and logits not NaN; row {row} of this block "
            "has others: was the model trained to the end?"
        )
    if np.any(status == draw.TOO_LARGE):
        row = first + int(np.argmax(status == draw.TOO_LARGE))
        raise OverflowError(
            f"a count in row {row} of this block is above 2**31 - 1 = {2**31 - 1}, the largest "
            "that int32 and R's integers hold; ask for a smaller library_size"
        )


def _check_matrix(name: str, matrix: Any) -> None:
    if not isinstance(matrix, np.ndarray) or matrix.dtype not in (np.float32, np.float64):
        kind = getattr(matrix, "dtype", type(matrix).__name__)
        raise TypeError(f"{name} must be an ndarray of float32 or float64, got {kind}")
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two axes, cells and genes, got shape {matrix.shape}")


def _check_hashes(
    shape: tuple[int, int],
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    cells = np.ascontiguousarray(cell_hashes, dtype=np.uint64)
    genes = np.ascontiguousarray(gene_hashes, dtype=np.uint64)
    if cells.shape != (shape[0],) or genes.shape != (shape[1],):
        raise ValueError(
            f"there must be one hash for each of the {shape[0]} cells and {shape[1]} genes, "
            f"got shapes {cells.shape} and {genes.shape}"
        )
    return cells, genes


def _canonical_counts(counts: sparse.csr_matrix, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Check counts and return them sorted, without touching the caller's matrix."""
    if not sparse.issparse(counts) or counts.format != "csr":
        raise TypeError(f"counts must be a CSR matrix, got {type(counts).__name__}")
    if counts.dtype.kind not in "iu":
        raise TypeError(f"counts must be of an integer dtype, got {counts.dtype}")
    if counts.shape != shape:
        raise ValueError(f"counts must have the shape of the means, {shape}, got {counts.shape}")
    check_structure(counts, "counts")
    if counts.nnz and counts.data.min() < 0:
        raise ValueError(f"counts must not be negative, got {counts.data.min()}")
    _check_largest(counts)
    if not counts.has_canonical_format:
        # Sums of entries that are stored twice may not fit a narrow type.
        counts = counts.astype(np.int64, copy=True)
        counts.sum_duplicates()
        _check_largest(counts)
    # One dtype each, so that a kernel is not compiled for every combination.
    return sparse.csr_matrix(
        (
            counts.data.astype(np.int32, copy=False),
            counts.indices.astype(np.int32, copy=False),
            counts.indptr.astype(np.int64, copy=False),
        ),
        shape=shape,
    )


def _check_largest(counts: sparse.csr_matrix) -> None:
    if counts.nnz and counts.data.max() > draw.LARGEST_COUNT:
        raise OverflowError(f"counts must be below 2**31, got {counts.data.max()}")
