#' Diagnostics of a correction
#'
#' `batch_support()` estimates which cells a target batch supports, i.e. for which it has similar
#' cells; for the others, the decoder extrapolates. `choose_batch()` ranks the batches as targets.
#' `scvi_calibration()` tests whether the counts of held-out cells follow the model's likelihood,
#' and refits the inverse dispersions theta. `scvi_damage()` measures what a correction changes
#' where nothing should change: it splits one batch at random into two, trains a model on the
#' two parts, and corrects one of them.
#'
#' @inheritParams corrected_counts
#' @param adata Cells to examine: the path of an h5ad file or a zarr folder, or several (such as one
#'   for each sample); an AnnData held by reticulate; the model's own data if `NULL`. For
#'   `scvi_damage()`, data with raw counts (required), which can also be a Seurat object or other
#'   data that can come first, see [data_first].
#' @param transform_batch The target batch, or several, whose cells are pooled.
#' @param transform_covariates Values of other covariates that define the target, alone or with the
#'   batch: a named list, as in [corrected_counts()].
#' @param labels_key Column of the cells' metadata with cell types, by which the results are
#'   reported.
#' @param condition_key Column of the cells' metadata with the condition of interest.
#' @param indices Cells: positions from 1, a logical vector or names, aligned by name if named, as
#'   in [corrected_counts()]. If `NULL`, all cells; for `scvi_calibration()`, those held out of
#'   training.
#' @param progress Whether to show progress, as [corrected_counts()] does.
#' @return
#' * `batch_support()`: a list of class `scvi_support`: data.frames `cells`, `labels` (by label and
#'   batch), `by_label` and `conditions` (`NULL` without conditions), the strings `summary` and
#'   `confounding`, and `settings`.
#' * `choose_batch()`: a data.frame, one row for each batch, the best target first. `supported` is
#'   `NA` if a batch has too few cells to estimate it.
#' * `scvi_calibration()`: a list of class `scvi_calibration`: data.frames `batches`, `genes`,
#'   `genes_by_batch`, `gains` and `theta` (`NULL` if the model's values fit as well; genes in rows,
#'   one column or one for each batch), the strings `advice` and `summary`, and `settings`; `added`,
#'   the same for the genes that [extend_genes()] added, `NULL` for other models. Pass it to
#'   [corrected_counts()] as `dispersion`.
#' * `scvi_damage()`: a data.frame of figures `before` and `after` the correction, and as `expected`
#'   of a correction that does no harm; its attributes are `by_label`, a data.frame, and `settings`.
#' @inheritSection corrected_counts Errors
#' @seealso [scvi_report()] for all results on one page.
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' support <- batch_support(model, transform_batch = "V3", labels_key = "cell_type")
#' support
#' head(support$cells)
#' choose_batch(model, labels_key = "cell_type")
#' fit <- scvi_calibration(model, n_references = 5)
#' fit$advice
#' @name diagnostics
NULL

#' @rdname diagnostics
#' @export
batch_support <- function(object, ...) {
  UseMethod("batch_support")
}

#' @rdname diagnostics
#' @export
batch_support.scvi_model <- function(object, adata = NULL, transform_batch = NULL,
                                     labels_key = NULL, condition_key = NULL, indices = NULL,
                                     batch_size = NULL, device = "auto", progress = TRUE,
                                     transform_covariates = NULL, ...) {
  arguments <- arguments_of_call("batch_support(model)", list(...))
  with_scvibridge_errors({
    found <- call_with("batch_support", arguments)
    structure(assemble_diagnosis(found), class = "scvi_support")
  })
}

#' @rdname diagnostics
#' @export
batch_support.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                  cell_data = NULL) {
  check_required("batch_support(model)")
  given <- list(...)
  source <- source_of(assay, layer, cell_data)
  with_scvibridge_errors(call_on_data("batch_support", object, model, given, source))
}

#' @exportS3Method print scvi_support
print.scvi_support <- function(x, ...) {
  cat(printable(x$summary), "\n\n", sep = "")
  print(x$labels, ...)
  invisible(x)
}
