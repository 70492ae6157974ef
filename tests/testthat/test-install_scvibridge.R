test_that("the Python packages are those of pyproject.toml", {
  file <- file.path(dirname(normalizePath(python_code())), "pyproject.toml")
  skip_if_not(file.exists(file), "pyproject.toml is in the repository only")
  lines <- readLines(file)
  start <- which(lines == "dependencies = [")
  end <- start + which(lines[-seq_len(start)] == "]")[1]
  listed <- gsub("#.*|[\", ]", "", lines[seq(start + 1, end - 1)])
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
  expect_message(expect_identical(chosen_torch("auto"), "cuda"), "CUDA.*found NVIDIA H100")
  there <- list(version = "2.13.0+cpu", build = "cpu")
  expect_message(
    expect_identical(chosen_torch("auto", there), "cpu"), "CPUs \\(torch 2.13.0\\+cpu .* is kept"
  )
  answer("echo 'NVIDIA-SMI has failed: no driver'; exit 9")
  expect_message(expect_identical(chosen_torch("auto"), "cpu"), "CPUs.*no NVIDIA GPU")
  expect_message(expect_identical(chosen_torch("cuda", there), "cuda"), "as requested")

  # The only index: of several, pip takes the highest version, whatever its build.
  index <- paste0("--index-url=", cpu_index)
  expect_identical(with_torch_index("--quiet", "cpu", "Linux"), c(index, "--quiet"))
  expect_identical(with_torch_index("--quiet", "cuda", "Linux"), "--quiet")
  expect_identical(with_torch_index("--quiet", "cpu", "Darwin"), "--quiet")
  for (own in c("--index-url=x", "--extra-index-url x", "-i x", "-i", "--no-index")) {
    expect_identical(with_torch_index(own, "cpu", "Linux"), own)
  }
})

# A Python that tells of a torch, and what pip is asked for in place of installing it.
install_with <- function(before, after, ..., extra = NA) {
  folder <- tempfile("python")
  dir.create(folder)
  python <- file.path(folder, "python")
  asked <- list()
  tell <- function(facts) {
    writeLines(c(
      "#!/bin/sh",
      paste0("echo \"$@\" >> ", shQuote(file.path(folder, "calls"))),
      if (nzchar(facts)) paste("echo", shQuote(facts)) else "exit 1"
    ), python)
    Sys.chmod(python, "755")
  }
  tell(before)
  testthat::local_mocked_bindings(
    virtualenv_exists = function(...) TRUE,
    virtualenv_python = function(...) python,
    virtualenv_install = function(envname, packages, pip_options) {
      asked[[length(asked) + 1]] <<- list(
        packages = packages, options = pip_options, extra = Sys.getenv("PIP_EXTRA_INDEX_URL", NA)
      )
      tell(after)
    },
    .package = "reticulate"
  )
  previous <- Sys.getenv("PIP_EXTRA_INDEX_URL", NA)
  on.exit(
    if (is.na(previous)) {
      Sys.unsetenv("PIP_EXTRA_INDEX_URL")
    } else {
      Sys.setenv(PIP_EXTRA_INDEX_URL = previous)
    }
  )
  if (!is.na(extra)) Sys.setenv(PIP_EXTRA_INDEX_URL = extra)
  said <- testthat::capture_messages(error <- tryCatch(
    {
      install_scvibridge("any", ...)
      ""
    },
    scvibridge_error = conditionMessage
  ))
  list(
    asked = asked, said = paste(said, collapse = ""), error = error,
    calls = readLines(file.path(folder, "calls")), kept = Sys.getenv("PIP_EXTRA_INDEX_URL", NA)
  )
}

test_that("the build of torch that is announced is the one that is installed", {
  index <- paste0("--index-url=", cpu_index)
  torch <- grep("^torch>", python_requirements, value = TRUE)
  expect_length(torch, 1)

  found <- install_with("", "2.13.0+cpu cpu", torch = "cpu", extra = "https://elsewhere")
  expect_match(found$said, "the build for CPUs \\(as requested\\)")
  expect_identical(found$error, "")
  expect_identical(found$asked[[1]], list(packages = torch, options = index, extra = NA_character_))
  expect_identical(found$asked[[2]]$packages, python_requirements)
  expect_identical(found$asked[[2]]$options, character())
  expect_identical(c(found$asked[[2]]$extra, found$kept), rep("https://elsewhere", 2))
  expect_false(any(grepl("uninstall", found$calls)))
  expect_match(found$said, "Compiling for this machine")
  expect_match(utils::tail(found$calls, 1), "compile_kernels()", fixed = TRUE)

  # The other build is replaced; what came in its place is looked at.
  found <- install_with("2.13.0+cu130 cuda", "2.14.0+cu130 cuda", torch = "cpu")
  expect_match(found$said, "torch 2.13.0\\+cu130 is the build for CUDA and is replaced")
  expect_true(any(grepl("-m pip uninstall --yes torch", found$calls)))
  expect_match(found$error, "torch 2.14.0\\+cu130 was installed, the build for CUDA, instead .*CPUs")
  expect_match(found$error, "pip_options = \"--index-url=...\"", fixed = TRUE)
  expect_no_match(found$said, "Done")

  found <- install_with("", "2.13.0 cuda", torch = "cpu", pip_options = "--index-url=mine")
  expect_identical(found$asked[[1]]$options, "--index-url=mine")
  expect_match(found$error, "The index in pip_options does not have that build")
  found <- install_with("", "2.13.0 cpu", torch = "cuda")
  expect_match(found$error, "the build for CPUs, instead of the one for CUDA")
  expect_match(install_with("", "", torch = "cpu")$error, "torch was not installed")

  # What is there is kept unless another is asked for, and is what is announced.
  found <- install_with("2.13.0+cu130 cuda", "2.13.0+cu130 cuda")
  expect_match(found$said, "the build for CUDA \\(torch 2.13.0\\+cu130 is already installed")
  expect_identical(found$error, "")
})

test_that("the build of torch is known without importing it", {
  skip_without_python()
  found <- torch_in(reticulate::py_exe())
  # In a process of its own: the first import of torch in R's decides whose BLAS it uses.
  code <- "import torch; print(torch.__version__, torch.version.cuda is None)"
  torch <- strsplit(system2(reticulate::py_exe(), c("-c", shQuote(code)), stdout = TRUE), " ")[[1]]
  expect_identical(found$version, torch[[1]])
  expect_identical(found$build, if (torch[[2]] == "True") "cpu" else "cuda")
  expect_null(torch_in("/nowhere/python"))
})
