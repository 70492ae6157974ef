layer <- function(object, assay, layer) {
  SeuratObject::LayerData(object, layer, assay = assay)
}

# LogNormalize by hand: log1p of 1e4 times the share of the cell's total.
log_normalized <- function(counts) {
  totals <- Matrix::colSums(counts)
  shares <- sweep(as.matrix(counts), 2, ifelse(totals > 0, totals, 1), "/")
  log1p(shares * 1e4)
}

test_that("every assay, layer, reduction and column keeps its values", {
  skip_without("Seurat")
  sce <- small_sce()
  object <- as_seurat(sce)
  corrected <- SummarizedExperiment::assay(sce, "corrected")

  expect_s4_class(object, "Seurat")
  expect_identical(SeuratObject::Assays(object), c("RNA", "corrected", "scvi_normalized"))
  expect_identical(SeuratObject::DefaultAssay(object), "RNA")
  expect_s4_class(object[["RNA"]], "Assay5")
  expect_identical(SeuratObject::Layers(object[["RNA"]]), "counts")
  expect_identical(SeuratObject::Layers(object[["corrected"]]), c("counts", "data"))
  expect_identical(SeuratObject::Layers(object[["scvi_normalized"]]), "data")

  expect_identical(layer(object, "RNA", "counts"), SummarizedExperiment::assay(sce, "counts"))
  expect_identical(layer(object, "corrected", "counts"), corrected)
  expect_equal(as.matrix(layer(object, "corrected", "data")), log_normalized(corrected))
  expect_identical(
    layer(object, "scvi_normalized", "data"),
    log1p(SummarizedExperiment::assay(sce, "normalized"))
  )

  scvi <- SeuratObject::Embeddings(object, "scvi")
  expect_identical(unname(scvi), unname(SingleCellExperiment::reducedDim(sce, "scvi")))
  expect_identical(colnames(scvi), c("scvi_1", "scvi_2"))
  expect_identical(SeuratObject::Key(object[["scvi"]]), "scvi_")

  cells <- object[[]]
  expect_identical(rownames(cells), colnames(sce))
  for (name in c("group", "donor", "flag")) {
    expect_identical(cells[[name]], SummarizedExperiment::colData(sce)[[name]])
  }
  expect_equal(unname(cells$nCount_corrected), unname(Matrix::colSums(corrected)))
  expect_false("nCount_scvi_normalized" %in% names(cells))
  for (assay in SeuratObject::Assays(object)) {
    expect_identical(object[[assay]][[]]$symbol, tolower(rownames(sce)))
    expect_identical(object[[assay]][[]]$original_name, rownames(sce))
  }
  expect_identical(SeuratObject::Misc(object, "scvibridge")$kind, "corrected_counts")
})

test_that("no message and no warning where no name changes", {
  skip_without("Seurat")
  expect_silent(as_seurat(small_sce()))
})

test_that("the cells' own columns win over Seurat's", {
  skip_without("Seurat")
  sce <- small_sce()
  SummarizedExperiment::colData(sce)$nCount_RNA <- seq_len(ncol(sce))
  SummarizedExperiment::colData(sce)$orig.ident <- "mine"
  SummarizedExperiment::colData(sce)[["odd name"]] <- 1
  cells <- as_seurat(sce)[[]]
  expect_identical(cells$nCount_RNA, seq_len(60))
  expect_identical(cells$orig.ident, rep("mine", 60))
  expect_identical(cells[["odd name"]], rep(1, 60))
})

test_that("a cell without counts stays empty", {
  skip_without("Seurat")
  sce <- small_sce()
  counts <- SummarizedExperiment::assay(sce, "corrected")
  counts[, 3] <- 0
  SummarizedExperiment::assay(sce, "corrected") <- Matrix::drop0(counts)
  object <- as_seurat(sce)
  expect_identical(sum(layer(object, "corrected", "data")[, 3]), 0)
  expect_false(anyNA(as.matrix(layer(object, "corrected", "data"))))
})

