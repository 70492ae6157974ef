#' @rdname diagnostics
#' @export
choose_batch <- function(object, ...) {
  UseMethod("choose_batch")
}

#' @rdname diagnostics
#' @export
choose_batch.scvi_model <- function(object, adata = NULL, labels_key = NULL, condition_key = NULL,
                                    batch_size = NULL, device = "auto", progress = TRUE, ...) {
  arguments <- arguments_of_call("choose_batch(model)", list(...))
  with_scvibridge_errors(assemble_data_frame(call_with("choose_batch", arguments)$table))
}

#' @rdname diagnostics
#' @export
choose_batch.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                 cell_data = NULL) {
  check_required("choose_batch(model)")
  given <- list(...)
  source <- source_of(assay, layer, cell_data)
  with_scvibridge_errors(call_on_data("choose_batch", object, model, given, source))
}
