# The one way from the arguments of an exported function to the call in Python.

# Calls a Python function with the arguments of an exported function, converted for Python. Those in
# `...` are computed in R, from data, and replace others of the same name; they are only evaluated
# after all others have been checked, since converting data can take long.
call_with <- function(name, arguments, ..., isolate = is_isolating()) {
  arguments <- converted_arguments(arguments, ...)
  call_python(name, arguments, reporter_of(arguments), isolate)
}

# `object` is the model of the methods for models. `adata` is converted as the model reads its
# counts, `indices` by the number of cells in `adata`.
converted_arguments <- function(arguments, ...) {
  names(arguments)[names(arguments) == "object"] <- "model"
  model <- arguments[["model"]]
  indices <- arguments[["indices"]]
  computed <- ...names()
  given <- python_arguments(arguments[setdiff(names(arguments), c("indices", computed))])
  if ("adata" %in% setdiff(names(arguments), computed)) {
    check_keeps_files(given[["out"]], given$adata)
    given["adata"] <- list(python_adata(given$adata, function() model$summary))
  }
  given[computed] <- list(...)
  if ("indices" %in% names(arguments)) {
    n_cells <- function() call_python("count_cells", given[c("model", "adata")])
    given["indices"] <- list(if (!is.null(indices)) as_python_indices(indices, n_cells()))
  }
  given
}

reporter_of <- function(arguments) {
  if (isTRUE(arguments$progress)) progress_reporter()
}

# Calls a function that returns one value for each cell and gene, and returns its result as a
# SingleCellExperiment: in memory, or with `out` from a file whose matrices stay on disk.
call_on_model <- function(name, arguments) {
  check_object_packages("sce")
  arguments <- converted_arguments(arguments)
  if (!is.null(arguments$out)) {
    return(call_to_file(name, arguments))
  }
  as_sce(call_python(name, arguments, reporter_of(arguments)))
}

call_to_file <- function(name, arguments) {
  backed <- !is_zarr(arguments$out)
  if (backed) {
    check_object_packages("backed")
  }
  call_python("run", list(name = name, arguments = arguments), reporter_of(arguments))
  read_corrected(arguments$out, backed = backed)
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
