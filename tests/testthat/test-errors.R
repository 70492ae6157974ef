# Every error of an exported function is a scvibridge_error that names the argument. The arguments
# are those of the functions, so a new function or argument is checked without a change here.

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
        if (!accepted(argument, value)) {
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
    required <- names(formals)[is_required(formals)]
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
  testthat::local_mocked_bindings(count_assay = function(...) SeuratObject::Cells(1))
  found <- tryCatch(suppressMessages(as_seurat(small_sce())), error = identity)
  expect_s3_class(found, "scvibridge_wrapped_error")
  expect_s3_class(found, "scvibridge_error")
  expect_identical(conditionMessage(found), conditionMessage(found$parent))
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
