# Runs the tests of the installed R package. Usage: Rscript dev/test.R [FILTER]
# All files run in two R processes, the files that FILTER matches in this one. TESTTHAT_CPUS sets
# another number of processes. The last line says how many tests passed, failed and were skipped.

arguments <- commandArgs(trailingOnly = TRUE)
if (length(list.files("tests/testthat", "^test.*[.]R$")) == 0L) {
  cat("R: 0 passed, 0 failed, 0 skipped\n")
  quit(status = 1L)
}
# Runs what R CMD check leaves out (testthat::skip_on_cran()).
Sys.setenv(NOT_CRAN = "true")
# Which files run first: Config/testthat/start-first in DESCRIPTION.
is_parallel <- length(arguments) == 0L
Sys.setenv(TESTTHAT_PARALLEL = if (is_parallel) "true" else "false")
# Busy cores: more threads than these would wait for each other.
if (is_parallel) Sys.setenv(OMP_NUM_THREADS = "1", NUMBA_NUM_THREADS = "1")
# What the processes may fill before they collect garbage: with R's defaults, loading packages of
# Bioconductor spends a quarter of the time on that.
Sys.setenv(R_VSIZE = "512M", R_NSIZE = "8M")
results <- as.data.frame(testthat::test_dir(
  "tests/testthat",
  package = "scvibridge",
  load_package = "installed",
  filter = if (length(arguments) > 0L) arguments[[1L]],
  reporter = "check",
  stop_on_failure = FALSE
))
failed <- results$failed > 0L | results$error
skipped <- results$skipped & !failed
for (test in which(failed)) {
  cat("failed:", results$file[[test]], "-", results$test[[test]], "\n")
}
cat(sprintf(
  "R: %d passed, %d failed, %d skipped\n", sum(!failed & !skipped), sum(failed), sum(skipped)
))
quit(status = if (any(failed) || nrow(results) == 0L) 1L else 0L)
