# AnnData objects of the package anndataR (R6 classes InMemoryAnnData, HDF5AnnData, ZarrAnnData,
# views of them, and those that reticulate holds), cells x genes. They are converted to a
# SingleCellExperiment, from their fields alone, so that anndataR need not be loaded.

is_anndatar <- function(object) {
  inherits(object, "AbstractAnnData")
}

# Returns a SingleCellExperiment: the counts of `layer` (of `X` if NULL) as assay `counts`, other
# matrices as assays of the same name, the tables of cells and genes, and the matrices of `obsm`.
experiment_of_anndatar <- function(object, layer = NULL) {
  check_object_packages("sce")
  matrices <- matrices_of_anndatar(object)
  chosen <- layer %||% "X"
  if (!chosen %in% names(matrices)) {
    stop_scvibridge(
      "the AnnData has no ", if (is.null(layer)) "X" else paste("layer", shown(layer)), "; it has ",
      if (length(matrices)) paste(names(matrices), collapse = ", ") else "no matrices",
      ": name the layer with raw counts, layer = ..."
    )
  }
  cells <- as.character(object$obs_names)
  genes <- as.character(object$var_names)
  others <- setdiff(names(matrices), c(chosen, "counts"))
  assays <- lapply(matrices[c(chosen, others)], genes_by_cells, genes = genes, cells = cells)
  names(assays) <- c("counts", others)
  SingleCellExperiment::SingleCellExperiment(
    assays = assays,
    colData = table_of_anndatar(object$obs, cells), rowData = table_of_anndatar(object$var, genes),
    reducedDims = reductions_of_anndatar(object, cells)
  )
}

matrices_of_anndatar <- function(object) {
  held <- as.list(object$layers)
  x <- object$X
  if (is.null(x)) held else c(list(X = x), held[setdiff(names(held), "X")])
}

# A sparse matrix that is stored by cell becomes one stored by column without being sorted.
genes_by_cells <- function(matrix, genes, cells) {
  check_sparse(matrix)
  matrix <- if (methods::is(matrix, "DelayedArray")) t(matrix) else Matrix::t(matrix)
  dimnames(matrix) <- list(genes, cells)
  matrix
}

table_of_anndatar <- function(table, names) {
  table <- S4Vectors::DataFrame(as.data.frame(table), check.names = FALSE)
  rownames(table) <- names
  table
}

# Named as in R: X_pca becomes pca. What is no matrix of numbers is left out.
reductions_of_anndatar <- function(object, cells) {
  held <- Filter(is_number_matrix, as.list(object$obsm))
  names(held) <- sub("^X_", "", names(held))
  lapply(held, function(values) {
    values <- as.matrix(values)
    rownames(values) <- cells
    values
  })
}

is_number_matrix <- function(values) {
  if (is.data.frame(values)) {
    return(length(values) > 0 && all(vapply(values, is.numeric, logical(1))))
  }
  is.matrix(values) && is.numeric(values)
}

# Path of the file behind an HDF5AnnData, which its class keeps to itself; NULL if it does not tell.
file_of_anndatar <- function(object) {
  tryCatch(
    {
      private <- object$.__enclos_env__$private
      # anndataR imports rhdf5, which this package does not need.
      private$.path %||% getExportedValue("rhdf5", "H5Fget_name")(private$.h5obj)
    },
    error = function(condition) NULL
  )
}

# Converts data that come first, of anndataR, and returns them with the location of their counts.
# `layer`: the layer that the model reads, or NULL.
plain_data <- function(object, source, layer = NULL) {
  if (!is_anndatar(object)) {
    return(list(object = object, source = source))
  }
  if (!is.null(source$assay)) {
    stop_scvibridge("an AnnData has layers, not assays: layer = ...")
  }
  if (is.null(source$layer) && !is.null(layer) && layer %in% names(object$layers)) {
    source$layer <- layer
  }
  object <- experiment_of_anndatar(object, source$layer)
  list(object = object, source = source_of("counts", NULL, source$cell_data))
}

#' @exportS3Method object_parts AbstractAnnData
object_parts.AbstractAnnData <- function(x, layer = NULL, ...) {
  check_no_more_arguments(list(...), known = "layer")
  parts <- object_parts(experiment_of_anndatar(x, layer), assay = "counts")
  parts$origin <- NULL
  parts
}
