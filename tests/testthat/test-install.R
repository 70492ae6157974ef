test_that("the Python packages are those of pyproject.toml", {
  file <- file.path(dirname(normalizePath(python_code())), "pyproject.toml")
  skip_if_not(file.exists(file), "pyproject.toml is in the repository only")
  lines <- readLines(file)
  start <- which(lines == "dependencies = [")
  end <- start + which(lines[-seq_len(start)] == "]")[1]
  listed <- gsub("[\", ]", "", lines[seq(start + 1, end - 1)])
  expect_identical(sort(python_requirements), sort(listed))
  expect_true(any(lines == paste0("requires-python = \"", python_version, "\"")))
})

test_that("loading the package starts no Python and respects RETICULATE_PYTHON", {
  code <- "library(scvibridge); cat(reticulate::py_available(initialize = FALSE))"
  run <- function(...) {
    output <- system2(
      file.path(R.home("bin"), "Rscript"), c("-e", shQuote(code)),
      env = c(...), stdout = TRUE, stderr = FALSE
    )
    utils::tail(output, 1)
  }
  libraries <- paste0("R_LIBS=", shQuote(paste(.libPaths(), collapse = ":")))
  expect_identical(run(libraries, "RETICULATE_PYTHON=/nowhere/python"), "FALSE")
  expect_identical(run(libraries, "RETICULATE_PYTHON="), "FALSE")
})

test_that("without Python the error names the remedy", {
  code <- paste(
    "cat(scvibridge::scvibridge_available(), ''); ",
    "tryCatch(scvibridge::load_scvi('x'), error = function(e) cat(conditionMessage(e)))"
  )
  output <- suppressWarnings(system2(
    file.path(R.home("bin"), "Rscript"), c("-e", shQuote(code)),
    env = c(
      paste0("R_LIBS=", shQuote(paste(.libPaths(), collapse = ":"))),
      "RETICULATE_PYTHON=/nowhere/python"
    ),
    stdout = TRUE, stderr = FALSE
  ))
  expect_match(paste(output, collapse = " "), "^FALSE .*install_scvibridge\\(\\)")
})

test_that("an environment that is there is kept, and pip is asked for what pyproject.toml lists", {
  skip_without_python()
  environment <- dirname(dirname(reticulate::py_exe()))
  skip_if_not(reticulate::virtualenv_exists(environment), "Python is in no virtual environment")
  # pip finds everything there; without an index and in a dry run it could do nothing else.
  options_of_pip <- c("--dry-run", "--no-index", "--quiet")
  install <- function(...) {
    capture.output(
      python <- install_scvibridge(environment, pip_options = c(options_of_pip, ...)),
      type = "message"
    )
    python
  }
  expect_identical(normalizePath(install()), normalizePath(reticulate::py_exe()))
  expect_error(install("no-such-package-of-anyone"), "Error installing")
})
