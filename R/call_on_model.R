# Runs a model function and returns its result as a SingleCellExperiment: in memory, or with `out`
# from a file whose matrices stay on disk.
sce_from_model <- function(name, object, arguments) {
  check_object_packages("sce")
  model <- python_model(object)
  check_keeps_files(arguments$out, arguments$adata)
  adata <- python_adata(arguments$adata, function() object$summary)
  arguments <- python_arguments(
    arguments[setdiff(names(arguments), "object")],
    n_cells = call_python("count_cells", list(model = model, adata = adata))
  )
  arguments["adata"] <- list(adata)
  arguments <- c(list(model = model), arguments)
  reporter <- if (arguments$progress) progress_reporter()
  if (!is.null(arguments$out)) {
    return(sce_through_file(name, arguments, reporter))
  }
  call_python("check_fits_r", arguments[c("model", "adata", "indices", "gene_list")])
  as_sce(call_python(name, arguments, reporter))
}

sce_through_file <- function(name, arguments, reporter) {
  backed <- !is_zarr(arguments$out)
  if (backed) {
    check_object_packages("backed")
  }
  call_python("run", list(name = name, arguments = arguments), reporter)
  read_corrected(arguments$out, backed = backed)
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
