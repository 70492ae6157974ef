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
