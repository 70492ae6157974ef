# Returns the parts of an object with counts, whatever its class: names of `genes` and `cells`;
# `read`, a function that returns the counts of cells (by position) as a dgCMatrix, genes x cells,
# for all genes or some (also by position); `on_disk`, whether it reads them from disk; the tables
# `obs` and `var`; `reductions`, a named list of matrices, cells x dimensions; and `origin`, the
# location of the counts in the object (NULL for a matrix).

object_parts <- function(x, ...) {
  load_package_of(x)
  UseMethod("object_parts")
}

# An object read from a file may come without the package of its class, which defines its parents.
load_package_of <- function(x) {
  # Not inherits(), which looks for the class's package.
  if (identical(class(x)[[1]], "Seurat")) {
    check_seurat_version(x)
  }
  package <- attr(class(x), "package")
  if (isS4(x) && !identical(package, ".GlobalEnv")) {
    check_requires(package, paste("an object of class", class(x)[1]))
  }
}

#' @exportS3Method object_parts default
object_parts.default <- function(x, ...) {
  # Sparse arrays of Bioconductor are not of a matrix class.
  if (methods::is(x, "SparseMatrix") || inherits(x, "IterableMatrix")) {
    return(object_parts.matrix(x, ...))
  }
  if (is_seurat_2(x)) {
    check_seurat_version(x)
  }
  stop_without_counts(x, "x")
}

stop_without_counts <- function(x, argument) {
  stop_scvibridge(
    argument, " must be a Seurat object, a SingleCellExperiment or a matrix of genes x cells, not ",
    "an object of class ", class(x)[1],
    if (is.data.frame(x) || methods::is(x, "DataFrame")) {
      paste0(": convert it with as.matrix(", argument, ")")
    }
  )
}

#' @exportS3Method object_parts matrix
object_parts.matrix <- function(x, cell_data = NULL, gene_data = NULL, ...) {
  check_no_more_arguments(list(...), known = c("cell_data", "gene_data"))
  genes <- rownames(x)
  cells <- colnames(x)
  check_names(genes, "gene", "rownames(x)")
  check_names(cells, "cell", "colnames(x)")
  list(
    origin = if (is_result_matrix(x)) list(object = "matrix", result = TRUE),
    genes = genes, cells = cells, read = matrix_reader(x), on_disk = is_on_disk(x),
    obs = rows_by_name(cell_data, cells, "cell_data", "cells"),
    var = rows_by_name(gene_data, genes, "gene_data", "genes"),
    reductions = list()
  )
}

#' @exportS3Method object_parts Matrix
object_parts.Matrix <- object_parts.matrix

#' @exportS3Method object_parts DelayedArray
object_parts.DelayedArray <- object_parts.matrix

# `assay.type` is the name that scuttle and scater have for `assay`.
with_assay_type <- function(source, given) {
  if (is.null(given$assay.type)) {
    return(source)
  }
  if (!is.null(source$assay)) {
    stop_scvibridge("assay and assay.type are the same argument: pass only one of them")
  }
  source$assay <- given$assay.type
  source
}

#' @exportS3Method object_parts SummarizedExperiment
# scuttle and scater call it assay.type.
object_parts.SummarizedExperiment <- function(x, assay = "counts", ...,
                                              assay.type = NULL) { # nolint: object_name_linter.
  check_object_packages("sce")
  check_no_more_arguments(list(...), known = c("assay", "assay.type"))
  if (!is.null(assay.type)) {
    assay <- with_assay_type(if (!identical(assay, "counts")) list(assay = assay),
      list(assay.type = assay.type)
    )$assay
  }
  check_names(rownames(x), "gene", "rownames(x)")
  check_names(colnames(x), "cell", "colnames(x)")
  # Before the call: conditions raised inside an S4 generic lose their class.
  assay <- checked_assay(x, assay)
  matrix <- aligned_assay(x, assay)
  is_sce <- methods::is(x, "SingleCellExperiment")
  read <- matrix_reader(matrix)
  origin <- origin_in_experiment(x, assay)
  origin$result <- origin$result || is_marked(x, rownames(x), colnames(x), read)
  list(
    origin = origin,
    genes = rownames(x), cells = colnames(x), read = read,
    on_disk = is_on_disk(matrix), obs = SummarizedExperiment::colData(x),
    var = SummarizedExperiment::rowData(x),
    reductions = if (is_sce) aligned_reductions(x) else list()
  )
}

