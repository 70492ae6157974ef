# The functions of both packages have the same arguments, in the same order, with the same defaults.

# The functions of R by those of Python. A generic is compared by its method for models, whose
# first argument `object` is Python's `model`.
python_names <- c(
  batch_support = "batch_support", choose_batch = "choose_batch",
  corrected_counts = "corrected_counts", denoised_expression = "denoised_expression",
  extend_genes = "extend_genes", load_scvi = "load",
  normalized_expression = "normalized_expression", scvi_calibration = "calibration",
  scvi_damage = "damage", scvi_report = "report", train_scvi = "train_scvi"
)

# Functions of R that Python has no use for, or has in scvibridge.r under names of its own.
functions_of_r <- c(
  "add_latent", "as_anndata", "as_sce", "as_seurat", "example_scvi", "install_scvibridge",
  "plot_batch_effect",
  "read_corrected", "scvibridge_available", "scvibridge_status", "write_h5ad"
)

# Python's extended model has a method `save()`. The counts of an R object lie in an assay, and a
# matrix has no table of cells.
arguments_of_r <- list(
  extend_genes = c("save", "overwrite"),
  load_scvi = "isolate",
  scvi_damage = c("assay", "cell_data"),
  train_scvi = c("assay", "isolate")
)

# A client of dask.
arguments_of_python <- list(corrected_counts = "client")

formals_of <- function(name) {
  generic <- get(name, envir = asNamespace("scvibridge"))
  method <- utils::getS3method(name, "scvi_model", optional = TRUE)
  formals <- as.list(formals(if (is.null(method)) generic else method))
  names(formals)[names(formals) == "object"] <- "model"
  formals[setdiff(names(formals), c("...", arguments_of_r[[name]]))]
}

signature_of <- function(name) {
  inspect <- reticulate::import("inspect", convert = FALSE)
  parameters <- inspect$signature(python_scvibridge()[[name]])$parameters
  names <- reticulate::py_to_r(reticulate::import_builtins(convert = FALSE)$list(parameters))
  names <- setdiff(names, arguments_of_python[[name]])
  lapply(stats::setNames(nm = names), function(argument) {
    default <- parameters[[argument]]$default
    is_required <- reticulate::py_to_r(default$`__class__`$`__name__`) == "type"
    if (is_required) quote(expr = ) else reticulate::py_to_r(default)
  })
}

test_that("every exported function is compared with Python's, or has none there", {
  exported <- getNamespaceExports("scvibridge")
  expect_setequal(exported, c(names(python_names), functions_of_r))
})

test_that("arguments have the same names, order and defaults in R and Python", {
  skip_without_python()
  for (name in names(python_names)) {
    ours <- formals_of(name)
    theirs <- signature_of(python_names[[name]])
    expect_identical(names(ours), names(theirs), label = paste("arguments of", name))
    for (argument in intersect(names(ours), names(theirs))) {
      expect_equal(
        ours[[argument]], theirs[[argument]],
        label = paste("default of", argument, "of", name)
      )
    }
  }
})

test_that("the lists of exceptions name what is there", {
  skip_without_python()
  for (name in names(arguments_of_r)) {
    method <- utils::getS3method(name, "scvi_model", optional = TRUE)
    formals <- names(formals(if (is.null(method)) name else method, asNamespace("scvibridge")))
    expect_in(arguments_of_r[[name]], formals)
    expect_false(any(arguments_of_r[[name]] %in% names(signature_of(python_names[[name]]))))
  }
})

test_that("the methods for data have the same arguments", {
  expected <- c("object", "model", "...", "assay", "layer", "cell_data")
  methods <- Filter(
    function(name) !is.null(utils::getS3method(name, "scvi_model", optional = TRUE)),
    names(python_names)
  )
  expect_length(methods, 7)
  for (name in methods) {
    formals <- formals(utils::getS3method(name, "default"))
    expect_identical(names(formals), expected, label = name)
    expect_true(all(vapply(formals[expected[-c(1, 3)]], is.null, logical(1))))
  }
})
