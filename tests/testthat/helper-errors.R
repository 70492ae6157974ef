# Wrong values for every argument of every exported function, for test-errors.R.

# lintr does not see what helper.R defines.
# nolint start: object_usage_linter.

# A call of each function or method, with valid values of the arguments that it requires.
valid_calls <- function() {
  model <- example_model()
  data <- example_data()
  object <- SingleCellExperiment::SingleCellExperiment(
    list(counts = data$counts),
    colData = data$cells
  )
  seurat <- SeuratObject::CreateSeuratObject(data$counts, meta.data = data$cells)
  files <- example_files()
  of_model <- function(...) list(object = model, ...)
  of_data <- function(...) list(object = object, model = model, ...)
  list(
    add_latent = of_data(),
    as_anndata.Seurat = list(x = seurat),
    as_anndata.SummarizedExperiment = list(x = object),
    as_anndata.matrix = list(x = as.matrix(data$counts)),
    as_anndata.Matrix = list(x = data$counts),
    as_anndata.DelayedArray = list(x = DelayedArray::DelayedArray(data$counts)),
    as_anndata.default = list(x = files$adata),
    as_sce = list(x = files$adata),
    as_seurat = list(sce = object),
    batch_support.scvi_model = of_model(transform_batch = "V3"),
    batch_support.default = of_data(transform_batch = "V3"),
    choose_batch.scvi_model = of_model(),
    choose_batch.default = of_data(),
    corrected_counts.scvi_model = of_model(transform_batch = "V3"),
    corrected_counts.default = of_data(transform_batch = "V3"),
    denoised_expression.scvi_model = of_model(),
    denoised_expression.default = of_data(),
    example_scvi = list(),
    extend_genes.scvi_model = of_model(adata = object),
    extend_genes.default = of_data(),
    install_scvibridge = list(envname = tempfile()),
    load_scvi = list(model_dir = files$model, adata = files$adata),
    normalized_expression.scvi_model = of_model(),
    normalized_expression.default = of_data(),
    plot_batch_effect = list(result = example_corrected()),
    read_corrected = list(path = files$adata),
    scvi_calibration.scvi_model = of_model(),
    scvi_calibration.default = of_data(),
    scvi_damage = list(adata = object, batch_key = "batch"),
    scvi_report = list(result = example_corrected(), out = tempfile(fileext = ".html")),
    scvibridge_available = list(),
    scvibridge_status = list(),
    train_scvi = list(adata = object, batch_key = "batch"),
    write_h5ad = list(x = object, path = tempfile(fileext = ".h5ad"))
  )
}

# The exported functions by name; of a generic, its methods.
functions_and_methods <- function() {
  namespace <- asNamespace("scvibridge")
  registered <- names(namespace[[".__S3MethodsTable__."]])
  exported <- setdiff(getNamespaceExports("scvibridge"), registered)
  found <- lapply(exported, function(name) {
    methods <- grep(paste0("^", name, "[.]"), registered, value = TRUE)
    if (length(methods)) methods else name
  })
  unlist(found)
}

formals_by_name <- function(name) {
  found <- formals(get_function(name))
  found[setdiff(names(found), "...")]
}

get_function <- function(name) {
  namespace <- asNamespace("scvibridge")
  get0(name, namespace) %||% namespace[[".__S3MethodsTable__."]][[name]]
}

# Called by the name of the generic, as a user does.
call_by_name <- function(name, arguments) {
  exported <- getNamespaceExports("scvibridge")
  generic <- exported[startsWith(paste0(name, "."), paste0(exported, "."))][[1]]
  suppressMessages(suppressWarnings(do.call(get(generic), arguments, quote = TRUE)))
}

# Values of the wrong type for an argument with this default.
wrong_values <- function(default) {
  by_type <- if (is.logical(default)) {
    list(NA, "yes", NULL)
  } else if (is.numeric(default)) {
    list(NA_real_, "no_such_value", c(1, 2))
  } else if (is.character(default)) {
    list(NA_character_, c("auto", "cpu"), "no_such_value")
  }
  c(list(mean, list(1, 2)), by_type)
}

is_required <- function(formals) vapply(formals, identical, logical(1), quote(expr = ))

default_of <- function(name, argument) {
  formals <- formals_by_name(name)
  if (is_required(formals[argument])) NULL else eval(formals[[argument]], asNamespace("scvibridge"))
}

# Arguments for which any string is valid, or any strings.
accepted <- function(argument, value) {
  any_string <- c("dir", "envname", "layer", "project")
  (identical(value, "no_such_value") && argument %in% any_string) ||
    (is.character(value) && !anyNA(value) && argument == "pip_options")
}

expect_clear_error <- function(name, argument, value, call) {
  call[argument] <- list(value)
  found <- tryCatch(call_by_name(name, call), error = identity)
  about <- paste0(name, "(", argument, " = ", shown(value), ")")
  expect_s3_class(found, "scvibridge_error")
  expect_false(inherits(found, "scvibridge_wrapped_error"), label = about)
  if (inherits(found, "error")) {
    expect_match(conditionMessage(found), paste0("\\b", argument, "\\b"), label = about)
  }
}
# nolint end
