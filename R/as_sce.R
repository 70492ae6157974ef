#' Read a result as a SingleCellExperiment
#'
#' Hands a result that was made in Python, on the command line or with `out =` over to R, in memory.
#' [read_corrected()] can leave the matrices on disk. Of an object of R it takes the result out.
#'
#' @param x The path of an h5ad file, a zarr folder or a 10x HDF5 file (.h5) that scvibridge wrote,
#'   an AnnData held by reticulate, or an object with results: a Seurat object, a
#'   SingleCellExperiment (also with the results in the altExp `scvi`) or a SummarizedExperiment.
#' @return A SingleCellExperiment, genes x cells, as [corrected_counts()] describes it. A 10x file
#'   has the corrected counts alone. Of a Seurat object, genes have the names that the model knows,
#'   and expressions are what `data` holds without its logarithm.
#' @section Errors:
#'   Where x is no result of scvibridge, or a sparse matrix has more nonzero values than
#'   one of R can hold (2^31 - 1): such a result is left on disk, `read_corrected(backed = TRUE)`.
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' sce <- denoised_expression(model)
#' file <- tempfile(fileext = ".h5ad")
#' on_disk <- denoised_expression(model, out = file)
#' all.equal(as_sce(file), sce)
#' @export
as_sce <- function(x) {
  if (is.null(x)) {
    stop_scvibridge("x must be a path or an AnnData, not NULL")
  }
  if (isTRUE(data_kind(x) %in% c("Seurat", "SingleCellExperiment", "SummarizedExperiment"))) {
    return(sce_of_result(x))
  }
  adata <- if (is_taken_apart(x)) {
    x
  } else if (is.character(x)) {
    as_python_path(x, "x")
  } else {
    python_adata(x)
  }
  if (is.character(adata)) {
    adata <- call_python("open_anndata", list(path = adata))
  }
  parts <- call_python("take_apart", list(adata = adata))
  genes <- as_text(parts$frame$genes)
  cells <- as_text(parts$frame$cells)
  assays <- lapply(parts$assays, take_assay, genes = genes, cells = cells)
  names(assays) <- vapply(parts$assays, function(assay) assay$name, character(1))
  assemble_sce(parts$frame, assays)
}

# reticulate gives arrays. A value that no other variable has is changed in place, not copied.
take_assay <- function(assay, genes, cells) {
  if (!call_python("load_assay", list(assay = assay))) {
    values <- assay$take("values")
    dimnames(values) <- list(genes, cells)
    return(values)
  }
  x <- assay$take("data")
  i <- assay$take("indices")
  p <- assay$take("indptr")
  dim(x) <- dim(i) <- dim(p) <- NULL
  sparse_matrix(i, p, x, genes, cells)
}
