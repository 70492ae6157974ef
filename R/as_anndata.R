#' Convert an object to an AnnData
#'
#' Converts the raw counts of a Seurat object, a SingleCellExperiment or a matrix to an AnnData,
#' cells x genes, that reticulate holds. All functions of this package that have an argument `adata`
#' accept it.
#'
#' A sparse R matrix, genes x cells, has the same memory layout as a sparse Python matrix, cells x
#' genes: its three vectors are passed without conversion. Counts are stored in single precision if
#' that is exact (whole numbers up to 2^24), otherwise as 32-bit integers or in double precision.
#' `$X` of the AnnData returns them to R. Other assays, layers and alternative experiments are not
#' converted.
#'
#' Factors in the metadata become categories (with all levels, in order). Logical, integer, numeric
#' and character columns keep their type and their missing values. Dates and times become text.
#' Numeric matrices are stored in `obsm` or `varm`; one of a single column without a name, as from
#' `scale()`, is a column of numbers. Other columns are dropped, with a warning that
#' names them. Reductions are stored in `obsm`: PCA, UMAP and tSNE as `X_pca`, `X_umap` and
#' `X_tsne`, regardless of the case of their name, others such as `scvi` as `X_scvi`. Where two
#' would have the same name, one gets a suffix, such as `X_pca_1`, with a message.
#'
#' @param x A Seurat object (with a version 5 assay, including split layers, or a version 3 assay),
#'   a SingleCellExperiment or SummarizedExperiment, a matrix (dense, a DelayedMatrix, or of the
#'   packages Matrix and SparseArray) of genes x cells with row and column names, an AnnData of
#'   anndataR (`InMemoryAnnData`, `HDF5AnnData`, `ZarrAnnData`, read into memory), the path of an
#'   h5ad file or a zarr folder, or several, or an AnnData. The last two are returned unchanged; the
#'   paths are checked.
#' @param assay Seurat: name of the assay with the raw counts; the default assay if `NULL`. If the
#'   default assay is a result of this package, the assay that it was computed from is used; if it
#'   was created by SCTransform(), it is rejected, since its counts are not raw.
#'   SingleCellExperiment: name or number of the assay; `assay.type` is accepted too, as in scuttle
#'   and scater.
#' @param layer Name of the layer with the raw counts (of an AnnData of anndataR: `X` if `NULL`). If
#'   it was split (`counts.1`, `counts.2`), its parts are joined, with cells in the order of the
#'   object, which is not changed. A gene that is missing from a part has 0 counts there, which a
#'   message reports.
#' @param cell_data A data.frame with a row for each cell, whose row names are the column names of
#'   `x`, in any order.
#' @param gene_data A data.frame with a row for each gene, whose row names are the row names of `x`,
#'   in any order.
#' @param ... Passed to methods. Other arguments are rejected.
#' @return An AnnData: `X` has the counts, cells x genes (CSR), `obs` and `var` the metadata of
#'   cells and genes, `obsm` the reductions. Counts on disk (DelayedMatrix, HDF5Array, BPCells) are
#'   read into memory if there are at most 1e8 values, including zeros. Otherwise they are copied
#'   block by block to a temporary h5ad file, which backs `X` and is deleted when the R session
#'   ends. To choose the file, use [write_h5ad()].
#' @section Errors:
#'   Conditions of class `scvibridge_error` if the assay or layer does not exist (the message lists
#'   those that do), values are missing, names of cells or genes are missing or duplicated, or
#'   `cell_data` lacks cells. Assays and reduced dimensions that were stored with `withDimnames =
#'   FALSE`, with the object's names in another order, are refused too: the message shows how to
#'   keep the order of the object, and how to reorder the values.
#' @seealso [write_h5ad()]; [as_sce()] for the opposite direction.
#' @examplesIf scvibridge::scvibridge_available()
#' counts <- matrix(rpois(60, 2), 6, 10,
#'   dimnames = list(paste0("gene", 1:6), paste0("cell", 1:10))
#' )
#' sce <- SingleCellExperiment::SingleCellExperiment(
#'   assays = list(counts = counts),
#'   colData = S4Vectors::DataFrame(donor = factor(rep(c("d1", "d2"), 5)))
#' )
#' as_anndata(sce)
#' @export
as_anndata <- function(x, ...) {
  UseMethod("as_anndata")
}

#' @rdname as_anndata
#' @export
as_anndata.Seurat <- function(x, assay = NULL, layer = "counts", ...) {
  with_scvibridge_errors(anndata_of(object_parts(x, assay = assay, layer = layer, ...)))
}

#' @rdname as_anndata
#' @export
as_anndata.SummarizedExperiment <- function(x, assay = "counts", ...) {
  with_scvibridge_errors(anndata_of(object_parts(x, assay = assay, ...)))
}

#' @rdname as_anndata
#' @export
as_anndata.matrix <- function(x, cell_data = NULL, gene_data = NULL, ...) {
  with_scvibridge_errors(
    anndata_of(object_parts(x, cell_data = cell_data, gene_data = gene_data, ...))
  )
}

#' @rdname as_anndata
#' @export
as_anndata.Matrix <- as_anndata.matrix

#' @rdname as_anndata
#' @export
as_anndata.DelayedArray <- as_anndata.matrix

#' @export
as_anndata.default <- function(x, ...) {
  check_required("as_anndata(object)")
  with_scvibridge_errors({
    if (is_python_data(x)) {
      check_for_python_data(list(...))
      check_no_more_arguments(list(...), known = "x")
      if (is.character(x)) {
        for (path in x) {
          call_python("check_data_path", list(path = as_python_path(path, "x")))
        }
      }
      python_adata(x, argument = "x")
    } else {
      anndata_of(object_parts(x, ...))
    }
  })
}

# Whether Python can read `x` or already holds it.
is_python_data <- function(x) {
  (is.character(x) && is.null(dim(x))) || inherits(x, "python.builtin.object")
}

# Refuses arguments that are only for objects of R. `given`: those that the caller passed.
check_for_python_data <- function(given, has_layer = FALSE) {
  given <- Filter(Negate(is.null), given)
  known <- c("assay", "assay.type", "layer", "cell_data", "gene_data")
  for (name in names(given)[names(given) %in% known]) {
    stop_scvibridge(
      name, " is only for objects of R, not for a file or an AnnData",
      if (has_layer && startsWith(name, "assay")) ", which has layers: layer = ..."
    )
  }
}

# Matrices on disk with at most this many values, including zeros, are read into memory.
most_values_in_memory <- 1e8

# Returns the raw counts of an object for a model function; `where` holds assay, layer and
# cell_data.
raw_anndata <- function(object, where) {
  anndata_of(do.call(object_parts, c(list(object), where), quote = TRUE))
}

anndata_of <- function(parts) {
  n_values <- as.double(length(parts$genes)) * length(parts$cells)
  if (parts$on_disk && n_values > most_values_in_memory) {
    file <- tempfile("as_anndata", fileext = ".h5ad")
    write_in_blocks(parts, file)
    return(call_python("open_anndata", list(path = file)))
  }
  vectors <- object_vectors(parts)
  vectors$counts <- as_arrays(vectors$counts)
  call_python("assemble_anndata", vectors)
}

# reticulate converts a vector with dimensions to a numpy array instead of a list or a number.
as_arrays <- function(vectors) {
  lapply(vectors, array)
}