test_that("dense and integer counts are accepted", {
  skip_without("Seurat")
  sce <- small_sce()
  dense <- as.matrix(SummarizedExperiment::assay(sce, "counts"))
  storage.mode(dense) <- "integer"
  SummarizedExperiment::assay(sce, "counts") <- dense
  object <- as_seurat(sce)
  expect_s4_class(layer(object, "RNA", "counts"), "dgCMatrix")
  expect_equal(as.matrix(layer(object, "RNA", "counts")), dense)
})

test_that("names are changed as Seurat changes them, recorded, and announced once", {
  skip_without("Seurat")
  genes <- c("A_1", "HLA-A", "B|2", "plain", "C_D_E")
  sce <- small_sce(genes)
  messages <- character()
  object <- withCallingHandlers(
    as_seurat(sce),
    message = function(m) {
      messages <<- c(messages, conditionMessage(m))
      invokeRestart("muffleMessage")
    },
    warning = function(w) fail(conditionMessage(w))
  )
  expect_length(messages, 1)
  expect_match(messages, "3 renamed.*'A_1' to 'A-1'.*original_name")

  counts <- SummarizedExperiment::assay(sce, "counts")
  by_seurat <- suppressWarnings(SeuratObject::CreateAssay5Object(counts = counts))
  for (assay in SeuratObject::Assays(object)) {
    expect_identical(rownames(object[[assay]]), rownames(by_seurat))
    expect_identical(object[[assay]][[]]$original_name, genes)
  }
  expect_identical(
    unname(as.matrix(layer(object, "RNA", "counts"))), unname(as.matrix(counts))
  )
})

test_that("a gene keeps its name where a renamed one would take it", {
  skip_without("Seurat")
  genes <- c("a_b", "a|b", "a-b", "a-b.1", "GENE")
  expect_message(object <- as_seurat(small_sce(genes)), "the name was taken: 'a_b' to 'a-b.2'")
  expect_identical(rownames(object), c("a-b.2", "a-b.3", "a-b", "a-b.1", "GENE"))
  expect_identical(object[["RNA"]][[]]$original_name, genes)
})

test_that("expressions without counts make an object for plots", {
  skip_without("Seurat")
  sce <- small_sce()
  SummarizedExperiment::assays(sce) <- list(
    denoised = SummarizedExperiment::assay(sce, "normalized")
  )
  expect_silent(object <- as_seurat(sce))
  expect_identical(SeuratObject::Assays(object), "scvi_denoised")
  expect_equal(
    layer(object, "scvi_denoised", "data"), log1p(SummarizedExperiment::assay(sce, "denoised"))
  )
})

test_that("matrices of rowData become columns, nested tables are left out", {
  skip_without("Seurat")
  sce <- small_sce()
  detection <- cbind(V2 = 1:40, V3 = 40:1)
  SummarizedExperiment::rowData(sce)$detection <- detection
  SummarizedExperiment::rowData(sce)$nested <- S4Vectors::DataFrame(a = 1:40)
  features <- as_seurat(sce)[["corrected"]][[]]
  expect_identical(features$detection_V2, 1:40)
  expect_identical(features$detection_V3, 40:1)
  expect_false("nested" %in% names(features))
})

test_that("what cannot become a Seurat object is refused with the reason", {
  skip_without("Seurat")
  sce <- small_sce()
  expect_error(as_seurat(1:3), "sce must be a SingleCellExperiment, not integer")
  other <- sce
  SummarizedExperiment::assays(other) <- list(tpm = SummarizedExperiment::assay(sce, "counts"))
  expect_error(as_seurat(other), "none of the assays counts, .*its assays: tpm")
  nameless <- sce
  colnames(nameless) <- NULL
  expect_error(as_seurat(nameless), "no names for its cells")
  twice <- sce
  rownames(twice)[2] <- "GENE1"
  expect_error(as_seurat(twice), "1 names of the genes .*GENE1.*make.unique")
})

