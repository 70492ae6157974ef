#' Write a report about corrected counts
#'
#' One HTML file to read, print and send: whether the counts may be used and what for, support of
#' the cells, batches before and after, depth, zeros, the fit of the model and markers. What could
#' not be computed is said with what to pass for it. Needs Python's jinja2 and matplotlib.
#'
#' @param result What [corrected_counts()] gave: a SingleCellExperiment, a Seurat object (also from
#'   [as_seurat()]) or a SummarizedExperiment, with the raw counts beside the corrected ones; or the
#'   path of an h5ad file or a zarr folder, written with `out`, which is read block by block.
#' @param out The HTML file to write; `NAME_report.html` beside a result that is a file if `NULL`.
#' @param model A model from [load_scvi()], for what only the model can tell.
#' @param adata The model's data, where it was loaded without them: a path or an AnnData.
#' @param labels_key,condition_key Columns of `obs` with cell types and the condition of interest;
#'   by default those that the result was made with.
#' @param support What [batch_support()] gave.
#' @param calibration What [calibration()] gave; `FALSE` leaves it out where there is a model.
#' @param damage What [damage()] gave.
#' @param title Heading of the page.
#' @param seed Seed of the layouts, a whole number from 0 to 2^32 - 1.
#' @param overwrite Whether `out` may be replaced where it exists.
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
  arguments <- python_arguments(as.list(environment()))
  arguments["result"] <- list(report_source(result, out))
  arguments["adata"] <- list(python_adata(adata, function() model$summary))
  arguments["model"] <- list(if (!is.null(model)) checked_model(model))
  arguments["support"] <- list(report_part(support, "support", "scvi_support"))
  if (!isFALSE(calibration)) {
    arguments["calibration"] <- list(report_part(calibration, "calibration", "scvi_calibration"))
  }
  arguments["damage"] <- list(report_damage(damage))
  reporter <- if (arguments$progress) progress_reporter()
  invisible(call_python("report", arguments, reporter))
}

report_part <- function(value, name, class) {
  if (is.null(value)) {
    return(NULL)
  }
  if (!inherits(value, class)) {
    stop_scvibridge(name, " must be an object of class ", class, ", got ", shown(class(value)))
  }
  held_in_python(value$python, name)
}

report_damage <- function(value) {
  if (!is.null(value)) held_in_python(attr(value, "python"), "damage")
}
