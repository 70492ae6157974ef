"""Counts of cells for a model's genes, read by rows, in memory or on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData

from scvibridge._utils.digests import CountsDigest, digest_of_text
from scvibridge._utils.pools import HERE, SentOnce, results_in_order, spans
from scvibridge._utils.process_state import lock
from scvibridge._utils.progress import track
from scvibridge._utils.sparse_structure import check_structure, in_native_type
from scvibridge.io.backed import close_with_inputs
from scvibridge.io.raw_counts import fault_of
from scvibridge.io.row_order import row_ordered
from scvibridge.io.row_reader import RowReader
from scvibridge.io.scratch import Scratch
from scvibridge.likelihood.cpu.philox import hash_names
from scvibridge.likelihood.cpu.rows_of_counts import has_too_large
from scvibridge.likelihood.cpu.tally import count_detections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from scvibridge._utils.pools import Pool
    from scvibridge.models.adapters import Covariates


# Number of stored values that are checked at a time on disk.
ENTRIES_PER_READ = 16_000_000

# Readers keep the last piece that they read, and HDF5 reads for one thread at a time in any case.
_reading = lock()


class NotCountsError(ValueError):
    """In a worker: values on disk are not counts; the message says only what they are."""


@dataclass(frozen=True)
class CountsInMemory(SentOnce):
    """Counts held as one CSR matrix: int32, canonical, without stored zeros."""

    matrix: sp.csr_matrix

    in_memory = True

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and genes."""
        return self.matrix.shape

    def rows(self, selection: slice | np.ndarray) -> sp.csr_matrix:
        """Return some rows; a slice shares memory with the whole matrix."""
        if isinstance(selection, slice):
            return row_slice(self.matrix, selection.start, selection.stop)
        return self.matrix[selection]


