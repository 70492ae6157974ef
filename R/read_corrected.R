#' Read a result from disk
#'
#' Opens the file of a result. With `backed = TRUE` the matrices stay in the file and are read when
#' they are used; everything else is read into memory, as by [as_sce()]. This works for files with
#' any number of cells and with more than 2^31 - 1 nonzero values.
#'
#' @param path The path of an h5ad file, a 10x HDF5 file (.h5) or a zarr folder that scvibridge
#'   wrote. Zarr folders can only be read into memory.
#' @param backed Whether the matrices stay on disk (requires the package HDF5Array).
#' @return A SingleCellExperiment, genes x cells. With `backed = TRUE` its assays are
#'   DelayedMatrix objects: [HDF5Array::H5ADMatrix()], or [HDF5Array::TENxMatrix()] for a 10x file,
#'   which only has the corrected counts. `colData`, `rowData`, `reducedDims` and `metadata` are
#'   those that [as_sce()] returns. The file must not be moved or replaced while the object is in
#'   use: if another result is written to its path, the matrices change with it.
#' @section Errors:
#'   As for [as_sce()]; also if HDF5Array is missing (with the command that installs it), or if
#'   `backed = TRUE` is used with a zarr folder.
#' @seealso [as_seurat()], which converts such an object to BPCells or reads it into memory.
#' @examplesIf scvibridge::scvibridge_available() && requireNamespace("HDF5Array", quietly = TRUE)
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' file <- tempfile(fileext = ".h5ad")
#' denoised_expression(model, out = file)
#' sce <- read_corrected(file, backed = TRUE)
#' SummarizedExperiment::assay(sce, "denoised")
#' # A part of it in memory:
#' as.matrix(SummarizedExperiment::assay(sce, "denoised")[1:5, 1:3])
#' @export
read_corrected <- function(path, backed = FALSE) {
  check_required("read_corrected(\"corrected.h5ad\")")
  with_scvibridge_errors({
    path <- as_python_path(path, "path")
    if (!as_flag(backed, "backed")) {
      return(as_sce(path))
    }
    if (is_zarr(path)) {
      stop_scvibridge(
        "backed = TRUE requires an HDF5 file, but ", path, " is a zarr folder, which HDF5Array ",
        "cannot read: write the result with out = \"x.h5ad\", or read this one with backed = FALSE"
      )
    }
    check_object_packages("backed")
    parts <- call_python("describe_file", list(path = path))
    dimnames <- list(as_text(parts$frame$genes), as_text(parts$frame$cells))
    assays <- lapply(parts$assays, function(assay) open_assay(path, assay$layer, dimnames))
    names(assays) <- part_names(parts$assays)
    assemble_sce(parts$frame, assays)
  })
}

is_zarr <- function(path) {
  grepl("[.]zarr$", path, ignore.case = TRUE)
}

# HDF5Array transposes the cells x genes matrices of h5ad without reading them.
open_assay <- function(path, layer, dimnames) {
  matrix <- if (grepl("[.]h5$", path, ignore.case = TRUE)) {
    HDF5Array::TENxMatrix(path, "matrix")
  } else {
    HDF5Array::H5ADMatrix(path, if (nzchar(layer)) layer)
  }
  # The dimnames in the file may be gene identifiers; other names add an operation to each use.
  if (!identical(dimnames(matrix), dimnames)) {
    dimnames(matrix) <- dimnames
  }
  matrix
}
