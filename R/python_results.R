# Assembles a SingleCellExperiment from the parts that python/scvibridge/r/to_r.py returns. Python
# also runs this file through rpy2, see R_FILES in python/scvibridge/r/session.py: these files use
# nothing else from this package and no reticulate.

assemble_sce <- function(frame, assays) {
  check_object_packages("sce")
  cells <- as_text(frame$cells)
  genes <- as_text(frame$genes)
  reductions <- lapply(frame$reductions, assemble_numbers, rows = cells)
  sce <- SingleCellExperiment::SingleCellExperiment(
    assays = assays,
    colData = assemble_table(frame$obs, cells),
    rowData = assemble_table(frame$var, genes),
    reducedDims = stats::setNames(reductions, part_names(frame$reductions)),
    metadata = list(scvibridge = assemble_nested(frame$provenance))
  )
  if (length(frame$proteins)) {
    values <- t(assemble_numbers(frame$proteins[[1L]], cells))
    SingleCellExperiment::altExp(sce, "proteins") <- SummarizedExperiment::SummarizedExperiment(
      assays = list(normalized = values)
    )
  }
  with_marks(sce)
}

part_names <- function(parts) {
  vapply(parts, function(part) as_text(part$name), character(1))
}

# reticulate returns an empty Python list as list(), and vectors with a dim attribute.
as_text <- function(x) {
  as.character(unlist(x))
}

as_plain_vector <- function(x) {
  dim(x) <- NULL
  x
}

# Creates a dgCMatrix from the vectors without copying them.
sparse_matrix <- function(i, p, x, genes, cells) {
  methods::new(
    methods::getClass("dgCMatrix", where = asNamespace("Matrix")),
    i = i, p = p, x = x,
    Dim = c(length(genes), length(cells)), Dimnames = list(genes, cells)
  )
}

# Creates a matrix to be filled later; named now, since naming it then would copy it.
empty_matrix <- function(genes, cells) {
  matrix(0, length(genes), length(cells), dimnames = list(genes, cells))
}

# Converts a matrix of obsm or varm.
assemble_numbers <- function(part, rows) {
  columns <- if (is.null(part$columns)) NULL else as_text(part$columns)
  matrix <- part$values
  dimnames(matrix) <- list(rows, columns)
  matrix
}

# Sets the slots directly: DataFrame() takes columns named "row.names" or "check.names" as
# arguments.
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
  column <- switch(part$kind,
    factor = structure(
      values,
      levels = levels, class = c(if (part$ordered) "ordered", "factor")
    ),
    character = levels[values],
    logical = as.logical(values),
    time = as.POSIXct(values, origin = "1970-01-01", tz = "UTC"),
    values
  )
  if (is.null(part$r_class)) column else with_r_class(column, as_text(part$r_class))
}

# Restores the class of a column that python_column() converted to text or numbers; a column that
# was changed since is left unchanged.
with_r_class <- function(column, r_class) {
  name <- sub(" .*", "", r_class)
  detail <- sub("^[^ ]* ?", "", r_class)
  text <- as.character(column)
  made <- tryCatch(
    switch(name,
      Date = as.Date(text, format = "%Y-%m-%d"),
      POSIXct = times_of_text(text, detail),
      difftime = if (is.numeric(column)) as.difftime(as.double(column), units = detail)
    ),
    error = function(e) NULL
  )
  if (is.null(made) || !identical(is.na(made), is.na(column))) column else made
}

# Some times have their offset from UTC: see time_as_text().
times_of_text <- function(text, zone) {
  times <- as.POSIXct(text, format = "%Y-%m-%dT%H:%M:%OS", tz = zone)
  exact <- grep(":[0-9.]+[+-][0-9]{4}$", text)
  times[exact] <- as.POSIXct(text[exact], format = "%Y-%m-%dT%H:%M:%OS%z", tz = "UTC")
  times
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

# Converts a pandas table to a data.frame without changing its column names.
assemble_data_frame <- function(part) {
  rows <- as_text(part$rows)
  structure(
    stats::setNames(lapply(part$columns, assemble_column), part_names(part$columns)),
    row.names = if (length(rows)) rows else seq_len(part$n_rows),
    class = "data.frame"
  )
}
