"""Compute counts from the parameters of a block of cells: sampling, quantile mapping, its inverse.

Results depend only on parameters, names and seed. They are the same for any number of threads, any
split into blocks, any order and any subset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import sparse

from scvibridge._utils.sparse_structure import check_structure
from scvibridge._utils.torch_threads import share_rows
from scvibridge.likelihood.cpu import draw, pit, rows_of_counts, tally
from scvibridge.likelihood.cpu.philox import check_seed
from scvibridge.likelihood.kernel_arguments import KernelArguments, check, common_dtype
from scvibridge.likelihood.parameters import check_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge.likelihood.parameters import HostParameters


# Rows for which another thread is worth while.
_FEWEST_ROWS = 32

Status = npt.NDArray[np.int8]


def sample_counts(
    parameters: HostParameters,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: int,
) -> sparse.csr_matrix:
    """Sample counts: the quantile function at new uniforms.

    Parameters
    ----------
    parameters
        Parameters of n cells and G genes.
    cell_hashes, gene_hashes
        Hashed names (`scvibridge.likelihood.cpu.philox.hash_names`), shapes (n,) and (G,).
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
        If shapes do not match, a mean is negative or not finite, a dispersion not above 0, or the
        seed is out of range.
    """
    check(parameters)
    cells, genes = _check_hashes(parameters.shape, cell_hashes, gene_hashes)
    key = check_seed(seed)
    arguments = KernelArguments(parameters, common_dtype(parameters))

    def fill(rows: slice, out: rows_of_counts.DrawnRows, status: Status) -> None:
        draw.sample_rows(arguments.of(rows), cells[rows], genes, key, out, status)

    return _packed(parameters.shape, fill)


def quantile_counts(
    counts: sparse.csr_matrix,
    source: HostParameters,
    target: HostParameters,
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
        Parameters of the observed counts and of those to compute.
    cell_hashes, gene_hashes
        Hashed names (`scvibridge.likelihood.cpu.philox.hash_names`), shapes (n,) and (G,).
    seed
        Seed in [0, 2**32).
    keep_unchanged
        Whether to keep counts whose parameters are bitwise identical, without computing them.

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
    check(source)
    check(target)
    cells, genes = _check_hashes(source.shape, cell_hashes, gene_hashes)
    if target.shape != source.shape:
        raise ValueError(
            f"source and target must have the same shape, got {source.shape} and {target.shape}"
        )
    key = check_seed(seed)
    observed = _canonical_counts(counts, source.shape)
    dtype = common_dtype(source, target)
    source_arguments = KernelArguments(source, dtype)
    target_arguments = KernelArguments(target, dtype)

    def fill(rows: slice, out: rows_of_counts.DrawnRows, status: Status) -> None:
        draw.map_rows(
            rows_of_counts.rows_of(observed, rows),
            source_arguments.of(rows),
            target_arguments.of(rows),
            keep_unchanged,
            cells[rows],
            genes,
            key,
            out,
            status,
        )

    return _packed(source.shape, fill)


def mean_sums(parameters: HostParameters) -> npt.NDArray[np.float64]:
    """Sum the means of each cell over all genes, shape (n,).

    Equal means give equal sums to the last bit, whether shifted or not.
    """
    n_cells, n_genes = parameters.shape
    shift = parameters.shift
    sums = np.empty(n_cells)
    ratio, shift_row = np.ones((1, n_genes)), np.zeros(n_cells, np.intp)
    if shift is not None:
        ratio, shift_row = shift.ratio, np.ascontiguousarray(shift.shift_row, dtype=np.intp)

    def add(rows: slice) -> None:
        tally.row_sums(parameters.rate[rows], ratio, shift_row[rows], sums[rows])

    share_rows(add, n_cells, _FEWEST_ROWS)
    return sums * parameters.factor


def randomised_pit(
    counts: sparse.csr_matrix,
    parameters: HostParameters,
    cell_hashes: npt.NDArray[np.uint64],
    gene_hashes: npt.NDArray[np.uint64],
    seed: int,
) -> npt.NDArray[np.float64]:
    """Compute the randomised probability integral transform of counts, u = F(x - 1) + v f(x).

    It is uniform if the counts follow the parameters. The result is dense: it is meant for checking
    a fit on as many cells and genes as memory allows.

    Parameters
    ----------
    counts
        Observed counts, CSR of an integer dtype, shape (n, G), not negative.
    parameters
        Parameters of n cells and G genes.
    cell_hashes, gene_hashes
        Hashed names (`scvibridge.likelihood.cpu.philox.hash_names`), shapes (n,) and (G,).
    seed
        Seed in [0, 2**32).

    Returns
    -------
    ndarray of float64, shape (n, G)
        In [0, 1]; 1 if u rounds to it.

    Raises
    ------
    TypeError
        If `counts` is not a CSR matrix of integers.
    ValueError
        If shapes do not match, counts are negative, a mean is negative or not finite, or the seed
        is out of range.
    """
    check(parameters)
    cells, genes = _check_hashes(parameters.shape, cell_hashes, gene_hashes)
    key = check_seed(seed)
    observed = _canonical_counts(counts, parameters.shape)
    arguments = KernelArguments(parameters, common_dtype(parameters))
    uniforms = np.empty(parameters.shape, dtype=np.float64)
    status = np.zeros(parameters.shape[0], dtype=np.int8)

    def transform(rows: slice) -> None:
        pit.transform_rows(
            rows_of_counts.rows_of(observed, rows),
            arguments.of(rows),
            cells[rows],
            genes,
            key,
            uniforms[rows],
            status[rows],
        )

    share_rows(transform, parameters.shape[0], _FEWEST_ROWS)
    check_status(status)
    return uniforms


def _packed(
    shape: tuple[int, int],
    fill: Callable[[slice, rows_of_counts.DrawnRows, Status], None],
) -> sparse.csr_matrix:
    """Return the counts that `fill` writes for parts of the rows."""
    n_cells, n_genes = shape
    length = np.empty(n_cells, dtype=np.int64)
    status = np.zeros(n_cells, dtype=np.int8)
    # Room for a dense matrix: pages that are never written take no memory.
    indices, data = np.empty((2, n_cells * n_genes), dtype=np.int32)
    parts: list[slice] = []

    def fill_part(rows: slice) -> None:
        room = slice(rows.start * n_genes, rows.stop * n_genes)
        out = rows_of_counts.DrawnRows(length[rows], indices[room], data[room])
        fill(rows, out, status[rows])
        parts.append(slice(room.start, room.start + int(length[rows].sum())))

    share_rows(fill_part, n_cells, _FEWEST_ROWS)
    check_status(status)
    used = sorted(parts, key=lambda part: part.start)
    vectors = _of_parts(data, used), _of_parts(indices, used), np.append(0, np.cumsum(length))
    matrix = sparse.csr_matrix(vectors, shape=shape)
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix


def _of_parts(values: npt.NDArray[np.int32], parts: list[slice]) -> npt.NDArray[np.int32]:
    """Return the used parts of an array; the array's own memory if there is one part."""
    return values[parts[0]] if len(parts) == 1 else np.concatenate([values[p] for p in parts])


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
    """Check counts and return them sorted, without modifying the caller's matrix."""
    if not sparse.issparse(counts) or counts.format != "csr":
        raise TypeError(f"counts must be a CSR matrix, got {type(counts).__name__}")
    if counts.dtype.kind not in "iu":
        raise TypeError(f"counts must have an integer dtype, got {counts.dtype}")
    if counts.shape != shape:
        raise ValueError(f"counts must have the shape of the means, {shape}, got {counts.shape}")
    check_structure(counts, "counts")
    if counts.nnz and counts.data.min() < 0:
        raise ValueError(f"counts must not be negative, got {counts.data.min()}")
    _check_largest(counts)
    if not counts.has_canonical_format:
        # Sums of duplicate entries may not fit a narrow type.
        counts = counts.astype(np.int64, copy=True)
        counts.sum_duplicates()
        _check_largest(counts)
    # A single dtype, so that a kernel is not compiled for every combination.
    return sparse.csr_matrix(
        (
            counts.data.astype(np.int32, copy=False),
            counts.indices.astype(np.int32, copy=False),
            counts.indptr.astype(np.int64, copy=False),
        ),
        shape=shape,
    )


def _check_largest(counts: sparse.csr_matrix) -> None:
    if rows_of_counts.has_too_large(counts):
        raise OverflowError(f"counts must be below 2**31, got {counts.data.max()}")
