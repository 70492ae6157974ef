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
  code <- c(
    "library(scvibridge)",
    "declared <- any(grepl('scvi-tools', reticulate::py_require()$packages))",
    "cat('\\nfound:', reticulate::py_available(initialize = FALSE), declared, '\\n')"
  )
  found <- function(...) grep("^found:", run_rscript(code, c(...)), value = TRUE)
  expect_identical(found("RETICULATE_PYTHON=/nowhere/python"), "found: FALSE FALSE ")
  # Where there is neither a Python of the user's nor an environment of ours, reticulate is asked.
  none <- paste0("WORKON_HOME=", tempfile())
  expect_identical(found(none, "RETICULATE_PYTHON="), "found: FALSE TRUE ")
  expect_identical(found(none, "RETICULATE_PYTHON=managed"), "found: FALSE TRUE ")
})

test_that("all that is needed is declared to reticulate, unless our environment is there", {
  skip_without_python()
  folder <- tempfile("environments")
  system2(reticulate::py_exe(), c("-m", "venv", "--without-pip", file.path(folder, "r-scvibridge")))
  code <- c(
    "library(scvibridge)",
    "told <- reticulate::py_require()",
    "cat('\\npackages:', all(scvibridge:::python_requirements %in% told$packages), '\\n')",
    "cat('version:', told$python_version, '\\n')",
    "cat('chosen:', scvibridge_status(start = FALSE)$python$path, '\\n')"
  )
  declared <- run_rscript(code, c("RETICULATE_PYTHON=", paste0("WORKON_HOME=", tempfile())))
  expect_identical(
    grep("^[a-z]+:", declared, value = TRUE),
    c("packages: TRUE ", "version: >=3.11 ", "chosen: NA ")
  )
  ours <- run_rscript(code, c("RETICULATE_PYTHON=", paste0("WORKON_HOME=", folder)))
  expect_true("packages: FALSE " %in% ours)
  expect_match(grep("^chosen", ours, value = TRUE), "r-scvibridge/bin/python")
})

test_that("without Python the error names the remedy", {
  output <- run_rscript(
    c(
      "cat(scvibridge::scvibridge_available(), '')",
      "tryCatch(scvibridge::load_scvi('x'), error = function(e) cat(conditionMessage(e)))"
    ),
    "RETICULATE_PYTHON=/nowhere/python"
  )
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

test_that("the build of torch is chosen by the GPUs and fetched from its index", {
  folder <- tempfile("bin")
  dir.create(folder)
  program <- file.path(folder, "nvidia-smi")
  path <- Sys.getenv("PATH")
  on.exit(Sys.setenv(PATH = path))
  Sys.setenv(PATH = paste(folder, path, sep = ":"))
  answer <- function(...) {
    writeLines(c("#!/bin/sh", ...), program)
    Sys.chmod(program, "755")
  }
  answer("echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'")
  expect_identical(nvidia_gpus(), "NVIDIA H100 80GB HBM3")
  expect_message(expect_identical(chosen_torch("auto"), "cuda"), "CUDA.*sees NVIDIA H100")
  answer("echo 'NVIDIA-SMI has failed: no driver'; exit 9")
  expect_message(expect_identical(chosen_torch("auto"), "cpu"), "CPUs.*no NVIDIA GPU")
  expect_message(expect_identical(chosen_torch("cuda"), "cuda"), "as asked for")

  index <- paste0("--extra-index-url=", cpu_index)
  expect_identical(with_torch_index("--quiet", "cpu", "Linux"), c(index, "--quiet"))
  expect_identical(with_torch_index("--quiet", "cuda", "Linux"), "--quiet")
  expect_identical(with_torch_index("--quiet", "cpu", "Darwin"), "--quiet")
  for (own in c("--index-url=x", "--extra-index-url x", "-i x", "-i")) {
    expect_identical(with_torch_index(own, "cpu", "Linux"), own)
  }
})
