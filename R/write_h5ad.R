#' Write an object to an h5ad file
#'
#' Writes what [as_anndata()] gives of an object. Counts that lie on disk (a DelayedMatrix,
#' HDF5Array, BPCells, or a result of [read_corrected()] with `backed = TRUE`) are read and written
#' block by block of cells, so that memory does not grow with their number; they are read twice,
#' since the file has to know how many values there will be.
#'
#' An h5ad file has no text with missing values: such columns become categories. Dates become text,
#' with a warning; what cannot be stored is refused by name before anything is written.
#'
#' @param x A Seurat object, SingleCellExperiment, matrix or AnnData, as [as_anndata()] takes it; a
#'   path is that of an h5ad file or a zarr folder to be written anew.
#' @param path The file to write, which ends in `.h5ad`. It is written under a temporary name and
#'   renamed when it is complete.
#' @param ... What [as_anndata()] takes for `x`, such as `assay`, `layer` or `cell_data`.
#' @param overwrite Whether a file of that name may be replaced.
#' @param progress Whether to show progress, as [corrected_counts()] does.
#' @return The path of the file, invisibly. [load_scvi()] and all functions with an argument `adata`
#'   take it.
#' @section Errors:
#'   As for [as_anndata()]; where the file exists and `overwrite = FALSE`, is one that `x` lies in,
#'   has another ending, or its folder is not there or cannot be written to.
#' @examplesIf scvibridge::scvibridge_available()
#' counts <- matrix(rpois(60, 2), 6, 10,
#'   dimnames = list(paste0("gene", 1:6), paste0("cell", 1:10))
#' )
#' donors <- data.frame(donor = rep(c("d1", "d2"), 5), row.names = colnames(counts))
#' write_h5ad(counts, tempfile(fileext = ".h5ad"), cell_data = donors)
#' @export
write_h5ad <- function(x, path, ..., overwrite = FALSE, progress = TRUE) {
  path <- as_python_path(path, "path")
  overwrite <- as_flag(overwrite, "overwrite")
  progress <- as_flag(progress, "progress")
  call_python("check_new_h5ad", list(
    path = path, overwrite = overwrite, sources = as.list(files_of_object(x))
  ))
  if (is_python_data(x)) {
    check_no_more_arguments(..., known = c("overwrite", "progress"))
    call_python("write_anndata", list(
      adata = python_adata(x), path = path, overwrite = overwrite
    ))
    return(invisible(path))
  }
  parts <- object_parts(x, ...)
  if (parts$on_disk) {
    write_in_blocks(parts, path, progress, overwrite)
  } else {
    call_python("write_anndata", list(
      adata = anndata_of(parts), path = path, overwrite = overwrite
    ))
  }
  invisible(path)
}

write_in_blocks <- function(parts, path, progress = TRUE, overwrite = FALSE) {
  # Python counts positions from 0, and leaves `stop` out.
  read <- function(start, stop) as_arrays(csr_vectors(parts$read(seq.int(start + 1, stop))))
  arguments <- list(
    tables = python_tables(parts), read = read, path = path, progress = progress,
    overwrite = overwrite,
    block_size = max(1L, as.integer(values_in_block / max(1, length(parts$genes))))
  )
  call_python("write_blocks", arguments, if (progress) progress_reporter())
}

# So many values, zeros included, are read at once: 80 MB where they are dense.
values_in_block <- 1e7
