# The demo for R: corrects the counts as an R user would and prints what R then has.
# Arguments: folder of the demo, target batch, column of the cell types, seed.

arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
target <- arguments[2]
labels_key <- arguments[3]
seed <- as.numeric(arguments[4])

heading <- function(...) cat("\n   > ", ..., "\n", sep = "")
show_indented <- function(object) {
  writeLines(paste0("     ", utils::capture.output(print(object))))
}

suppressPackageStartupMessages({
  library(scvibridge)
  library(SingleCellExperiment)
  library(Seurat)
  library(DESeq2)
})

# ---- The two objects -------------------------------------------------------------------------

heading("model <- load_scvi(\"model\", adata = \"cells.h5ad\")")
model <- load_scvi(file.path(folder, "model"), adata = file.path(folder, "cells.h5ad"))

heading("sce <- corrected_counts(model, transform_batch = \"", target, "\", labels_key = \"",
        labels_key, "\", normalized = TRUE)")
# That confounding is not checked has been said where Python did the same.
sce <- suppressWarnings(corrected_counts(
  model,
  transform_batch = target, labels_key = labels_key, normalized = TRUE, seed = seed, progress = FALSE
))
show_indented(sce)

heading("seu <- as_seurat(sce)")
seu <- as_seurat(sce)
show_indented(seu)

python <- suppressWarnings(Read10X_h5(file.path(folder, "corrected.h5")))
differing <- sum(assay(sce, "corrected") != python[rownames(sce), colnames(sce)])
cat(sprintf("\n   Entries that differ from the counts that Python wrote: %d of %s\n",
            differing, format(prod(dim(sce)), big.mark = ",", scientific = FALSE)))
# The order of floating-point operations may differ between two processes.
stopifnot(differing <= prod(dim(sce)) / 1e5)

saveRDS(sce, file.path(folder, "sce.rds"))
saveRDS(seu, file.path(folder, "seurat.rds"))

# ---- A count-based tool ----------------------------------------------------------------------

labels <- factor(sce[[labels_key]])
types <- names(sort(table(labels), decreasing = TRUE))[1:2]
set.seed(1)
pairs <- which(labels %in% types)
sample_of <- ave(pairs, labels[pairs], FUN = function(cells) {
  sample(rep_len(1:3, length(cells)))
})
group <- interaction(sample_of, droplevels(labels[pairs]), drop = TRUE)
indicator <- Matrix::fac2sparse(group)
sums <- as.matrix(assay(sce, "corrected")[, pairs] %*% Matrix::t(indicator))
type_of_sum <- factor(sub("^[0-9]+\\.", "", colnames(sums)), types, labels = make.names(types))
design <- data.frame(type = type_of_sum, row.names = colnames(sums))
storage.mode(sums) <- "integer"

heading("DESeq2 on the corrected counts: ", types[2], " against ", types[1])
data <- DESeqDataSetFromMatrix(sums, design, ~ type)
data <- suppressMessages(DESeq(data, quiet = TRUE))
table <- as.data.frame(results(data))
found <- table[which(table$padj < 0.05), ]
top <- utils::head(found[order(found$pvalue), c("baseMean", "log2FoldChange", "padj")], 5)
cat(sprintf("     %d of %d genes with an adjusted p-value below 0.05; the first of them:\n",
            nrow(found), nrow(table)))
show_indented(format(top, digits = 3))
cat("     (3 sums over random cells per type: pseudo-samples, no replicates. The p-values mean\n",
    "     nothing; this only shows that DESeq2 takes the matrix.)\n", sep = "")
