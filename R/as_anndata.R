#' Convert an object to an AnnData
#'
#' Gives the raw counts of a Seurat object, a SingleCellExperiment or a matrix to Python: an
#' AnnData, cells x genes, that reticulate holds. The functions of this package take it wherever
#' they take `adata`.
#'
#' A sparse matrix of R, genes x cells, *is* the sparse matrix of cells x genes of Python: its three
#' vectors are handed over as they are. Counts become whole numbers of 32 bits where all of them are
#' such, else numbers of single precision, or of double precision where that would change them.
#'
#' Of the columns of the metadata, factors become categories (with all levels, and their order), and
#' logical, whole, real numbers and texts stay what they are, missing values too. Dates and times
#' become text. Matrices of numbers go to `obsm` or `varm`. Other columns are left out, with a
#' warning that names them. Reductions go to `obsm`: PCA, UMAP and tSNE to `X_pca`, `X_umap` and
#' `X_tsne`, whatever the case of their name, another such as `scvi` to `X_scvi`.
#'
#' @param x A Seurat object (its assay of version 5, split layers included, or 3), a
#'   SingleCellExperiment or SummarizedExperiment, a matrix (dense, of the package Matrix, or a
#'   DelayedMatrix) of genes x cells with the names of both, the path of an h5ad file or a zarr
#'   folder, or an AnnData. The last two are returned as they are; the path is checked.
#' @param assay Seurat: name of the assay with the raw counts; if `NULL` the default assay (where
#'   that is a result of this package, the assay that it was made of; one of SCTransform() is
#'   refused, since its counts are no raw ones). SingleCellExperiment: name or number of the assay.
#' @param layer Name of the layer with the raw counts. Where it was split (`counts.1`, `counts.2`),
#'   its parts are joined, cells in the order of the object, which stays as it is; a gene that a
#'   part lacks has 0 counts there.
#' @param cell_data A data.frame with a row for each cell, whose row names are the column names of
#'   `x`, in any order.
#' @param gene_data A data.frame with a row for each gene, likewise.
#' @param ... For the methods. Nothing else is accepted.
#' @return An AnnData: `X` has the counts, cells x genes (CSR), `obs` and `var` the metadata of
#'   cells and genes, `obsm` the reductions. Counts that lie on disk (DelayedMatrix, HDF5Array,
#'   BPCells) come into memory if there are at most 1e8 values, zeros included; else they are
#'   copied, block by block, to a temporary h5ad file, where `X` stays; the file goes with the R
#'   session. To name one, use [write_h5ad()].
#' @section Errors:
#'   Conditions of class `scvibridge_error` where there is no such assay or layer (those that there
#'   are are named), values are missing, names of cells or genes are missing or duplicated, or
#'   `cell_data` lacks cells.
#' @seealso [write_h5ad()]; [as_sce()], the other way for results.
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
  anndata_of(object_parts(x, assay = assay, layer = layer, ...))
}

#' @rdname as_anndata
#' @export
as_anndata.SummarizedExperiment <- function(x, assay = "counts", ...) {
  anndata_of(object_parts(x, assay = assay, ...))
}

#' @rdname as_anndata
#' @export
as_anndata.matrix <- function(x, cell_data = NULL, gene_data = NULL, ...) {
  anndata_of(object_parts(x, cell_data = cell_data, gene_data = gene_data, ...))
}

#' @rdname as_anndata
#' @export
as_anndata.Matrix <- as_anndata.matrix

#' @rdname as_anndata
#' @export
as_anndata.DelayedArray <- as_anndata.matrix

#' @export
as_anndata.default <- function(x, ...) {
  if (is_python_data(x)) {
    check_no_more_arguments(..., known = "x")
    if (is.character(x)) {
      call_python("check_data_path", list(path = as_python_path(x, "x")))
    }
    return(python_adata(x))
  }
  anndata_of(object_parts(x, ...))
}

# What Python reads or holds already.
is_python_data <- function(x) {
  (is.character(x) && is.null(dim(x))) || inherits(x, "python.builtin.object")
}

# So many values, zeros included, are read into memory where a matrix lies on disk.
most_values_in_memory <- 1e8

# The raw counts of an object for a function of a model; `where` holds assay, layer and cell_data.
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

# reticulate makes an array of numpy, and not a list or a number, of what has a dimension.
as_arrays <- function(vectors) {
  lapply(vectors, array)
}
