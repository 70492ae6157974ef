#' Write a report about corrected counts
#'
#' Writes one HTML file to read, print and send: whether the counts can be used and for what,
#' support of the cells, batches before and after correction, depth, zeros, the fit of the model,
#' and markers. For anything that could not be computed, the report says which argument is needed.
#' Requires the Python packages jinja2 and matplotlib.
#'
#' @param result The value of [corrected_counts()]: a SingleCellExperiment, a Seurat object (also
#'   from [as_seurat()]) or a SummarizedExperiment, with both raw and corrected counts; or the path
#'   of an h5ad file or a zarr folder, written with `out`, which is read block by block.
#' @param out The HTML file to write. If `NULL` and the result is a file, `NAME_report.html` in the
#'   same folder.
#' @param model A model from [load_scvi()], for the sections that require one.
#' @param adata The model's data, if it was loaded without them: a path, several, or an AnnData.
#' @param labels_key,condition_key Columns of the cells' metadata with cell types and the condition
#'   of interest; by default those used to compute the result.
#' @param support The value of [batch_support()].
#' @param calibration The value of [scvi_calibration()]; `FALSE` leaves it out even if there is a
#'   model.
#' @param damage The value of [scvi_damage()].
#' @param title Heading of the page.
#' @param seed Random seed for the layouts and the shuffled batches, a whole number from 0 to
#'   2^32 - 1. The same result and seed produce the same file.
#' @param overwrite Whether to replace `out` if it exists.
#' @param progress Whether to show progress, as [corrected_counts()] does.
#' @return The path of the file, invisibly.
#' @inheritSection corrected_counts Errors
#' @seealso [diagnostics]
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' counts <- corrected_counts(model, transform_batch = "V3", labels_key = "cell_type")
#' if (reticulate::py_module_available("jinja2")) {
#'   scvi_report(counts, tempfile(fileext = ".html"))
#' }
#' @export
scvi_report <- function(result, out = NULL, model = NULL, adata = NULL, labels_key = NULL,
                        condition_key = NULL, support = NULL, calibration = NULL, damage = NULL,
                        title = NULL, seed = 0, overwrite = FALSE, progress = TRUE) {
  arguments <- arguments_of_call("scvi_report(result, \"report.html\")")
  invisible(with_scvibridge_errors(
    call_with("report", arguments, result = report_source(result, out))
  ))
}