origin_in_experiment <- function(x, assay) {
  present <- SummarizedExperiment::assayNames(x)
  name <- if (is.numeric(assay) && !is.null(present)) present[assay] else as.character(assay)
  flags <- startsWith(colnames(SummarizedExperiment::rowData(x)), "scvibridge_")
  single_cell <- methods::is(x, "SingleCellExperiment")
  list(
    object = if (single_cell) "SingleCellExperiment" else "SummarizedExperiment",
    assay = name, others = setdiff(present, name),
    result = is_result_of_seurat_assay(x) ||
      name %in% result_assay_names && !name %in% unrecorded_assays(x) &&
        (length(results_of(x)) > 0 || any(flags)),
    # Results that were joined may come from several assays.
    raw = tryCatch(
      length(results_of(x)) > 0 && name == raw_counts_assay(x),
      scvibridge_error = function(e) FALSE
    )
  )
}

# Returns the assay with the counts, by number if it has no name.
checked_assay <- function(x, assay) {
  present <- SummarizedExperiment::assayNames(x)
  n_assays <- length(SummarizedExperiment::assays(x, withDimnames = FALSE))
  known <- if (is.character(assay)) present else if (is.numeric(assay)) seq_len(n_assays)
  if (is.atomic(assay) && length(assay) == 1 && assay %in% known) {
    return(assay)
  }
  stop_scvibridge(
    "there is no assay ", shown(assay), "; the object has ",
    if (length(present)) paste(present, collapse = ", ") else paste(n_assays, "without a name"),
    ": set assay to the one with raw counts"
  )
}

# -- matrices ----------------------------------------------------------------------------------

matrix_reader <- function(matrix) {
  check_numbers(matrix)
  reader_of(matrix)
}

reader_of <- function(matrix) {
  if (methods::is(matrix, "COO_SparseMatrix")) {
    matrix <- as_column_sparse(matrix) # cannot be subset
  }
  function(positions, rows = NULL) {
    if (!identical(positions, seq_len(ncol(matrix)))) {
      matrix <- matrix[, positions, drop = FALSE]
    }
    as_column_sparse(some_rows(matrix, rows))
  }
}

some_rows <- function(matrix, rows) {
  if (is.null(rows)) matrix else matrix[rows, , drop = FALSE]
}

# The same parts for the genes at these positions only.
parts_of_genes <- function(parts, rows) {
  read <- parts$read
  parts$read <- function(positions) read(positions, rows)
  parts$genes <- parts$genes[rows]
  if (length(dim(parts$var))) {
    parts$var <- parts$var[rows, , drop = FALSE]
  }
  parts
}

check_numbers <- function(matrix) {
  numbers <- !is.matrix(matrix) || is.numeric(matrix) || is.logical(matrix)
  if (length(dim(matrix)) != 2 || !numbers) {
    stop_scvibridge("the counts must be a numeric matrix, got ", shown(class(matrix)))
  }
  check_sparse(matrix)
}

# Compiled code, in Matrix and in this package, reads and writes wherever these positions point.
check_sparse <- function(matrix) {
  if (!methods::is(matrix, "sparseMatrix")) {
    return(invisible())
  }
  slots <- intersect(c("i", "j"), methods::slotNames(matrix))
  for (slot in slots) {
    check_positions(methods::slot(matrix, slot), slot, dim(matrix)[if (slot == "i") 1 else 2])
  }
  if ("p" %in% methods::slotNames(matrix)) {
    n <- if (slots == "i") ncol(matrix) else nrow(matrix)
    check_pointers(matrix@p, n, length(methods::slot(matrix, slots)))
  }
}

check_positions <- function(positions, slot, n) {
  if (length(positions) && (anyNA(positions) || min(positions) < 0 || max(positions) >= n)) {
    stop_damaged("its slot ", slot, " has positions outside 0 to ", n - 1)
  }
}

