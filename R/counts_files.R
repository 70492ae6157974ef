# Files that contain the matrices of an object, so that no output replaces them.

files_of_object <- function(object) {
  if (is_anndatar(object)) {
    return(as.character(file_of_anndatar(object)))
  }
  kind <- data_kind(object)
  matrices <- switch(if (is.na(kind)) "" else kind,
    Seurat = lapply(object@assays, layers_of_assay),
    SingleCellExperiment = ,
    SummarizedExperiment = assays_with_alternatives(object),
    list(object)
  )
  unique(as.character(unlist(files_of_matrix(matrices))))
}

check_keeps_files <- function(out, object) {
  if (!is.null(out)) {
    call_python("check_not_source", list(
      out = as_python_path(out, "out"), sources = as.list(files_of_object(object))
    ))
  }
}

assays_with_alternatives <- function(object) {
  own <- as.list(SummarizedExperiment::assays(object, withDimnames = FALSE))
  if (!methods::is(object, "SingleCellExperiment")) {
    return(own)
  }
  names <- alternative_names(object)
  alternatives <- lapply(names, function(name) SingleCellExperiment::altExp(object, name))
  c(own, lapply(alternatives, assays_with_alternatives))
}

layers_of_assay <- function(assay) {
  if ("layers" %in% methods::slotNames(assay)) assay@layers else list()
}

# Matrices on disk, of HDF5Array or BPCells, have the path in a slot, nested inside the delayed
# operations.
files_of_matrix <- function(matrix) {
  if (is.list(matrix)) {
    return(unlist(lapply(matrix, files_of_matrix)))
  }
  if (!isS4(matrix)) {
    return(NULL)
  }
  slots <- methods::slotNames(matrix)
  of <- function(names) lapply(intersect(names, slots), function(name) methods::slot(matrix, name))
  paths <- Filter(is.character, of(c("filepath", "path", "dir")))
  inner <- of(c("seed", "seeds", "matrix", "matrix_list", "left", "right"))
  c(unlist(paths), files_of_matrix(inner))
}
