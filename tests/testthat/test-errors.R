# Every error of an exported function is a scvibridge_error that names the argument. The arguments
# are those of the functions, so a new function or argument is checked without a change here.

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
    list(NA, "yes", c(TRUE, FALSE), 1, NULL)
  } else if (is.numeric(default)) {
    list(NA_real_, "no_such_value", c(1, 2), -Inf, TRUE)
  } else if (is.character(default)) {
    list(NA_character_, c("auto", "cpu"), "no_such_value", TRUE)
  }
  c(list(mean, new.env(), list(1, 2)), by_type)
}

default_of <- function(name, argument) {
  default <- formals_by_name(name)[[argument]]
  if (identical(default, quote(expr = ))) NULL else eval(default, asNamespace("scvibridge"))
}

# Arguments that accept some of these values.
accepted <- function(name, argument, value) {
  any(
    # Names that are not checked, since any name is valid.
    identical(value, "no_such_value") &&
      argument %in% c("project", "envname", "prefix", "python", "title", "dir"),
    # Python's number of reference data sets, layouts and the like: NULL is the default there.
    FALSE
  )
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

test_that("every exported function is called here", {
  skip_without_python()
  skip_without("Seurat", "SingleCellExperiment", "HDF5Array")
  expect_setequal(functions_and_methods(), names(valid_calls()))
})

test_that("a wrong value of any argument is a scvibridge_error that names the argument", {
  skip_without_python()
  skip_without("Seurat", "SingleCellExperiment", "HDF5Array")
  calls <- valid_calls()
  for (name in names(calls)) {
    for (argument in names(formals_by_name(name))) {
      for (value in wrong_values(default_of(name, argument))) {
        if (!accepted(name, argument, value)) {
          expect_clear_error(name, argument, value, calls[[name]])
        }
      }
    }
  }
})

test_that("a required argument that is missing is named, with a call that has it", {
  skip_without_python()
  skip_without("Seurat", "SingleCellExperiment", "HDF5Array")
  calls <- valid_calls()
  for (name in names(calls)) {
    formals <- formals_by_name(name)
    required <- names(formals)[vapply(formals, identical, logical(1), quote(expr = ))]
    for (argument in required) {
      call <- calls[[name]][intersect(names(formals), names(calls[[name]]))]
      call[[argument]] <- NULL
      # Without an object, the default method is called.
      if (argument != names(formals)[1] || endsWith(name, ".default") || !grepl("[.]", name)) {
        expect_error(
          call_by_name(name, call), paste0("the argument ", argument, " is missing: .*\\("),
          class = "scvibridge_error", label = paste0(name, "() without ", argument)
        )
      }
    }
  }
})

test_that("an argument that does not exist is named", {
  skip_without_python()
  calls <- valid_calls()
  for (name in names(calls)) {
    if ("..." %in% names(formals(get_function(name)))) {
      expect_error(
        call_by_name(name, c(calls[[name]], no_such_argument = 1)),
        "there is no argument no_such_argument", class = "scvibridge_error", label = name
      )
    }
  }
})

test_that("errors of R and other packages get the class and keep the original", {
  original <- simpleError("broken", call = quote(elsewhere(1)))
  found <- tryCatch(with_scvibridge_errors(stop(original)), error = identity)
  expect_identical(
    class(found), c("scvibridge_wrapped_error", "scvibridge_error", "error", "condition")
  )
  expect_identical(conditionMessage(found), "broken")
  expect_identical(conditionCall(found), quote(elsewhere(1)))
  expect_identical(found$parent, original)
  own <- tryCatch(with_scvibridge_errors(stop_scvibridge("own")), error = identity)
  expect_identical(class(own), c("scvibridge_error", "error", "condition"))
  # Errors that are handled inside are not seen.
  expect_identical(with_scvibridge_errors(tryCatch(stop("a"), error = function(e) 1)), 1)
})

test_that("an error inside Seurat gets the class", {
  skip_without("Seurat", "SingleCellExperiment")
  sce <- small_sce()
  SingleCellExperiment::reducedDims(sce) <- list(scvi = matrix("a", ncol(sce), 2))
  found <- tryCatch(suppressMessages(as_seurat(sce)), error = identity)
  expect_s3_class(found, "scvibridge_wrapped_error")
  expect_s3_class(found$parent, "error")
})

test_that("a missing package and an error of Python have a class of their own first", {
  skip_without_python()
  found <- tryCatch(check_requires("no.such.package", "this"), error = identity)
  expect_identical(class(found)[1:2], c("scvibridge_missing_package", "scvibridge_error"))
  found <- tryCatch(load_scvi("no_such_folder"), error = identity)
  expect_identical(class(found)[1:2], c("python.builtin.FileNotFoundError", "scvibridge_error"))
  expect_match(found$python_message, "no_such_folder")
})

test_that("errors in the values that users pass are theirs", {
  found <- tryCatch(as_sce(stop("mine")), error = identity)
  expect_identical(conditionMessage(found), "mine")
  expect_false(inherits(found, "scvibridge_error"))
})