check_pointers <- function(pointers, n, n_stored) {
  fit <- length(pointers) == n + 1 && !anyNA(pointers) && !is.unsorted(pointers) &&
    pointers[1] == 0 && pointers[n + 1] == n_stored
  if (!fit) {
    stop_damaged(
      "its slot p does not increase from 0 to ", n_stored, ", the number of its values, in ", n,
      " steps"
    )
  }
}

stop_damaged <- function(...) {
  stop_scvibridge("the counts are a damaged sparse matrix: ", ...)
}

as_column_sparse <- function(matrix) {
  if (methods::is(matrix, "dgCMatrix")) {
    return(matrix)
  }
  # Also loads the package: a matrix read with readRDS() comes without it.
  check_requires("Matrix", "a matrix of counts")
  if (is.matrix(matrix) || methods::is(matrix, "Matrix")) {
    matrix <- methods::as(methods::as(matrix, "dMatrix"), "generalMatrix")
    return(methods::as(matrix, "CsparseMatrix"))
  }
  methods::as(matrix, "dgCMatrix")
}

# Whether a matrix is read in blocks. A sparse array in memory is if a dgCMatrix cannot hold it.
is_on_disk <- function(matrix) {
  methods::is(matrix, "DelayedArray") || inherits(matrix, "IterableMatrix") || is_long(matrix)
}

# -- names -------------------------------------------------------------------------------------

check_names <- function(names, what, where) {
  if (is.null(names)) {
    stop_scvibridge("x has no ", what, " names: set ", where)
  }
  if (anyNA(names) || !all(nzchar(names))) {
    stop_scvibridge("some ", what, "s have an empty name: set ", where)
  }
  duplicates <- unique(names[duplicated(names)])
  if (length(duplicates)) {
    stop_scvibridge(
      length(duplicates), " ", what, " names occur more than once: ", some_of(duplicates),
      ". Make them unique first: ", where, " <- make.unique(", where, ")"
    )
  }
}

some_of <- function(names, most = 5) {
  paste0(
    paste0("'", utils::head(names, most), "'", collapse = ", "),
    if (length(names) > most) paste(" and", length(names) - most, "more")
  )
}

# Orders the rows of a table by the names; `NULL` becomes a table without columns.
rows_by_name <- function(table, names, argument, what) {
  if (is.null(table)) {
    return(list())
  }
  if (!is.data.frame(table) && !methods::is(table, "DataFrame")) {
    stop_scvibridge(argument, " must be a data.frame, not an object of class ", class(table)[1])
  }
  check_row_names(table, names, argument, what)
  check_unique_rows(table, argument, what)
  missing <- setdiff(names, rownames(table))
  if (length(missing)) {
    stop_scvibridge(
      argument, " lacks ", length(missing), " of the ", length(names), " ", what, ": ",
      some_of(missing), ". Its row names must be the names of the ", what
    )
  }
  further <- setdiff(rownames(table), names)
  if (length(further)) {
    stop_scvibridge(
      argument, " has rows for ", length(further), " ", what, " that x lacks: ", some_of(further),
      ". Subset it to those of x first"
    )
  }
  table[names, , drop = FALSE]
}

# A DataFrame can have a row name twice.
check_unique_rows <- function(table, argument, what) {
  duplicates <- unique(rownames(table)[duplicated(rownames(table))])
  if (length(duplicates)) {
    stop_scvibridge(
      argument, " has more than one row for ", length(duplicates), " of the ", what, ": ",
      some_of(duplicates), ". Keep one row for each"
    )
  }
}

# The numbers that a data.frame without row names has do not count.
has_row_names <- function(table) {
  !is.null(rownames(table)) && !(is.data.frame(table) && .row_names_info(table) < 0)
}

# Names such as "1" and "2" can also be the numbers of rows without names, in another order.
check_row_names <- function(table, names, argument, what) {
  numbers <- as.character(seq_len(nrow(table)))
  if (!has_row_names(table) && setequal(names, numbers) && !identical(names, numbers)) {
    stop_scvibridge(
      argument, " has no row names, only numbers, which are also names of ", what,
      " in another order: set rownames(", argument, ")"
    )
  }
}
