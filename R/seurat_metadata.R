# Tables of a SingleCellExperiment as metadata of Seurat.

# Seurat does not terminate with a class such as Date in the metadata of features: dates and times
# become text, other numbers lose their class.
for_feature_metadata <- function(table) {
  values <- lapply(as.list(table), as_r_vector)
  changed <- names(values)[vapply(values, has_own_class, logical(1))]
  for (name in changed) {
    table[[name]] <- without_class(values[[name]])
  }
  if (length(changed)) {
    message(
      "Seurat's feature metadata cannot store dates, times and similar classes. Converted to text ",
      "or plain numbers: ", paste(changed, collapse = ", ")
    )
  }
  table
}

has_own_class <- function(values) {
  is_matrix <- length(dim(values)) == 2
  is.atomic(values) && is.object(values) && !is.factor(values) && !is_matrix
}

# scale() returns a vector as a matrix of one column without a name. What scvibridge adds under
# these names is always a matrix.
is_vector_as_matrix <- function(values, name) {
  is.matrix(values) && ncol(values) == 1 && is.null(colnames(values)) &&
    name != "scvi" && !startsWith(name, "scvibridge_")
}

# Vectors whose type is not one of base R's, and arrays of one dimension, as reticulate returns.
as_r_vector <- function(values) {
  if (methods::is(values, "Rle")) {
    values <- S4Vectors::decode(values)
  }
  if (length(dim(values)) == 1) {
    return(if (is.factor(values)) `dim<-`(values, NULL) else as.vector(values))
  }
  if (inherits(values, "POSIXlt")) as.POSIXct(values) else values
}

without_class <- function(values) {
  if (inherits(values, c("Date", "POSIXt", "integer64"))) {
    text <- format(values)
    text[is.na(values)] <- NA
    return(trimws(text))
  }
  as.vector(unclass(values))
}

# Values that Seurat's metadata cannot hold, such as a nested table, are left out.
announce_left_out <- function(table, what) {
  values <- as.list(table)
  fits <- vapply(values, function(column) {
    is.atomic(as_r_vector(column)) || is.matrix(column)
  }, logical(1))
  if (!all(fits)) {
    message(
      "Seurat's metadata can only store vectors and matrices: left out are the columns ",
      paste(names(values)[!fits], collapse = ", "), " of the ", what
    )
  }
}
