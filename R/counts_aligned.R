# Read parts of an object in the order of the object's names. SummarizedExperiment only uses
# positions for parts that were stored with `withDimnames = FALSE`.

# Returns the values of an assay, genes x cells.
aligned_assay <- function(x, assay) {
  values <- as_counts_matrix(SummarizedExperiment::assay(x, assay, withDimnames = FALSE))
  place <- paste("the assay", if (is.character(assay)) assay else paste("number", assay))
  rows <- positions_by_name(rownames(values), rownames(x), place, "genes")
  columns <- positions_by_name(colnames(values), colnames(x), place, "cells")
  if (!is.null(rows)) {
    values <- values[rows, , drop = FALSE]
  }
  if (!is.null(columns)) {
    values <- values[, columns, drop = FALSE]
  }
  values
}

# Returns a reduced dimension, cells x dimensions.
aligned_reduction <- function(x, name) {
  values <- as.matrix(SingleCellExperiment::reducedDim(x, name, withDimnames = FALSE))
  rows <- positions_by_name(
    rownames(values), colnames(x), paste("the reduced dimension", name), "cells"
  )
  if (is.null(rows)) values else values[rows, , drop = FALSE]
}

aligned_reductions <- function(x) {
  names <- SingleCellExperiment::reducedDimNames(x)
  stats::setNames(lapply(names, function(name) aligned_reduction(x, name)), names)
}

# Returns the position of each of the object's names, or NULL if nothing has to be moved.
# `rownames(x) <-` does not change the names inside an assay: different names at the same positions
# are the former names.
positions_by_name <- function(names, wanted, place, what) {
  if (is.null(names) || is.null(wanted) || identical(names, wanted)) {
    return(NULL)
  }
  positions <- match(wanted, names)
  moved <- which(!is.na(positions) & positions != seq_along(wanted))
  if (!length(moved)) {
    return(NULL)
  }
  if (anyNA(positions) || anyDuplicated(names)) {
    stop_scvibridge(
      "the names of the ", what, " in ", place, " do not match those of the object: ",
      some_of(wanted[moved[1]]), " is number ", positions[moved[1]], " there but number ",
      moved[1], " in the object, and other names differ too. Put both in the same order first"
    )
  }
  message(place, " has the ", what, " in a different order: they are aligned by name")
  positions
}

# Converts a table of counts to a matrix; otherwise it would be a list of columns.
as_counts_matrix <- function(values) {
  if (!is.data.frame(values) && !methods::is(values, "DataFrame")) {
    return(values)
  }
  is_number <- vapply(
    as.list(values), function(column) is.numeric(column) || is.logical(column), logical(1)
  )
  if (!all(is_number)) {
    stop_scvibridge(
      "the counts are a ", class(values)[1], " with columns that are not numeric: ",
      some_of(names(values)[!is_number])
    )
  }
  matrix <- do.call(cbind, as.list(values))
  dimnames(matrix) <- list(rownames(values), names(values))
  matrix
}
