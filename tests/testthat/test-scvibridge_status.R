# What scvibridge_status() finds, in situations that are really so.

# Minutes that R CMD check spares: they do not depend on how the package was built.
testthat::skip_on_cran()

status_of <- function(..., start = TRUE) {
  file <- tempfile(fileext = ".rds")
  code <- sprintf(
    "status <- scvibridge::scvibridge_status(start = %s); saveRDS(status, %s); print(status)",
    start, quoted(file)
  )
  printed <- run_rscript(code, c(...))
  list(status = readRDS(file), printed = paste(printed, collapse = "\n"))
}

empty_environment <- function() {
  skip_without_python()
  folder <- tempfile("venv")
  system2(reticulate::py_exe(), c("-m", "venv", "--without-pip", folder))
  file.path(folder, "bin", "python")
}

test_that("a Python with all that is needed has no problems, and R's stays free of torch", {
  skip_without_python()
  status <- scvibridge_status()
  expect_s3_class(status, "scvibridge_status")
  expect_identical(nrow(status$problems), 0L, info = toString(status$problems$problem))
  expect_true(all(status$packages$ok))
  metadata <- reticulate::import("importlib.metadata")
  for (row in seq_len(nrow(status$packages))) {
    expect_identical(status$packages$version[row], metadata$version(status$packages$package[row]))
  }
  expect_identical(status$python$version, paste(
    reticulate::py_eval("'.'.join(map(str, __import__('sys').version_info[:3]))")
  ))
  expect_identical(status$python_code, as.character(utils::packageVersion("scvibridge")))
  torch <- test_module("torch_facts")
  expect_identical(status$torch$version, reticulate::py_to_r(torch$version()))
  expect_output(print(status), "No problems found")
})

test_that("a Python that does not exist is told, with what mends it", {
  found <- status_of("RETICULATE_PYTHON=/nowhere/python")
  expect_identical(found$status$python$path, "/nowhere/python")
  expect_null(found$status$packages)
  expect_match(found$status$problems$problem, "RETICULATE_PYTHON is set to does not work.*not exist")
  expect_match(found$status$problems$command, "Sys.unsetenv.*install_scvibridge\\(\\)")
  expect_match(found$printed, "! the Python that RETICULATE_PYTHON is set to", fixed = TRUE)
  not_started <- status_of("RETICULATE_PYTHON=/nowhere/python", start = FALSE)
  expect_match(not_started$status$problems$problem, "there is no file /nowhere/python")
})

test_that("an environment without packages lacks all of them", {
  python <- empty_environment()
  found <- status_of(paste0("RETICULATE_PYTHON=", python), "PYTHONPATH=")$status
  expect_identical(normalizePath(found$python$path), normalizePath(python))
  expect_identical(sort(found$packages$package), sort(sub(">=.*", "", python_requirements)))
  expect_true(all(is.na(found$packages$version)))
  expect_null(found$torch)
  expect_match(found$problems$problem, "missing: anndata, .*torch")
  expect_match(found$problems$command, paste0(python, "' -m pip install"), fixed = TRUE)
  for (requirement in python_requirements) {
    expect_match(found$problems$command, paste0("\"", requirement, "\""), fixed = TRUE)
  }
})

test_that("a package that is too old, or broken, is told by name", {
  python <- empty_environment()
  site <- tempfile("site")
  installed <- function(name, version) {
    folder <- file.path(site, sprintf("%s-%s.dist-info", gsub("-", "_", name), version))
    dir.create(folder, recursive = TRUE)
    writeLines(
      c("Metadata-Version: 2.1", paste("Name:", name), paste("Version:", version)),
      file.path(folder, "METADATA")
    )
  }
  for (requirement in python_requirements) {
    parts <- strsplit(requirement, ">=")[[1]]
    installed(parts[1], if (parts[1] == "scvi-tools") "1.0.4" else paste0(parts[2], ".post1"))
  }
  dir.create(file.path(site, "torch"))
  writeLines("raise OSError('libcudart.so.12: cannot open', 'a\\nb')", file.path(site, "torch.py"))
  unlink(file.path(site, "torch"), recursive = TRUE)
  found <- status_of(paste0("RETICULATE_PYTHON=", python), paste0("PYTHONPATH=", site))$status
  packages <- found$packages
  expect_identical(packages$package[!packages$ok], "scvi-tools")
  expect_match(found$problems$problem[1], "too old: scvi-tools 1.0.4 (needed: 1.2.2)", fixed = TRUE)
  expect_match(found$problems$command[1], "--upgrade \"scvi-tools>=1.2.2\"", fixed = TRUE)
  expect_match(found$problems$problem[2], "torch cannot be imported: .*libcudart.so.12")
  expect_match(found$problems$command[2], "--force-reinstall \"torch\"", fixed = TRUE)
})

test_that("another version of the Python code is an error that names it, and a problem", {
  skip_without_python()
  site <- tempfile("site")
  dir.create(file.path(site, "scvibridge"), recursive = TRUE)
  writeLines("__version__ = '0.0.9'", file.path(site, "scvibridge", "__init__.py"))
  printed <- run_rscript(c(
    sprintf("reticulate::import_from_path('scvibridge', %s)", quoted(site)),
    "said <- tryCatch(scvibridge::load_scvi('x'), error = function(e) conditionMessage(e))",
    "cat(said, '\n')",
    "cat(scvibridge::scvibridge_status()$problems$problem, sep = '\n')"
  ))
  printed <- paste(printed, collapse = " ")
  expect_match(
    printed, "this is scvibridge [0-9.]+, but Python has already imported scvibridge 0.0.9 from"
  )
  expect_match(printed, "pip install --upgrade scvibridge==")
})
