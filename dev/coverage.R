# Measures which lines of R/ the testthat suite runs, by an instrumented copy of the package that
# covr installs for itself. Exit code 1 where fewer are run than `least`, or where a test fails.

least <- 90 # per cent of the lines

# Run by covr, in an R process of its own.
run_tests <- function(repository) {
  setwd(repository)
  Sys.setenv(NOT_CRAN = "true", TESTTHAT_PARALLEL = "false") # covr counts in one process
  namespace <- loadNamespace("scvibridge")
  # An installed package keeps copies of functions in its lists; covr counts the functions alone.
  holds_functions <- function(value) is.list(value) && any(vapply(value, is.function, NA))
  for (file in list.files("R", full.names = TRUE)) {
    for (definition in Filter(is.call, as.list(parse(file)))) {
      name <- as.character(definition[2L])
      if (holds_functions(get0(name, namespace, inherits = FALSE))) {
        unlockBinding(name, namespace)
        assign(name, eval(definition[[3L]], namespace), namespace)
      }
    }
  }
  testthat::test_dir("tests/testthat", package = "scvibridge", load_package = "installed")
}

coverage <- covr::package_coverage(
  type = "none", quiet = FALSE,
  code = c(
    paste0("run_tests <- ", paste(deparse(run_tests), collapse = "\n")),
    paste0("run_tests(", deparse(getwd()), ")")
  ),
  # What runs when the package is loaded does so before anything is counted.
  line_exclusions = "R/zzz.R"
)
lines <- covr::tally_coverage(coverage, by = "line")
lines$run <- lines$value > 0

files <- aggregate(cbind(run, all = TRUE) ~ filename, data = lines, FUN = sum)
files <- files[order(files$run / files$all), ]
cat(sprintf("%5.1f %%  %s\n", 100 * files$run / files$all, files$filename), sep = "")
for (file in files$filename[files$run < files$all]) {
  numbers <- lines$line[lines$filename == file & !lines$run]
  cat("not run: ", file, ": ", paste(numbers, collapse = ", "), "\n", sep = "")
}
share <- 100 * mean(lines$run)
cat(sprintf("coverage: %.1f %% of %d lines of R (least: %d %%)\n", share, nrow(lines), least))
quit(status = if (share < least) 1L else 0L)