class CountsOnDisk(SentOnce):
    """Counts that stay on disk and are checked and aligned when they are read.

    Parameters
    ----------
    matrix
        The matrix of the AnnData.
    genes
        Position of each gene of the model among the columns; None if they are identical.
    message
        Returns the message of the error for values that are not counts, given what they are.
    out
        The output file; a matrix stored by gene is copied to its folder.
    """

    in_memory = False

    def __init__(
        self,
        matrix: Any,
        genes: np.ndarray | None,
        message: Callable[[str], str],
        out: Path,
    ) -> None:
        # Removed with the inputs or this object, or when the interpreter exits.
        self._scratch = Scratch(out)
        close_with_inputs(self._scratch.remove)
        self._reader = RowReader(row_ordered(matrix, self._scratch.folder))
        self._genes = genes
        self._message: Callable[[str], str] | None = message
        n_columns = self._reader.shape[1] if genes is None else len(genes)
        self.shape: tuple[int, int] = (self._reader.shape[0], n_columns)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to the process that opened the counts."""
        return {**self.__dict__, "_message": None, "_scratch": None}

    def rows(self, selection: slice | np.ndarray) -> sp.csr_matrix:
        """Read some rows, in the requested order.

        Raises
        ------
        ValueError
            If the values are not counts.
        """
        with _reading:
            matrix = self._reader.read(selection)
        fault = fault_of(matrix.data)
        if fault is not None:
            raise self.error_of(fault)
        return canonical_counts(matrix, self._genes)

    def error_of(self, fault: str) -> ValueError:
        """Return the error for values that are not counts, given what they are."""
        if self._message is None:
            return NotCountsError(fault)
        return ValueError(self._message(fault))


class ColumnsOnDisk(SentOnce):
    """Consecutive columns of counts that are read on demand."""

    in_memory = False

    def __init__(self, whole: CountsOnDisk | ColumnsOnDisk | ChosenRows, columns: slice) -> None:
        self._whole, self._columns = whole, columns
        self.shape: tuple[int, int] = (whole.shape[0], columns.stop - columns.start)

    def rows(self, selection: slice | np.ndarray) -> sp.csr_matrix:
        """Read some rows, in the requested order."""
        return canonical_counts(self._whole.rows(selection)[:, self._columns], None)


class ChosenRows(SentOnce):
    """Counts of chosen cells of a larger table, read on demand."""

    def __init__(
        self, whole: CountsInMemory | CountsOnDisk | ColumnsOnDisk, rows: np.ndarray
    ) -> None:
        self._whole, self._rows = whole, rows
        self.in_memory = whole.in_memory
        self.shape: tuple[int, int] = (len(rows), whole.shape[1])

    def rows(self, selection: slice | np.ndarray) -> sp.csr_matrix:
        """Read some rows, in the given order."""
        return self._whole.rows(self._rows[selection])


Counts = CountsInMemory | CountsOnDisk | ColumnsOnDisk | ChosenRows


def columns_of(counts: Counts, start: int, stop: int) -> Counts:
    """Return consecutive columns of counts."""
    if isinstance(counts, CountsInMemory):
        return CountsInMemory(canonical_counts(counts.matrix[:, start:stop], None))
    return ColumnsOnDisk(counts, slice(start, stop))


def canonical_counts(matrix: Any, genes: np.ndarray | None) -> sp.csr_matrix:
    """Convert a matrix to int32 CSR with sorted indices and no stored zeros.

    The caller's vectors are not changed, but may be shared.

    Raises
    ------
    ValueError
        If the matrix is damaged (see `check_structure`), or a count is 2**31 or more.
    """
    check_structure(matrix)
    csr = sp.csr_matrix(in_native_type(matrix))
    # Rebuilt from its vectors: the caller may have changed them since scipy cached their order.
    csr = sp.csr_matrix((csr.data, csr.indices, csr.indptr), shape=csr.shape)
    _check_largest(csr)
    if genes is not None:
        csr = csr[:, genes]
    if not csr.has_canonical_format or (csr.data == 0).any():
        # Sums of duplicate entries may overflow their type, such as uint8.
        csr = csr.astype(np.float64 if csr.dtype.kind == "f" else np.int64, copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        _check_largest(csr)
    return _trusted_csr(csr.data.astype(np.int32, copy=False), csr.indices, csr.indptr, csr.shape)


def _check_largest(csr: sp.csr_matrix) -> None:
    if has_too_large(csr):
        raise ValueError(f"counts must be below 2**31, got {csr.data.max()}")


def row_slice(matrix: sp.csr_matrix, start: int, stop: int) -> sp.csr_matrix:
    """Return consecutive rows of a canonical CSR matrix, without copying its values."""
    first, last = matrix.indptr[start], matrix.indptr[stop]
    indptr = matrix.indptr[start : stop + 1] - first
    shape = (stop - start, matrix.shape[1])
    return _trusted_csr(matrix.data[first:last], matrix.indices[first:last], indptr, shape)


def _trusted_csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
) -> sp.csr_matrix:
    matrix = sp.csr_matrix(shape, dtype=data.dtype)
    # Given to the constructor, rows of a larger matrix would be copied.
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    matrix.has_canonical_format = True  # scipy would scan all entries to detect it
    return matrix


@dataclass(frozen=True)
class CountSummary:
    """Statistics from one pass over all cells.

    Attributes
    ----------
    totals
        Observed total of each cell over the model's genes, shape ``(n_cells,)``.
    detected
        Number of cells of each batch in which a gene was detected, ``(n_batches, n_genes)``.
    digest
        Digest of all counts if they were read from disk, else None.
    """

    totals: np.ndarray
    detected: np.ndarray
    digest: str | None = None


@dataclass(frozen=True)
class CellData(SentOnce):
    """Cells as the model sees them: its genes in its order, and its covariates.

    ``counts`` has shape ``(n_cells, n_genes)`` and is None if the data contain no counts. If the
    genes are a subset of an extended model's, ``depth_totals`` are the cells' totals over all of
    them, and ``counted`` the statistics of one pass over all cells, if already computed; otherwise
    None. Tasks on the cells are computed by ``pool``.
    """

    adata: AnnData
    counts: Counts | None
    covariates: Covariates
    n_batches: int
    progress: bool = False
    depth_totals: np.ndarray | None = None
    counted: CountSummary | None = None
    pool: Pool = HERE

    @property
    def reads_here(self) -> bool:
        """Whether counts have to be read in this process, because they are in its memory."""
        return self.counts is None or self.counts.in_memory

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.covariates.batch)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the AnnData, whose matrices are not needed by blocks."""
        return {**self.__dict__, "names": self.names, "adata": None}

    @cached_property
    def names(self) -> np.ndarray:
        """Names of the cells, shape ``(n_cells,)``."""
        return np.asarray(self.adata.obs_names.astype(str), dtype=object)

    @cached_property
    def hashes(self) -> np.ndarray:
        """Hashed names of the cells, shape ``(n_cells,)``."""
        return hash_names(self.names)

    @cached_property
    def summary(self) -> CountSummary:
        """Totals and detection; reads (and so checks) counts on disk once."""
        if self.counted is not None:
            return self.counted
        return summarise(
            self.require_counts(),
            self.covariates.batch,
            self.n_batches,
            self.progress,
            self.pool,
        )

    @cached_property
    def counts_digest(self) -> str:
        """Compute the digest of all counts, without reading counts on disk again."""
        if self.summary.digest is not None:
            return self.summary.digest
        counts = self.require_counts()
        return _joined(_digest(counts.rows(read)) for read in reads_of(*counts.shape))

    def take(self, rows: np.ndarray) -> CellData:
        """Return some of the cells, by their sorted positions; their counts are not copied."""
        adata = AnnData(obs=self.adata.obs.iloc[rows])
        covariates = self.covariates.take(rows)
        totals = None if self.depth_totals is None else self.depth_totals[rows]
        if self.counts is None or isinstance(self.counts, ChosenRows):
            raise ValueError("the data hold no counts of all cells")
        counts = ChosenRows(self.counts, rows)
        counted = None
        if self.counted is not None:
            # Over the genes of a part, whose cells' totals are those of all genes.
            found = summarise(counts, covariates.batch, self.n_batches, self.progress, self.pool)
            counted = CountSummary(self.counted.totals[rows], found.detected)
        return replace(
            self,
            adata=adata,
            counts=counts,
            covariates=covariates,
            depth_totals=totals,
            counted=counted,
        )

    def totals(self) -> np.ndarray:
        """Observed total of each cell over the model's genes, shape ``(n_cells,)``."""
        return self.summary.totals

    def require_counts(self) -> Counts:
        """Return the counts.

        Raises
        ------
        ValueError
            If the data have none.
        """
        if self.counts is None:
            raise ValueError("the data have no counts")
        return self.counts


