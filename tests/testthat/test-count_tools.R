# Corrected counts as R's count-based tools take them, against hand computations.

# Median of ratios to the geometric mean over samples (Anders and Huber 2010), on genes without 0.
median_of_ratios <- function(counts) {
  log_means <- rowMeans(log(counts))
  used <- is.finite(log_means)
  apply(counts, 2, function(sample) {
    exp(stats::median(log(sample[used]) - log_means[used]))
  })
}

pseudobulk <- function(sce) {
  cells <- SummarizedExperiment::colData(sce)
  sample <- paste(cells$group, cells$donor)
  corrected <- as.matrix(SummarizedExperiment::assay(sce, "corrected"))
  counts <- t(rowsum(t(corrected), sample))
  list(counts = counts, group = factor(sub(" .*", "", colnames(counts))))
}

test_that("DESeq2 accepts them, with the size factors of a hand computation", {
  skip_without("DESeq2")
  sums <- pseudobulk(small_sce())
  integers <- sums$counts
  storage.mode(integers) <- "integer"
  expect_identical(integers + 0, sums$counts)
  data <- DESeq2::DESeqDataSetFromMatrix(
    integers,
    colData = data.frame(group = sums$group), design = ~group
  )
  data <- suppressMessages(DESeq2::DESeq(data, fitType = "mean", quiet = TRUE))
  expect_identical(unname(DESeq2::counts(data)), unname(integers))
  expect_equal(DESeq2::sizeFactors(data), median_of_ratios(sums$counts))

  # The fold change of the largest gene: a ratio of means of normalised counts, up to shrinkage
  # by nothing (DESeq() reports the maximum likelihood).
  gene <- which.max(rowSums(sums$counts))
  normalized <- sweep(sums$counts, 2, median_of_ratios(sums$counts), "/")[gene, ]
  by_hand <- log2(
    mean(normalized[sums$group == "y"]) / mean(normalized[sums$group == "x"])
  )
  expect_equal(DESeq2::results(data)$log2FoldChange[gene], by_hand, tolerance = 0.02)
})

test_that("DESeq2 takes the cells themselves as they are", {
  skip_without("DESeq2")
  sce <- small_sce()
  corrected <- as.matrix(SummarizedExperiment::assay(sce, "corrected"))
  cells <- as.data.frame(SummarizedExperiment::colData(sce))
  data <- suppressMessages(
    DESeq2::DESeqDataSetFromMatrix(corrected, colData = cells, design = ~group)
  )
  expect_identical(typeof(DESeq2::counts(data)), "integer")
  expect_true(all(DESeq2::counts(data) == corrected))
})

test_that("edgeR takes their sums as library sizes", {
  skip_without("edgeR")
  sce <- small_sce()
  corrected <- SummarizedExperiment::assay(sce, "corrected")
  expect_equal(
    edgeR::DGEList(as.matrix(corrected))$samples$lib.size,
    unname(colSums(as.matrix(corrected)))
  )
  sums <- pseudobulk(sce)
  counts <- edgeR::DGEList(sums$counts, group = sums$group)
  expect_equal(counts$samples$lib.size, unname(colSums(sums$counts)))
  expect_equal(
    unname(edgeR::cpm(counts)[3, ]), unname(sums$counts[3, ] / colSums(sums$counts) * 1e6)
  )
})
