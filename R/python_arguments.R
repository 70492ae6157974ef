# Converts arguments for Python. Checks only what R alone can get wrong (positions from 1, whole
# numbers stored as doubles, vectors of length one that must stay lists). Python checks the values,
# so that both languages raise the same errors.

# NULL is Python's None and needs no conversion; no flag can be NULL.
# `n_cells` is only evaluated if positions are given.
python_arguments <- function(arguments, n_cells) {
  for (name in intersect(names(arguments), names(python_converters))) {
    convert <- python_converters[[name]]
    if (!is.null(arguments[[name]]) || identical(convert, as_flag)) {
      arguments[[name]] <- convert(arguments[[name]], name)
    }
  }
  if (!is.null(arguments$indices)) {
    arguments$indices <- as_python_indices(arguments$indices, n_cells)
  }
  arguments
}

# Drops names and dimensions, which Python would receive as a dictionary or an array.
as_flag <- function(value, name) {
  if (!is.logical(value) || length(value) != 1 || is.na(value)) {
    stop_scvibridge(name, " must be TRUE or FALSE, got ", shown(value))
  }
  value[[1]]
}

as_number_or_string <- function(value, name) {
  if (is_plain_number(value)) {
    return(as.numeric(value))
  }
  if (!is.character(value) && !is.factor(value) || length(value) != 1) {
    stop_scvibridge(name, " must be a single number or string, got ", shown(value))
  }
  as_string(value, name)
}

# Excludes dates, time spans and 64-bit integers, whose class defines what the value means.
is_plain_number <- function(value) {
  is.numeric(value) && length(value) == 1 && !is.object(value)
}

# Strings are passed on: Python's error explains what to do with a batch name given as batch_size.
as_whole_number_or_string <- function(value, name) {
  if (is.character(value) && length(value) == 1) {
    return(value)
  }
  as_whole_number(value, name)
}

as_whole_number <- function(value, name) {
  is_whole <- is_plain_number(value) && is.finite(value) &&
    value == trunc(value) && abs(value) <= 2^53
  if (!is_whole) {
    stop_scvibridge(name, " must be a single whole number, got ", shown(value))
  }
  if (abs(value) <= .Machine$integer.max) {
    return(as.integer(value))
  }
  # Exceeds R's integer range; without `convert = FALSE` it would be converted back to a double.
  reticulate::import_builtins(convert = FALSE)$int(value)
}

# Names of batches. They may be numbers, logical values or dates if the column holds those.
as_python_batches <- function(value, name) {
  if (is.factor(value)) {
    value <- as.character(value)
  }
  if (inherits(value, c("Date", "POSIXt"))) {
    value <- plain_vector(value)
  }
  if (!is.atomic(value) || anyNA(value)) {
    stop_scvibridge(name, " must be one or more names of batches, got ", shown(value))
  }
  if (is.numeric(value) && all(value == trunc(value) & abs(value) <= .Machine$integer.max)) {
    value <- as.integer(value)
  }
  if (length(value) == 1) unname(value) else as.list(unname(value))
}

# Values by covariate: a named list or a named vector.
as_python_covariates <- function(value, name) {
  named <- length(value) > 0 && !is.null(names(value)) && all(nzchar(names(value)))
  if (!named || !(is.list(value) || is.atomic(value))) {
    stop_scvibridge(
      name, " must be a named list of values, one entry for each covariate, such as ",
      "list(donor = \"D1\"), got ", shown(value)
    )
  }
  check_named_once(value, name, "list(donor = c(\"D1\", \"D2\"))")
  # One list per covariate: a dict of lists in Python.
  Map(
    function(given, covariate) {
      as.list(as_python_batches(given, paste0(name, "$", covariate)))
    },
    as.list(value), names(value)
  )
}

# Values of columns (a named list), names of cells, or a logical vector.
as_python_cells_to_estimate_on <- function(value, name) {
  if (is.list(value) && !is.data.frame(value)) {
    named <- length(value) > 0 && !is.null(names(value)) && all(nzchar(names(value)))
    if (!named) {
      stop_scvibridge(
        name, " must be a list of values by the name of their column, e.g. ",
        "list(condition = \"ctrl\"), got ", shown(value)
      )
    }
    check_named_once(value, name, "list(condition = c(\"ctrl\", \"pool\"))")
    return(Map(
      function(given, column) as.list(as_python_batches(given, paste0(name, "$", column))),
      value, names(value)
    ))
  }
  value <- as_selection(value, name)
  if (is.character(value)) {
    return(as_python_names(value, name))
  }
  if (!is.logical(value)) {
    stop_scvibridge(
      name, " must be a list of values of columns, such as list(condition = \"ctrl\"), a logical ",
      "vector or cell names, got ", shown(value)
    )
  }
  check_no_missing(value, name)
  if (is.null(names(value))) array(value) else with_names(value, names(value))
}

