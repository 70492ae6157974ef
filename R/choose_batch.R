#' @rdname diagnostics
#' @export
choose_batch <- function(object, ...) {
  UseMethod("choose_batch")
}

#' @rdname diagnostics
#' @export
choose_batch.scvi_model <- function(object, adata = NULL, labels_key = NULL, condition_key = NULL,
                                    batch_size = NULL, device = "auto", progress = TRUE, ...) {
  arguments <- as.list(environment())
  check_no_more_arguments(..., known = names(arguments))
  found <- diagnose("choose_batch", object, arguments)
  assemble_data_frame(found$table)
}

#' @rdname diagnostics
#' @export
choose_batch.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                 cell_data = NULL) {
  source <- source_of(assay, layer, cell_data)
  diagnose_data("choose_batch", object, model, list(...), source)
}
