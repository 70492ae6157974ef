#' Diagnostics of a correction
#'
#' `batch_support()` estimates which cells a target batch supports, i.e. for which it has similar
#' cells; for the others, the decoder extrapolates. `choose_batch()` ranks the batches as targets.
#' `calibration()` tests whether the counts of held-out cells follow the model's likelihood, and
#' refits the inverse dispersions theta. `damage()` measures what a correction changes where nothing
#' should change: it splits one batch at random into two, trains a model on the two parts, and
#' corrects one of them.
#'
#' @inheritParams corrected_counts
#' @param adata Cells to examine: the path of an h5ad file or a zarr folder, or an AnnData held by
#'   reticulate; the model's own data if `NULL`. For `damage()`, data with raw counts (required),
#'   which can also be a Seurat object or other data that can come first, see [data_first].
#' @param transform_batch The target batch, or several, whose cells are pooled.
#' @param transform_covariates Values of other covariates that define the target, alone or with the
#'   batch: a named list, as in [corrected_counts()].
#' @param labels_key Column of `obs` with cell types, by which the results are reported.
#' @param condition_key Column of `obs` with the condition of interest.
#' @param indices Cells: positions from 1, a logical vector or names, aligned by name if named, as
#'   in [corrected_counts()]. If `NULL`, all cells; for `calibration()`, those held out of training.
#' @param progress Whether to show progress, as [corrected_counts()] does.
#' @return
#' * `batch_support()`: a list of class `scvi_support`: data.frames `cells`, `labels` (by label and
#'   batch), `by_label` and `conditions` (`NULL` without conditions), the strings `summary` and
#'   `confounding`, and `settings`.
#' * `choose_batch()`: a data.frame, one row for each batch, the best target first. `supported` is
#'   `NA` if a batch has too few cells to estimate it.
#' * `calibration()`: a list of class `scvi_calibration`: data.frames `batches`, `genes`,
#'   `genes_by_batch`, `gains` and `theta` (`NULL` if the model's values fit as well; genes in rows,
#'   one column or one for each batch), the strings `advice` and `summary`, and `settings`; `added`,
#'   the same for the genes that [extend_genes()] added, `NULL` for other models. Pass it to
#'   [corrected_counts()] as `dispersion`.
#' * `damage()`: a data.frame of figures `before` and `after` the correction, and as `expected` of a
#'   correction that does no harm; its attributes are `by_label`, a data.frame, and `settings`.
#' @inheritSection corrected_counts Errors
#' @seealso [scvi_report()] for all results on one page.
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' support <- batch_support(model, transform_batch = "V3", labels_key = "cell_type")
#' support
#' head(support$cells)
#' choose_batch(model, labels_key = "cell_type")
#' fit <- calibration(model, n_references = 5)
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

#' @rdname diagnostics
#' @param n_references Number of reference data sets sampled from the model, 5 or more.
#' @param max_cells Maximum number of cells to use from each batch.
#' @export
calibration <- function(object, ...) {
  UseMethod("calibration")
}

#' @rdname diagnostics
#' @export
calibration.scvi_model <- function(object, adata = NULL, indices = NULL, n_references = 20,
                                   seed = 0, max_cells = 2000, batch_size = NULL, device = "auto",
                                   progress = TRUE, ...) {
  arguments <- as.list(environment())
  check_no_more_arguments(..., known = names(arguments))
  assemble_calibration(diagnose("calibration", object, arguments))
}

#' @rdname diagnostics
#' @export
calibration.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                cell_data = NULL) {
  source <- source_of(assay, layer, cell_data)
  diagnose_data("calibration", object, model, list(...), source)
}

#' @rdname diagnostics
#' @param batch_key Column of `obs` with the batches.
#' @param batch The batch to split; the batch with the most cells if `NULL`.
#' @param model A model from [load_scvi()], if the data come first. For `damage()`, the new model
#'   uses its genes, layer and architecture.
#' @param assay If the data come first, the assay with the raw counts: if `NULL`, the default assay
#'   for Seurat, otherwise `counts`.
#' @param layer Layer with the raw counts: of a Seurat object (`counts` if `NULL`) or, for
#'   `damage()`, of an AnnData or a file (`X` if `NULL`).
#' @param max_epochs Number of training epochs; the default of scvi-tools if `NULL`.
#' @export
damage <- function(adata, batch_key, labels_key = NULL, batch = NULL, model = NULL, layer = NULL,
                   max_epochs = NULL, method = "quantile", effect = NULL, library_size = NULL,
                   seed = 0, device = "auto", progress = TRUE, assay = NULL, cell_data = NULL) {
  given <- as.list(environment())
  arguments <- python_arguments(given[setdiff(names(given), c("assay", "cell_data"))])
  arguments["model"] <- list(if (!is.null(model)) checked_model(model))
  if (is.na(data_kind(adata))) {
    arguments["adata"] <- list(python_adata(adata))
  } else {
    source <- source_of(assay, layer, cell_data)
    arguments$adata <- if (is.null(model)) {
      check_names_raw(adata, source)
      anndata_of(parts_of_data(adata, source))
    } else {
      data_for_model(adata, model, source)$adata
    }
    arguments["layer"] <- list(NULL)
  }
  found <- call_python("damage", arguments, if (arguments$progress) progress_reporter())
  structure(
    assemble_data_frame(found$table),
    by_label = assemble_data_frame(found$by_label),
    settings = assemble_nested(found$settings),
    python = found$python
  )
}

diagnose <- function(name, object, arguments) {
  model <- checked_model(object)
  adata <- python_adata(arguments$adata, function() object$summary)
  arguments <- python_arguments(
    arguments[setdiff(names(arguments), "object")],
    n_cells = call_python("count_cells", list(model = model, adata = adata))
  )
  arguments["adata"] <- list(adata)
  reporter <- if (arguments$progress) progress_reporter()
  call_python(name, c(list(model = model), arguments), reporter)
}

checked_model <- function(model) {
  if (!inherits(model, "scvi_model")) {
    stop_scvibridge("a model from load_scvi() is needed, got an object of class ", class(model)[1])
  }
  python_model(model)
}

assemble_diagnosis <- function(found) {
  parts <- lapply(found$fields, function(part) {
    switch(part$kind,
      table = assemble_data_frame(part),
      calibration = assemble_calibration(part$value),
      assemble_nested(part$value)
    )
  })
  if (is.character(parts$advice)) {
    parts$advice <- in_words_of_r(parts$advice)
  }
  c(parts, list(summary = in_words_of_r(found$summary), python = found$python))
}

assemble_calibration <- function(found) {
  structure(assemble_diagnosis(found), class = "scvi_calibration")
}

# Converts a pandas table to a data.frame without changing its column names.
assemble_data_frame <- function(part) {
  rows <- as_text(part$rows)
  structure(
    stats::setNames(lapply(part$columns, assemble_column), part_names(part$columns)),
    row.names = if (length(rows)) rows else seq_len(part$n_rows),
    class = "data.frame"
  )
}

#' @exportS3Method print scvi_support
print.scvi_support <- function(x, ...) {
  cat(printable(x$summary), "\n\n", sep = "")
  print(x$labels, ...)
  invisible(x)
}

#' @exportS3Method print scvi_calibration
print.scvi_calibration <- function(x, ...) {
  cat(printable(x$summary), "\n", sep = "")
  invisible(x)
}
