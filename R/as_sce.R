#' Read a result as a SingleCellExperiment
#'
#' Hands a result that was made in Python, on the command line or with `out =` over to R.
#'
#' @param x The path of an h5ad file or a zarr folder that scvibridge wrote, or an AnnData held by
#'   reticulate.
#' @return A SingleCellExperiment, genes x cells, as [corrected_counts()] describes it.
#' @section Errors:
#'   Where the AnnData is no result of scvibridge, or a sparse matrix has more nonzero values than
#'   one of R can hold (2^31 - 1): such a result is read from disk, see [HDF5Array::H5ADMatrix()].
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' file <- tempfile(fileext = ".h5ad")
#' sce <- denoised_expression(model, out = file)
#' all.equal(as_sce(file), sce)
#' @export
as_sce <- function(x) {
  if (is.null(x)) {
    stop_scvibridge("x must be a path or an AnnData, not NULL")
  }
  assemble_sce(call_python("parts", list(adata = python_adata(x))))
}
