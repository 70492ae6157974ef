#' @rdname normalized_expression
#' @export
denoised_expression <- function(object, ...) {
  UseMethod("denoised_expression")
}

#' @rdname normalized_expression
#' @export
denoised_expression.scvi_model <- function(object, adata = NULL, library_size = "latent",
                                           n_samples = NULL, zero_inflation = FALSE,
                                           gene_list = NULL, indices = NULL, seed = 0,
                                           batch_size = NULL, device = "auto", out = NULL,
                                           overwrite = FALSE, resume = FALSE, progress = TRUE,
                                           ...) {
  arguments <- arguments_of_call("denoised_expression(model)", list(...))
  with_scvibridge_errors(call_on_model("denoised_expression", arguments))
}

#' @rdname normalized_expression
#' @export
denoised_expression.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                        cell_data = NULL) {
  check_required("denoised_expression(model)")
  given <- list(...)
  source <- source_of(assay, layer, cell_data)
  with_scvibridge_errors(add_result("denoised_expression", object, model, given, source))
}
