#' Write an object to an h5ad file
#'
#' Writes an object as converted by [as_anndata()]. Counts on disk (a DelayedMatrix, HDF5Array,
#' BPCells, or a result of [read_corrected()] with `backed = TRUE`) are read and written in blocks
#' of cells, so that memory use does not grow with their number. They are read twice, since the
#' number of values has to be known before writing.
#'
#' An object that is a result ([corrected_counts()], [normalized_expression()],
#' [denoised_expression()], also after [as_seurat()]) is written completely if neither `assay` nor
#' `layer` is given: the result as `X`, the raw counts as layer `raw_counts`, its other assays as
#' layers, and how it was computed. [read_corrected()], [scvi_report()] and Python can read such a
#' file. If another assay than `counts` was corrected, its counts are the raw counts, and the assay
#' `counts` becomes the layer `other_counts`, with a message. If the results do not have all genes
#' and cells of the object, only the raw counts of all are written, with a message.
#'
#' Assays, layers and alternative experiments that are not written are named in a message, unless
#' `assay` or `layer` selects the counts.
#'
#' Values keep their precision: counts are whole numbers, the expression that scvibridge computed is
#' in single precision, and any other assay is in double precision unless single precision is exact.
#'
#' An h5ad file cannot store text with missing values: such columns become categories. Dates become
#' text, with a warning; an error names columns that cannot be stored, before anything is written.
#'
#' @param x A Seurat object, SingleCellExperiment, matrix or AnnData, as accepted by [as_anndata()];
#'   a path is that of an h5ad file or a zarr folder to be rewritten.
#' @param path The file to write, which ends in `.h5ad`. It is written under a temporary name and
#'   renamed when it is complete.
#' @param ... Arguments of [as_anndata()] for `x`, such as `assay`, `layer` or `cell_data`.
#' @param overwrite Whether to replace an existing file.
#' @param progress Whether to show progress, as [corrected_counts()] does.
#' @return The path of the file, invisibly. [load_scvi()] and all functions with an argument `adata`
#'   accept it.
#' @section Errors:
#'   As for [as_anndata()]; also if the file exists and `overwrite = FALSE`, contains data of `x`,
#'   or has another extension, or if its folder does not exist or is not writable. For a result also
#'   if it has an assay `raw_counts` besides `counts`, or was joined by `cbind()` from results with
#'   other settings.
#' @examplesIf scvibridge::scvibridge_available()
#' counts <- matrix(rpois(60, 2), 6, 10,
#'   dimnames = list(paste0("gene", 1:6), paste0("cell", 1:10))
#' )
#' donors <- data.frame(donor = rep(c("d1", "d2"), 5), row.names = colnames(counts))
#' write_h5ad(counts, tempfile(fileext = ".h5ad"), cell_data = donors)
#' @export
write_h5ad <- function(x, path, ..., overwrite = FALSE, progress = TRUE) {
  check_required("write_h5ad(object, \"data.h5ad\")")
  with_scvibridge_errors({
    path <- as_python_path(path, "path")
    overwrite <- as_flag(overwrite, "overwrite")
    progress <- as_flag(progress, "progress")
    call_python("check_new_h5ad", list(
      path = path, overwrite = overwrite, sources = as.list(files_of_object(x))
    ))
    if (is_python_data(x)) {
      check_for_python_data(list(...))
      check_no_more_arguments(list(...), known = c("overwrite", "progress"))
      if (inherits(x, mudata_class)) {
        stop_scvibridge(
          "x is a MuData, which an h5ad file cannot hold: pass one of its modalities, such as ",
          "x[\"rna\"], or write all of it with x$write_h5mu()"
        )
      }
      if (is.character(x)) {
        x <- as_python_path(x, "x") # a single one: those of several are joined where they are used
      }
      call_python("write_anndata", list(
        adata = python_adata(x, argument = "x"), path = path, overwrite = overwrite
      ))
      return(invisible(path))
    }
    if (...length() == 0 && writes_whole_result(x)) {
      write_result(result_pieces(x), path, progress, overwrite)
      return(invisible(path))
    }
    parts <- if (...length() > 0) object_parts(x, ...) else default_parts(x)
    if (...length() == 0) {
      announce_left_out_of_counts(x, parts$origin)
    }
    if (parts$on_disk) {
      write_in_blocks(parts, path, progress, overwrite)
    } else {
      call_python("write_anndata", list(
        adata = anndata_of(parts), path = path, overwrite = overwrite
      ))
    }
    invisible(path)
  })
}

# Also reports what is left out if the result has other genes than the object.
writes_whole_result <- function(x) {
  if (!is_result_object(x)) {
    return(FALSE)
  }
  if (!inherits(x, "Seurat")) {
    check_one_record(x)
  }
  if (is_whole_result(x)) {
    if (length(results_beside_own(x))) {
      message(
        "the results in the alternative experiment scvi, which have other genes, are left out: ",
        "write_h5ad(altExp(x, \"scvi\"), path) writes them"
      )
    }
    return(TRUE)
  }
  message(
    "the raw counts of all genes and cells are written, and the results, which have others, are ",
    "left out: write_h5ad(as_sce(x), path) writes them"
  )
  FALSE
}

results_beside_own <- function(x) {
  if (!inherits(x, "Seurat")) results_beside(x)
}

# The record of results that were removed since does not count.
is_result_object <- function(x) {
  kind <- data_kind(x)
  if (!isTRUE(kind %in% c("Seurat", "SingleCellExperiment", "SummarizedExperiment"))) {
    return(FALSE)
  }
  held <- if (kind == "Seurat") {
    present <- names(own_seurat_assays)[own_seurat_assays %in% names(x@assays)]
    intersect(present, names(results_of(x)))
  } else {
    c(names(own_results(x)), names(results_beside(x)))
  }
  any(result_assay_names %in% held)
}

# With the results of an object, the raw counts are those that they were computed from.
default_parts <- function(x) {
  if (!is_result_object(x)) {
    return(object_parts(x))
  }
  if (!inherits(x, "Seurat")) {
    return(object_parts(x, assay = raw_counts_assay(x)))
  }
  origin <- origin_of_results(x)
  if (is.null(origin)) object_parts(x) else parts_of_origin(x, origin)
}

write_in_blocks <- function(parts, path, progress = TRUE, overwrite = FALSE) {
  read <- function(cells) list(X = as_arrays(csr_vectors(parts$read(cells))))
  write_blocks(python_tables(parts), read, path, progress, overwrite)
}

write_result <- function(pieces, path, progress, overwrite) {
  read <- function(cells) lapply(pieces$matrices, function(matrix) python_matrix_of(matrix(cells)))
  write_blocks(result_tables(pieces), read, path, progress, overwrite, pieces$provenance)
}

# Vectors become numpy arrays; a dense matrix already is one.
python_matrix_of <- function(part) {
  if (is.null(part$values)) as_arrays(part) else part
}

# `read` returns the matrices of cells, by position.
write_blocks <- function(tables, read, path, progress, overwrite, provenance = NULL) {
  # Python counts positions from 0 and excludes `stop`.
  read_between <- function(start, stop) read(seq.int(start + 1, stop))
  arguments <- list(
    tables = tables, read = read_between, path = path, progress = progress,
    block_size = max(1L, as.integer(values_in_block / max(1, length(tables$genes)))),
    provenance = provenance, overwrite = overwrite
  )
  call_python("write_blocks", arguments, if (progress) progress_reporter())
}

# Number of values, including zeros, that are read at once: 80 MB if they are dense.
values_in_block <- 1e7
