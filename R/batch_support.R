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
  arguments <- as.list(environment())
  check_no_more_arguments(..., known = names(arguments))
  found <- diagnose("batch_support", object, arguments)
  structure(assemble_diagnosis(found), class = "scvi_support")
}

#' @rdname diagnostics
#' @export
batch_support.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                  cell_data = NULL) {
  source <- source_of(assay, layer, cell_data)
  diagnose_data("batch_support", object, model, list(...), source)
}

#' @exportS3Method print scvi_support
print.scvi_support <- function(x, ...) {
  cat(printable(x$summary), "\n\n", sep = "")
  print(x$labels, ...)
  invisible(x)
}