test_that("missing packages are named with the command that installs them", {
  error <- expect_error(
    check_requires(c("stats", "absentpackage", "absent2"), "counting"),
    class = "scvibridge_missing_package"
  )
  expect_match(
    conditionMessage(error),
    'requires the R packages absentpackage, absent2.*\\(c\\("absentpackage", "absent2"\\)\\)'
  )
})

# -- Seurat's own tools on the result ------------------------------------------------------------

test_that("FindMarkers tests the log-normalised corrected counts by Wilcoxon", {
  skip_without("Seurat")
  sce <- small_sce()
  object <- as_seurat(sce)
  SeuratObject::Idents(object) <- "group"
  found <- suppressMessages(Seurat::FindMarkers(
    object,
    assay = "corrected", ident.1 = "x", ident.2 = "y", logfc.threshold = 0, min.pct = 0,
    verbose = FALSE
  ))

  counts <- SummarizedExperiment::assay(sce, "corrected")
  data <- log_normalized(counts)
  is_x <- SummarizedExperiment::colData(sce)$group == "x"
  for (gene in c("GENE1", "GENE7", "GENE40")) {
    expected <- stats::wilcox.test(data[gene, is_x], data[gene, !is_x], exact = FALSE)
    expect_equal(found[gene, "p_val"], expected$p.value, tolerance = 1e-8)
    log_mean <- function(x) log2(mean(expm1(x)) + 1 / length(x))
    # Seurat 5 adds one count to each group's sum, so that no mean is zero.
    fold_change <- log_mean(data[gene, is_x]) - log_mean(data[gene, !is_x])
    expect_equal(found[gene, "avg_log2FC"], fold_change, tolerance = 1e-8)
    expect_equal(found[gene, "pct.1"], round(mean(counts[gene, is_x] > 0), 3))
  }
})

test_that("AggregateExpression sums the corrected counts", {
  skip_without("Seurat")
  sce <- small_sce()
  object <- as_seurat(sce)
  sums <- suppressMessages(Seurat::AggregateExpression(
    object,
    assays = "corrected", group.by = c("group", "donor")
  ))$corrected
  counts <- as.matrix(SummarizedExperiment::assay(sce, "corrected"))
  cells <- SummarizedExperiment::colData(sce)
  expect_identical(ncol(sums), 6L)
  for (group in c("x", "y")) {
    for (donor in c("d1", "d2", "d3")) {
      chosen <- cells$group == group & cells$donor == donor
      expect_equal(sums[, paste(group, donor, sep = "_")], rowSums(counts[, chosen]))
    }
  }
})

test_that("DotPlot shows means and shares of what each assay holds", {
  skip_without("Seurat")
  sce <- small_sce()
  object <- as_seurat(sce)
  is_x <- SummarizedExperiment::colData(sce)$group == "x"
  shown <- function(assay) {
    plot <- suppressWarnings(Seurat::DotPlot(
      object,
      assay = assay, features = c("GENE2", "GENE9"), group.by = "group"
    ))
    plot$data[plot$data$id == "x", ]
  }
  counts <- SummarizedExperiment::assay(sce, "corrected")
  corrected <- shown("corrected")
  for (gene in c("GENE2", "GENE9")) {
    expect_equal(
      corrected[gene, "avg.exp"],
      mean(1e4 * counts[gene, is_x] / Matrix::colSums(counts)[is_x])
    )
    expect_equal(corrected[gene, "pct.exp"], 100 * mean(counts[gene, is_x] > 0))
  }
  normalized <- SummarizedExperiment::assay(sce, "normalized")
  expect_equal(shown("scvi_normalized")["GENE2", "avg.exp"], mean(normalized["GENE2", is_x]))
})

test_that("assays are those that SeuratObject creates", {
  skip_without("Seurat")
  counts <- SummarizedExperiment::assay(small_sce(), "corrected")
  data <- Seurat::NormalizeData(counts, verbose = FALSE)
  expect_identical(
    assay_of_layers(list(counts = counts, data = data)),
    SeuratObject::CreateAssay5Object(counts = counts, data = data)
  )
  expect_identical(
    assay_of_layers(list(counts = counts)),
    SeuratObject::CreateAssay5Object(counts = counts)
  )
})
