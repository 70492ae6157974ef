# Lints the R code; exit code 1 where lintr finds anything, or a function is defined twice.
# Usage: Rscript dev/lint.R

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
# A function of a later file replaces one of the same name without a word.
code <- unlist(lapply(list.files("R", "[.]R$", full.names = TRUE), readLines))
definition <- "^([[:alnum:]._]+) <- function.*"
defined <- sub(definition, "\\1", grep(definition, code, value = TRUE))
twice <- unique(defined[duplicated(defined)])
for (name in twice) {
  cat("R/: the function ", name, " is defined twice\n", sep = "")
}
count <- sum(lengths(found)) + length(twice)
cat(sprintf("lintr: %d found\n", count))
quit(status = if (count > 0L) 1L else 0L)
