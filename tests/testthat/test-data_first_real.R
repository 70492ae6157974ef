# Real cells, from a Seurat object and a SingleCellExperiment to what is done with the results.

# Minutes that R CMD check spares: they do not depend on how the package was built.
testthat::skip_on_cran()

test_that("a Seurat object of real cells gets Python's counts", {
  skip_without("Seurat")
  real <- real_cells()
  set.seed(2)
  order <- sample(ncol(real$counts))
  object <- SeuratObject::CreateSeuratObject(
    real$counts[sample(1000), order],
    meta.data = real$cells[order, ]
  )
  object <- Seurat::NormalizeData(object, verbose = FALSE)
  found <- correct_real(object)
  python <- real_by_python()
  genes <- reticulate::py_to_r(python$var_names$tolist())
  counts <- SeuratObject::LayerData(found, "counts", assay = "corrected")
  expect_identical(rownames(counts), genes)
  expect_identical(unname(as.matrix(counts)), python_matrix(python$X)[, order])
  expect_identical(found[["RNA"]], object[["RNA"]])

  test <- function(object, assay, features) {
    Seurat::FindMarkers(
      object,
      assay = assay, group.by = "cell_type_coarse", features = features,
      ident.1 = "B", ident.2 = "CD14 Mono", test.use = "t", verbose = FALSE
    )
  }
  markers <- test(found, "corrected", genes)
  raw <- test(object, "RNA", genes)
  # The depth of one batch changes, so that ranks of the best genes may be exchanged.
  expect_gte(length(intersect(rownames(markers)[1:10], rownames(raw)[1:10])), 7)
})

test_that("pseudobulks of corrected counts go into DESeq2", {
  skip_without("scuttle", "DESeq2")
  real <- real_cells()
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = real$counts),
    colData = real$cells
  )
  sce <- correct_real(sce, sample_key = "sample")
  beside <- SingleCellExperiment::altExp(sce, "scvi", withColData = TRUE)
  bulk <- scuttle::aggregateAcrossCells(
    beside, beside$sample,
    use.assay.type = "corrected", statistics = "sum"
  )
  corrected <- as.matrix(SummarizedExperiment::assay(beside, "corrected"))
  by_hand <- t(rowsum(t(corrected), as.character(beside$sample)))
  sums <- SummarizedExperiment::assay(bulk, "corrected")
  expect_equal(sums[, colnames(by_hand)], by_hand)
  tested <- DESeq2::DESeqDataSetFromMatrix(
    sums, as.data.frame(SummarizedExperiment::colData(bulk)[c("donor", "condition")]),
    design = ~ donor + condition
  )
  tested <- suppressMessages(DESeq2::DESeq(tested, quiet = TRUE))
  result <- DESeq2::results(tested, contrast = c("condition", "stim", "ctrl"))
  interferon <- c("ISG15", "IFIT3", "LY6E")
  expect_true(all(result[interferon, "log2FoldChange"] > 0))
  expect_true(all(result[interferon, "padj"] < 0.01))
})
