# ComBat-seq on matrices of counts.
# Usage: Rscript combat_seq.R FOLDER...
# FOLDER/counts: doubles, genes by samples; FOLDER/samples.csv: columns batch and covariates.
# Writes FOLDER/corrected, in the same form, or FOLDER/error with the message of an error.

suppressPackageStartupMessages(library(sva))

correct <- function(folder) {
  samples <- read.csv(file.path(folder, "samples.csv"), stringsAsFactors = TRUE)
  path <- file.path(folder, "counts")
  values <- readBin(path, "double", n = file.size(path) / 8)
  counts <- matrix(values, ncol = nrow(samples))

  covariates <- samples[setdiff(names(samples), "batch")]
  varies <- vapply(covariates, function(column) nlevels(factor(column)) > 1L, logical(1L))
  design <- if (any(varies)) model.matrix(~., covariates[varies])[, -1L, drop = FALSE]
  # The rows without counts are what ComBat_seq itself leaves alone, with a warning.
  corrected <- suppressMessages(
    ComBat_seq(counts, batch = samples$batch, group = NULL, covar_mod = design)
  )
  writeBin(as.double(corrected), file.path(folder, "corrected"))
}

for (folder in commandArgs(trailingOnly = TRUE)) {
  tryCatch(correct(folder), error = function(e) {
    writeLines(conditionMessage(e), file.path(folder, "error"))
  })
}
