#' Normalized and denoised expression
#'
#' Both functions return conditional means from the model's decoder, for plots and rankings. They
#' are smoothed means, not counts: do not pass them to tools that model counts.
#'
#' `normalized_expression()` is the decoder's frequency times one depth, optionally as if all cells
#' came from another batch. `denoised_expression()` is the mean of each cell's counts for its
#' observed batch and, by default, its observed depth. Both use the posterior mean of the latent
#' variables.
#'
#' @inheritParams corrected_counts
#' @param transform_batch Batch to decode as. If several are given, their frequencies are averaged.
#'   Each cell's observed batch if `NULL`.
#' @param transform_covariates Target values for other covariates of the model, a named list such as
#'   `list(donor = "D1", percent_mito = 0.05)`. If several values are given, their frequencies are
#'   averaged.
#' @param library_size Depth: a number; `"latent"` (the model's own library); `"observed"` (the
#'   cell's total); `"median"` (the median total of the target, or of all cells without one);
#'   `"scaled"` (the cell's total times one factor for each batch; requires `transform_batch`).
#' @param n_samples Number of samples from the posterior of the latent variables to average over;
#'   their posterior mean if `NULL`.
#' @param zero_inflation Whether the mean of a ZINB model includes the zero inflation. scvi-tools
#'   leaves it out.
#' @return A SingleCellExperiment, genes x cells: assay `normalized` or `denoised` (dense), assay
#'   `counts` if the data have counts, and the rest as described in [corrected_counts()], also for
#'   `out` (`.h5ad` or `.zarr`). If the data come first, the value is the object with the result
#'   added: see [data_first].
#' @inheritSection corrected_counts Errors
#' @seealso [corrected_counts()] for counts; [as_seurat()].
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' expression <- normalized_expression(model, transform_batch = "V3")
#' denoised <- denoised_expression(model)
#' @export
normalized_expression <- function(object, ...) {
  UseMethod("normalized_expression")
}

#' @rdname normalized_expression
#' @export
normalized_expression.scvi_model <- function(object, adata = NULL, transform_batch = NULL,
                                             transform_covariates = NULL, library_size = 1e4,
                                             n_samples = NULL, zero_inflation = FALSE,
                                             gene_list = NULL, indices = NULL, seed = 0,
                                             batch_size = NULL,
                                             device = "auto", out = NULL, overwrite = FALSE,
                                             resume = FALSE, progress = TRUE, ...) {
  arguments <- arguments_of_call("normalized_expression(model)", list(...))
  with_scvibridge_errors(call_on_model("normalized_expression", arguments))
}

#' @rdname normalized_expression
#' @export
normalized_expression.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                          cell_data = NULL) {
  check_required("normalized_expression(model)")
  given <- list(...)
  source <- source_of(assay, layer, cell_data)
  with_scvibridge_errors(add_result("normalized_expression", object, model, given, source))
}
