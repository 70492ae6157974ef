#' @rdname diagnostics
#' @param n_references Number of reference data sets sampled from the model, 5 or more.
#' @param max_cells Maximum number of cells to use from each batch.
#' @export
scvi_calibration <- function(object, ...) {
  UseMethod("scvi_calibration")
}

#' @rdname diagnostics
#' @export
scvi_calibration.scvi_model <- function(object, adata = NULL, indices = NULL, n_references = 20,
                                        seed = 0, max_cells = 2000, batch_size = NULL,
                                        device = "auto", progress = TRUE, ...) {
  arguments <- arguments_of_call("scvi_calibration(model)", list(...))
  with_scvibridge_errors(assemble_calibration(call_with("calibration", arguments)))
}

#' @rdname diagnostics
#' @export
scvi_calibration.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                     cell_data = NULL) {
  check_required("scvi_calibration(model)")
  given <- list(...)
  source <- source_of(assay, layer, cell_data)
  with_scvibridge_errors(call_on_data("scvi_calibration", object, model, given, source))
}

assemble_calibration <- function(found) {
  structure(assemble_diagnosis(found), class = "scvi_calibration")
}

#' @exportS3Method print scvi_calibration
print.scvi_calibration <- function(x, ...) {
  cat(printable(x$summary), "\n", sep = "")
  invisible(x)
}
