#' Read a result as a SingleCellExperiment
#'
#' Reads a result that was computed in Python, on the command line or with `out =` into memory.
#' [read_corrected()] can leave the matrices on disk. From a Seurat object or another R object, it
#' extracts the result.
#'
#' @param x The path of an h5ad file, a zarr folder or a 10x HDF5 file (.h5) that scvibridge wrote,
#'   an AnnData held by reticulate, or an object with results: a Seurat object, a
#'   SingleCellExperiment (also with the results in the altExp `scvi`) or a SummarizedExperiment.
#' @return A SingleCellExperiment, genes x cells, as described in [corrected_counts()]. A 10x file
#'   only has the corrected counts. Results from a Seurat object have the gene names of the model;
#'   expression values are those of `data` without the log transformation. Sparse matrices are
#'   dgCMatrix objects, or [SparseArray::SVT_SparseMatrix][SparseArray::SVT_SparseArray-class]
#'   objects if they have more nonzero values than a dgCMatrix can hold (2^31 - 1). Other assays,
#'   layers and alternative experiments that are left out are named in a message.
#' @section Errors:
#'   Conditions of class `scvibridge_error` if `x` is not a result of scvibridge.
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' sce <- denoised_expression(model)
#' file <- tempfile(fileext = ".h5ad")
#' on_disk <- denoised_expression(model, out = file)
#' all.equal(as_sce(file), sce)
#' @export
as_sce <- function(x) {
  check_required("as_sce(\"corrected.h5ad\")")
  with_scvibridge_errors({
    if (is.null(x)) {
      stop_scvibridge("x must be a path or an AnnData, not NULL")
    }
    if (is_anndatar(x)) {
      stop_scvibridge(
        "x is an AnnData of anndataR: pass the path of its file to read_corrected(), or convert ",
        "it, x$as_SingleCellExperiment()"
      )
    }
    if (isTRUE(data_kind(x) %in% c("Seurat", "SingleCellExperiment", "SummarizedExperiment"))) {
      found <- sce_of_result(x)
      return(if (length(own_marks(found))) found else with_marks(found))
    }
    adata <- if (is_taken_apart(x)) {
      x
    } else if (is.character(x)) {
      as_python_path(x, "x")
    } else {
      python_adata(x, argument = "x")
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
  })
}

# reticulate returns arrays. A value that no other variable refers to is modified without a copy.
take_assay <- function(assay, genes, cells) {
  if (!call_python("load_assay", list(assay = assay))) {
    values <- assay$take("values")
    dimnames(values) <- list(genes, cells)
    return(values)
  }
  bounds <- unlist(assay$bounds())
  if (length(bounds)) {
    return(long_sparse_matrix(assay, bounds, genes, cells))
  }
  x <- assay$take("data")
  i <- assay$take("indices")
  p <- assay$take("indptr")
  dim(x) <- dim(i) <- dim(p) <- NULL
  sparse_matrix(i, p, x, genes, cells)
}

# Joins blocks of cells to a sparse array of Bioconductor, which can have more than 2^31 - 1 nonzero
# values. Whole numbers are stored as integers, in two thirds of the memory.
long_sparse_matrix <- function(assay, bounds, genes, cells) {
  message(
    "the assay ", assay$name, " has more nonzero values than a dgCMatrix can hold: it is an ",
    "SVT_SparseMatrix (package SparseArray)"
  )
  # Installed with SummarizedExperiment. Loading it defines the conversion.
  loadNamespace("SparseArray")
  blocks <- lapply(seq_along(bounds)[-1], function(last) {
    part <- assay$block(bounds[[last - 1]], bounds[[last]])
    vectors <- lapply(part[c("indices", "indptr", "data")], as_plain_vector)
    chosen <- cells[seq(bounds[[last - 1]] + 1, bounds[[last]])]
    matrix <- sparse_matrix(vectors$indices, vectors$indptr, vectors$data, genes, chosen)
    block <- methods::as(matrix, "SVT_SparseMatrix")
    if (part$whole) SparseArray::`type<-`(block, "integer") else block
  })
  do.call(S4Vectors::cbind, blocks)
}