def reads_of(n_cells: int, n_genes: int) -> list[slice]:
    """Divide cells into consecutive blocks, each read in one go."""
    step = max(1, ENTRIES_PER_READ // max(n_genes, 1))
    return [slice(start, min(start + step, n_cells)) for start in range(0, n_cells, step)]


def summarise(
    counts: Counts, batch: np.ndarray, n_batches: int, progress: bool, pool: Pool = HERE
) -> CountSummary:
    """Read all rows once, for their totals and the number of cells that express each gene.

    Raises
    ------
    ValueError
        If values on disk are not counts.
    """
    reads, on_disk = reads_of(*counts.shape), not counts.in_memory
    pool = pool if on_disk else HERE
    parts = spans(reads, max(1, -(-len(reads) // pool.n_parts)))
    is_alone = len(parts) == 1
    task = _Summing(counts, batch, n_batches, progress and on_disk and is_alone)
    totals, digests = np.zeros(counts.shape[0]), []
    detected = np.zeros((n_batches, counts.shape[1]), dtype=np.int64)
    found = results_in_order(pool, task, parts, torch.device("cpu"), span=1)
    cells = [slice(part[0].start, part[-1].stop) for part in parts]
    try:
        shown = track(cells, _READING, progress and on_disk and not is_alone)
        for rows, some in zip(shown, found, strict=True):
            totals[rows] = some.totals
            detected += some.detected
            digests.append(some.digest)
    except NotCountsError as error:
        raise _described(counts, error) from None
    return CountSummary(totals, detected, _joined(d for d in digests if d) if on_disk else None)


_READING = "Reading counts"


@dataclass(frozen=True)
class _Summing:
    """Task: the statistics of some successive reads; ``digest`` joins those of the reads."""

    counts: Counts
    batch: np.ndarray
    n_batches: int
    progress: bool

    reads_here = False

    def without_source(self) -> _Summing:
        return self

    def read(self, reads: Sequence[slice], /) -> Sequence[slice]:
        return reads

    def compute(self, reads: Sequence[slice], /) -> CountSummary:
        first = reads[0].start
        totals = np.zeros(reads[-1].stop - first)
        detected = np.zeros((self.n_batches, self.counts.shape[1]), dtype=np.int64)
        digests = []
        for read in track(reads, _READING, self.progress):
            rows = self.counts.rows(read)
            some = totals[read.start - first : read.stop - first]
            batch = self.batch[read]
            count_detections(rows.indptr, rows.indices, rows.data, batch, detected, some)
            if not self.counts.in_memory:
                digests.append(_digest(rows))
        return CountSummary(totals, detected, " ".join(digests))


def _digest(rows: sp.csr_matrix) -> str:
    found = CountsDigest()
    found.update(rows)
    return found.hexdigest()


def _joined(digests: Iterable[str]) -> str:
    """Return the digest of all counts from those of successive reads."""
    return digest_of_text(" ".join(digests))


def _described(counts: Counts, error: NotCountsError) -> ValueError:
    """Return the error of a worker with a message that names the data."""
    return counts.error_of(str(error)) if isinstance(counts, CountsOnDisk) else error
