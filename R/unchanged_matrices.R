# Checks that the matrices of a result were not modified in place, before they are handed on. Python
# also runs this file through rpy2.

# Number of cells on which matrices on disk, and expression, are checked.
cells_checked <- 100L

# Rejects a result whose counts or expression were modified in place. `assays`: matrices by the
# names of result_assay_names and "counts".
check_unchanged <- function(assays, has_record) {
  checked <- intersect(names(assays), c("corrected", if (has_record) "counts"))
  hint <- if (!has_record) ". If it is your own, rename it first: it has no record of scvibridge"
  for (name in checked) {
    check_unchanged_counts(stored_values(assays[[name]]), name, hint)
  }
  for (name in intersect(names(assays), c("normalized", "denoised"))) {
    check_unchanged_expression(assays[[name]], name, assays$counts, hint)
  }
}

check_unchanged_counts <- function(values, name, hint = NULL) {
  fault <- fault_of_counts(values)
  if (!is.null(fault)) {
    stop_modified(name, "counts", fault, hint)
  }
}

stop_modified <- function(name, kind, fault, ...) {
  stop_scvibridge(
    "the assay ", name, " no longer holds ", kind, ", but ", fault, ": it was modified after it ",
    "was computed. Compute the result again, and store transformed values in another assay", ...
  )
}

fault_of_counts <- function(values) {
  if (is.null(values)) {
    return(NULL)
  }
  if (anyNA(values) || any(is.infinite(values))) {
    return("missing or infinite values")
  }
  if (any(values < 0)) {
    return("negative values (scaled?)")
  }
  if (!is.integer(values) && any(values != trunc(values))) {
    "values that are not whole numbers (normalized, or their logarithms?)"
  }
}

# Rejects expression that is negative, or logarithms: in each cell expression sums to one depth,
# or to that of the counts, unless genes were left out.
check_unchanged_expression <- function(matrix, name, counts, hint = NULL) {
  values <- first_cells(matrix)
  totals <- if (!is.null(counts)) colSums(first_cells(counts))
  fault <- if (anyNA(values) || any(is.infinite(values))) {
    "missing or infinite values"
  } else if (any(values < 0)) {
    "negative values (scaled, or logarithms?)"
  } else if (!is_depth(colSums(values), totals) && is_logarithm(values, totals)) {
    "its logarithms"
  }
  if (!is.null(fault)) {
    stop_modified(
      name, paste(name, "expression"), fault, " (as_seurat() takes logarithms itself)", hint
    )
  }
}

is_logarithm <- function(values, totals) {
  is_depth(colSums(expm1(values)), totals) || is_depth(colSums(2^values - 1), totals)
}

# Whether sums over genes are all the same, or `totals` (NULL if unknown), within the rounding of
# single precision. Those of logarithms differ by more, even if all cells are alike.
is_depth <- function(sums, totals) {
  within <- function(expected) isTRUE(all(abs(sums - expected) < 1e-4 * expected))
  length(sums) > 1 && within(stats::median(sums)) || !is.null(totals) && within(totals)
}

# Returns the first cells of a matrix, dense.
first_cells <- function(matrix) {
  as.matrix(matrix[, seq_len(min(ncol(matrix), cells_checked)), drop = FALSE])
}

# Returns the values of some cells for matrices on disk: all values are checked when they are
# opened, and a later operation acts on all cells.
stored_values <- function(matrix) {
  if (methods::is(matrix, "dgCMatrix")) {
    return(matrix@x)
  }
  if (methods::is(matrix, "DelayedArray") || inherits(matrix, "IterableMatrix")) {
    return(first_cells(matrix))
  }
  if (is_long(matrix)) {
    return(SparseArray::nzvals(matrix))
  }
  if (is.matrix(matrix)) matrix else as_column_sparse(matrix)@x
}
