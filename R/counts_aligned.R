# Read parts of an object in the order of the object's names. Bioconductor uses positions, and the
# names inside a part, stored with `withDimnames = FALSE`, can be outdated. Other names at the same
# positions are those from before a renaming. The object's own names in another order are refused:
# either the object was renamed, or the part was stored in another order.

# Returns the values of an assay, genes x cells.
aligned_assay <- function(x, assay) {
  values <- as_counts_matrix(SummarizedExperiment::assay(x, assay, withDimnames = FALSE))
  shown <- if (is.character(assay)) paste0("\"", assay, "\"") else assay
  place <- paste("the assay", if (is.character(assay)) assay else paste("number", assay))
  code <- function(x) paste0("assay(", x, ", ", shown, ", withDimnames = FALSE)")
  check_order(rownames(values), rownames(x), place, "genes", code)
  check_order(colnames(values), colnames(x), place, "cells", code)
  values
}

# Names of alternative experiments and reduced dimensions, and one reduced dimension as stored. The
# getters of SingleCellExperiment first update the whole object, which takes 15 ms each time.
alternative_names <- function(object) {
  if (methods::is(object, "SingleCellExperiment")) {
    held <- SingleCellExperiment::int_colData(object)[["altExps"]]
    if (is.null(held)) SingleCellExperiment::altExpNames(object) else colnames(held)
  }
}

reduced_names <- function(object) {
  held <- SingleCellExperiment::int_colData(object)[["reducedDims"]]
  # Objects of versions before 2019 store them elsewhere.
  if (is.null(held)) SingleCellExperiment::reducedDimNames(object) else colnames(held)
}

stored_reduction <- function(object, name) {
  held <- SingleCellExperiment::int_colData(object)[["reducedDims"]]
  if (is.null(held)) {
    SingleCellExperiment::reducedDim(object, name, withDimnames = FALSE)
  } else {
    held[[name]]
  }
}

# Returns a reduced dimension, cells x dimensions.
aligned_reduction <- function(x, name) {
  values <- as.matrix(stored_reduction(x, name))
  code <- function(x) paste0("reducedDim(", x, ", \"", name, "\", withDimnames = FALSE)")
  place <- paste("the reduced dimension", name)
  check_order(rownames(values), colnames(x), place, "cells", code, rows = TRUE)
  values
}

aligned_reductions <- function(x) {
  names <- numeric_reductions(x)
  stats::setNames(lapply(names, function(name) aligned_reduction(x, name)), names)
}

# Names of the reduced dimensions that hold numbers alone. A table may also have a column of text.
numeric_reductions <- function(x) {
  names <- reduced_names(x)
  is_number <- vapply(names, function(name) {
    values <- as.matrix(stored_reduction(x, name))
    is.numeric(values) || is.logical(values)
  }, logical(1))
  if (!all(is_number)) {
    warning(
      "reduced dimensions with values that are not numbers are left out: ",
      paste(names[!is_number], collapse = ", "),
      call. = FALSE
    )
  }
  names[is_number]
}

# Checks all assays of an object, and returns it. An assay without a name, or with that of another,
# is selected by number.
with_checked_order <- function(x) {
  names <- SummarizedExperiment::assayNames(x)
  for (i in seq_along(names)) {
    is_own <- nzchar(names[i]) && match(names[i], names) == i
    aligned_assay(x, if (is_own) names[i] else i)
  }
  x
}

# `names` are those inside the part, `code` gives the R code of the part of an object. `rows`:
# whether its rows are the `what`.
check_order <- function(names, wanted, place, what, code, rows = what == "genes") {
  if (is.null(names) || is.null(wanted) || identical(names, wanted)) {
    return(invisible())
  }
  positions <- match(wanted, names)
  moved <- which(!is.na(positions) & positions != seq_along(wanted))
  if (!length(moved)) {
    return(invisible())
  }
  part <- code("x")
  given <- if (what == "genes") "rownames(x)" else "colnames(x)"
  in_order <- paste0(part, if (rows) paste0("[", given, ", ]") else paste0("[, ", given, "]"))
  stop_scvibridge(
    place, " has the names of the ", what, " in another order than the object: ",
    some_of(wanted[moved[1]]), " is number ", positions[moved[1]], " there but number ", moved[1],
    " in the object. If the order of the object is right, remove the names inside, ", part,
    " <- unname(", part, ")",
    if (!anyNA(positions) && !anyDuplicated(names)) {
      paste0("; if the names inside are right, reorder the values, ", part, " <- ", in_order)
    }
  )
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