# Python would take the last of several entries with the same name.
check_named_once <- function(value, name, example) {
  twice <- unique(names(value)[duplicated(names(value))])
  if (length(twice)) {
    stop_scvibridge(
      name, " has several entries for ", some_of(twice), ": pass all values of a column in one ",
      "entry, such as ", example
    )
  }
}

# Returns a list, since reticulate converts a vector of length one to a single string.
as_python_names <- function(value, name) {
  if (is.factor(value)) {
    value <- as.character(value)
  }
  if (!is.character(value) || anyNA(value)) {
    stop_scvibridge(name, " must be a character vector without NA, got ", shown(value))
  }
  as.list(unname(value))
}

# Names of genes, or a named logical vector in any order.
as_python_genes <- function(value, name) {
  value <- as_selection(value, name)
  if (!is.logical(value)) {
    return(as_python_names(value, name))
  }
  check_no_missing(value, name)
  if (is.null(names(value))) {
    stop_scvibridge(
      name, " is a logical vector without gene names, and the order of genes may differ between ",
      "model and data: pass the names, genes[", name, "]"
    )
  }
  with_names(value, names(value))
}

as_whole_number_or_genes <- function(value, name) {
  if (is_plain_number(value)) as_whole_number(value, name) else as_python_genes(value, name)
}

as_python_path <- function(value, name) {
  path.expand(as_string(value, name))
}

# Theta by gene: a named vector, a table of genes by batches, or the result of scvi_calibration().
as_python_dispersion <- function(value, name) {
  if (inherits(value, "scvi_calibration")) {
    return(held_in_python(value$python, name))
  }
  given <- value
  if (is.numeric(value) && is.null(dim(value))) {
    value <- matrix(value, ncol = 1, dimnames = list(names(value), "theta"))
  }
  # data.matrix() would use the integer codes of factors and text as numbers.
  is_table <- is.data.frame(value) && all(vapply(value, is.numeric, logical(1)))
  values <- if (is_table) data.matrix(value) else value
  if (!is.matrix(values) || !is.numeric(values) || is.null(rownames(values))) {
    stop_scvibridge(
      name, " must be the result of scvi_calibration(), a numeric vector named by gene, ",
      "or a data.frame or matrix of genes (row names) by batches, got ", shown(given)
    )
  }
  batches <- colnames(values)
  if (is.null(batches)) {
    batches <- as.character(seq_len(ncol(values)))
  }
  list(
    genes = as.list(rownames(values)), batches = as.list(batches),
    values = unname(values)
  )
}

# Returns the Python object behind a result; a pointer to it does not survive saveRDS().
held_in_python <- function(pointer, name) {
  if (is.null(pointer) || reticulate::py_is_null_xptr(pointer)) {
    stop_scvibridge(
      name, " is no longer in Python (it was created in another R session, or modified): ",
      "compute it again"
    )
  }
  pointer
}

# Returns the Python model of an object from load_scvi(), train_scvi() or extend_genes().
as_python_model <- function(value, name) {
  if (!inherits(value, "scvi_model")) {
    stop_scvibridge(
      name, " must be a model from load_scvi(), not an object of class ", class(value)[1]
    )
  }
  python_model(value)
}

# For scvi_report(): the Python objects behind results of diagnostics.
as_python_support <- function(value, name) held_result(value, name, "batch_support")

as_python_calibration <- function(value, name) {
  if (isFALSE(value)) FALSE else held_result(value, name, "scvi_calibration")
}

as_python_damage <- function(value, name) held_result(value, name, "scvi_damage")

held_result <- function(value, name, verb) {
  class <- c(batch_support = "scvi_support", scvi_calibration = "scvi_calibration")
  is_result <- if (verb == "scvi_damage") is.data.frame(value) else inherits(value, class[[verb]])
  if (!is_result) {
    stop_scvibridge(
      name, " must be the value of ", verb, "(), not an object of class ", class(value)[1]
    )
  }
  held_in_python(if (verb == "scvi_damage") attr(value, "python") else value$python, name)
}

