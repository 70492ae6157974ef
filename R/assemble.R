# A result taken apart in Python (python/scvibridge/handover.py) becomes a SingleCellExperiment.
# This file, check_requires.R and as_seurat.R are also what Python runs through rpy2, so they use
# nothing else of this package and no reticulate.

assemble_sce <- function(parts) {
  check_object_packages("sce")
  cells <- as_text(parts$cells)
  genes <- as_text(parts$genes)
  assays <- lapply(parts$assays, assemble_matrix, dimnames = list(genes, cells))
  reductions <- lapply(parts$reductions, assemble_numbers, rows = cells)
  SingleCellExperiment::SingleCellExperiment(
    assays = stats::setNames(assays, part_names(parts$assays)),
    colData = assemble_table(parts$obs, cells),
    rowData = assemble_table(parts$var, genes),
    reducedDims = stats::setNames(reductions, part_names(parts$reductions)),
    metadata = list(scvibridge = assemble_nested(parts$provenance))
  )
}

part_names <- function(parts) {
  vapply(parts, function(part) as_text(part$name), character(1))
}

# reticulate gives an empty Python list as list(), and vectors with a dim attribute.
as_text <- function(x) {
  as.character(unlist(x))
}

as_plain_vector <- function(x) {
  dim(x) <- NULL
  x
}

assemble_matrix <- function(part, dimnames) {
  if (is.null(part$indptr)) {
    matrix <- part$values
    dimnames(matrix) <- dimnames
    return(matrix)
  }
  methods::new(
    methods::getClass("dgCMatrix", where = asNamespace("Matrix")),
    i = as_plain_vector(part$indices),
    p = as_plain_vector(part$indptr),
    x = as_plain_vector(part$data),
    Dim = as.integer(c(part$n_rows, part$n_columns)),
    Dimnames = dimnames
  )
}

# A matrix of obsm or varm.
assemble_numbers <- function(part, rows) {
  columns <- if (is.null(part$columns)) NULL else as_text(part$columns)
  matrix <- part$values
  dimnames(matrix) <- list(rows, columns)
  matrix
}

# Made by its slots: DataFrame() takes columns named "row.names" or "check.names" for arguments.
assemble_table <- function(columns, rows) {
  values <- lapply(columns, function(part) {
    if (part$kind == "matrix") assemble_numbers(part, rows) else assemble_column(part)
  })
  S4Vectors::new2(
    "DFrame",
    listData = stats::setNames(values, part_names(columns)),
    nrows = length(rows), rownames = rows
  )
}

assemble_column <- function(part) {
  values <- as_plain_vector(part$values)
  missing <- as_plain_vector(part$missing)
  if (part$kind %in% c("factor", "character")) {
    levels <- as_text(part$levels)
  }
  values[missing] <- NA
  switch(part$kind,
    factor = structure(
      values,
      levels = levels, class = c(if (part$ordered) "ordered", "factor")
    ),
    character = levels[values],
    logical = as.logical(values),
    time = as.POSIXct(values, origin = "1970-01-01", tz = "UTC"),
    values
  )
}

assemble_nested <- function(part) {
  switch(part$kind,
    null = NULL,
    list = {
      items <- lapply(part$items, assemble_nested)
      if (length(part$names)) stats::setNames(items, as_text(part$names)) else items
    },
    table = assemble_table(part$columns, as_text(part$rows)),
    assemble_column(part)
  )
}
