# Lints the R code; exit code 1 where lintr finds anything. Usage: Rscript dev/lint.R

# Lets lintr see which functions the package defines.
invisible(loadNamespace("scvibridge"))
scripts <- list.files(
  c("dev", "python", "benchmarks"), "[.]R$",
  recursive = TRUE, full.names = TRUE
)
found <- c(
  list(lintr::lint_package(show_progress = FALSE)),
  lapply(scripts, lintr::lint)
)
invisible(lapply(found[lengths(found) > 0L], print))
count <- sum(lengths(found))
cat(sprintf("lintr: %d found\n", count))
quit(status = if (count > 0L) 1L else 0L)