python_converters <- list(
  model = as_python_model,
  model_dir = as_python_path,
  prefix = as_string,
  trust = as_flag,
  support = as_python_support,
  calibration = as_python_calibration,
  damage = as_python_damage,
  transform_batch = as_python_batches,
  transform_covariates = as_python_covariates,
  gene_list = as_python_genes,
  estimate_on = as_python_cells_to_estimate_on,
  genes_kept = as_python_genes,
  method = as_string,
  effect = as_string,
  labels_key = as_string,
  condition_key = as_string,
  sample_key = as_string,
  batch_key = as_string,
  batch = as_python_batches,
  layer = as_string,
  title = as_string,
  unsupported = as_string,
  dispersion = as_python_dispersion,
  n_references = as_whole_number,
  max_cells = as_whole_number,
  max_epochs = as_whole_number,
  n_epochs_kl_warmup = as_whole_number,
  device = as_string,
  library_size = as_number_or_string,
  shrinkage = as_number_or_string,
  residual = as_string,
  ridge = as_number_or_string,
  categorical_covariate_keys = as_python_names,
  continuous_covariate_keys = as_python_names,
  n_top_genes = as_whole_number_or_genes,
  n_latent = as_whole_number,
  n_layers = as_whole_number,
  gene_likelihood = as_string,
  early_stopping = as_flag,
  save = as_python_path,
  overwrite = as_flag,
  seed = as_whole_number,
  n_samples = as_whole_number,
  batch_size = as_whole_number_or_string,
  out = as_python_path,
  resume = as_flag,
  allow_confounded = as_flag,
  zero_inflation = as_flag,
  normalized = as_flag,
  progress = as_flag
)

# Keeps the names: Python aligns by them.
as_python_indices <- function(indices, n_cells) {
  indices <- as_selection(indices, "indices")
  if (is.character(indices)) {
    return(as_python_names(indices, "indices"))
  }
  if (!is.logical(indices) && !is.numeric(indices) || is.object(indices)) {
    stop_scvibridge(
      "indices must be positions from 1, a logical vector or cell names, got ", shown(indices)
    )
  }
  check_no_missing(indices, "indices")
  if (is.logical(indices)) {
    if (!is.null(names(indices))) {
      return(with_names(indices, names(indices)))
    }
    check_mask(indices, n_cells)
    return(array(which(indices) - 1L))
  }
  as_python_positions(indices, n_cells)
}

# Converts positions, which start at 1 in R and at 0 in Python. An array arrives as a numpy array.
as_python_positions <- function(indices, n_cells) {
  if (any(indices != trunc(indices))) {
    stop_scvibridge(
      "indices must be positions from 1, a logical vector or cell names, got ", shown(indices)
    )
  }
  if (!is.null(names(indices))) {
    if (anyDuplicated(indices)) {
      stop_scvibridge(
        "indices contains repeated numbers: to select cells by a column, compare it with a value, ",
        "e.g. indices = object$cluster == 3"
      )
    }
    # Those of which() increase, and have the names of the cells, perhaps in another order.
    if (is.unsorted(indices)) {
      stop_scvibridge(
        "indices contains numbers with names of cells that do not increase, so they may be ",
        "positions of other cells: pass unname(indices) to select by position, or names(indices)"
      )
    }
    return(as_python_names(names(indices), "indices"))
  }
  outside <- indices[indices < 1 | indices > n_cells]
  if (length(outside)) {
    stop_scvibridge("indices must be between 1 and ", n_cells, ", got ", outside[1])
  }
  array(as.integer(indices) - 1L)
}

# Returns a selection of cells or genes as a vector, with its names if it has any. Also accepts a
# table or matrix of one column, such as object[["cell_type"]] == "B" of a Seurat object, and an
# Rle.
as_selection <- function(value, name) {
  names <- names(value)
  if (is.data.frame(value) || methods::is(value, "DataFrame") || is.matrix(value)) {
    if (ncol(value) != 1) {
      stop_scvibridge(name, " has ", ncol(value), " columns: select one")
    }
    names <- if (has_row_names(value)) rownames(value)
    value <- if (is.matrix(value)) value[, 1] else value[[1]]
  }
  if (methods::is(value, "Rle")) {
    value <- S4Vectors::decode(value)
  }
  if (is.factor(value)) {
    value <- as.character(value)
  }
  is_vector <- is.atomic(value) && length(dim(value)) <= 1
  if (is_vector) stats::setNames(as.vector(value), names) else value
}

check_no_missing <- function(value, name) {
  if (anyNA(value)) {
    which_ones <- names(value)[is.na(value)] %||% which(is.na(value))
    stop_scvibridge(
      name, " is NA for ", sum(is.na(value)), " of ", length(value), " entries: ",
      some_of(which_ones)
    )
  }
}

# In the form that Python's endpoints.with_names() reads.
with_names <- function(values, names) {
  if (anyNA(names) || !all(nzchar(names))) {
    stop_scvibridge(
      "some names of the selection are empty: name every value, or remove the names with unname()"
    )
  }
  list(named = array(values), names = array(names))
}

check_mask <- function(mask, n_cells) {
  if (length(mask) != n_cells) {
    stop_scvibridge(
      "indices, if logical, must have one value for each of the ", n_cells, " cells, got ",
      length(mask), " values"
    )
  }
}
