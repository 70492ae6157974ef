# Tests pseudobulks for the condition.
# Usage: Rscript pseudobulk.R FOLDER
# FOLDER/jobs.csv: matrix (file of doubles, genes by samples), samples (csv), genes, tool, formula.
# FOLDER/pvalues: doubles, the p values of each job's genes, one job after the other.

suppressPackageStartupMessages(library(edgeR))

read_matrix <- function(path, n_genes) {
  values <- readBin(path, "double", n = file.size(path) / 8)
  matrix(values, nrow = n_genes)
}

test_edger <- function(counts, design) {
  y <- calcNormFactors(DGEList(counts))
  y <- estimateDisp(y, design)
  glmQLFTest(glmQLFit(y, design), coef = ncol(design))$table$PValue
}

test_deseq2 <- function(counts, design) {
  storage.mode(counts) <- "integer"
  fit <- DESeqDataSetFromMatrix(counts, data.frame(row.names = seq_len(ncol(counts))), ~1)
  fit <- DESeq(fit, full = design, betaPrior = FALSE, quiet = TRUE)
  results(fit, name = tail(resultsNames(fit), 1L), independentFiltering = FALSE)$pvalue
}

tools <- list(edgeR = test_edger, DESeq2 = test_deseq2)

run_job <- function(folder, job) {
  samples <- read.csv(file.path(folder, job$samples), stringsAsFactors = TRUE)
  counts <- round(read_matrix(file.path(folder, job$matrix), job$genes))
  used <- colSums(counts) > 0
  counts <- counts[, used, drop = FALSE]
  samples <- droplevels(samples[used, , drop = FALSE])
  kept <- rowSums(counts) > 0
  p <- rep(1, nrow(counts))
  design <- tryCatch(model.matrix(as.formula(job$formula), samples), error = function(e) NULL)
  if (is.null(design) || qr(design)$rank < ncol(design) || nrow(design) <= ncol(design)) {
    return(rep(NA_real_, nrow(counts)))
  }
  found <- tryCatch(
    suppressMessages(suppressWarnings(tools[[job$tool]](counts[kept, , drop = FALSE], design))),
    error = function(e) {
      message(job$matrix, ", ", job$tool, ": ", conditionMessage(e))
      rep(NA_real_, sum(kept))
    }
  )
  p[kept] <- found
  p
}

folder <- commandArgs(trailingOnly = TRUE)[[1L]]
jobs <- read.csv(file.path(folder, "jobs.csv"), stringsAsFactors = FALSE)
if ("DESeq2" %in% jobs$tool) {
  # Takes seconds to load.
  suppressPackageStartupMessages(library(DESeq2))
}
out <- file(file.path(folder, "pvalues"), "wb")
for (i in seq_len(nrow(jobs))) {
  writeBin(as.double(run_job(folder, jobs[i, ])), out)
}
close(out)
