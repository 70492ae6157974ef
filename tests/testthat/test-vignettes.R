# The vignettes, rendered as they stand: their code leaves the values that the text promises.

# The tarball's tests have no vignettes beside them.
vignette_folder <- function() testthat::test_path("..", "..", "vignettes")

# Render a vignette to HTML and return the environment in which its code ran.
run_vignette <- function(name) {
  # nolint start: object_usage_linter.
  skip_without_python()
  skip_without("knitr", "rmarkdown")
  skip_if_not(rmarkdown::pandoc_available(), "pandoc is not installed")
  file <- file.path(vignette_folder(), paste0(name, ".Rmd"))
  skip_if_not(file.exists(file), "the sources of the vignettes are not in this folder")
  # nolint end
  folder <- tempfile("vignette")
  left <- new.env(parent = globalenv())
  with_one_thread(suppressWarnings(suppressMessages(
    page <- rmarkdown::render(
      file,
      output_dir = folder, intermediates_dir = folder, envir = left, quiet = TRUE
    )
  )))
  html <- paste(readLines(page, warn = FALSE), collapse = "\n")
  testthat::expect_match(html, rmarkdown::yaml_front_matter(file)$title, fixed = TRUE)
  for (section in c("Introduction", "Installation", "Similar packages", "Session information")) {
    testthat::expect_match(html, paste0(section, "</h"), fixed = TRUE, label = name)
  }
  left
}

# Several threads take a small training many times as long where cores are busy. No plot is kept.
with_one_thread <- function(code) {
  example_model() # loads torch as the package does, with its own BLAS
  torch <- reticulate::import("torch")
  threads <- torch$get_num_threads()
  torch$set_num_threads(1L)
  grDevices::pdf(NULL)
  on.exit({
    grDevices::dev.off()
    torch$set_num_threads(threads)
  })
  code
}

assay_of <- function(sce, name) as.matrix(SummarizedExperiment::assay(sce, name))

# Of T cells: how far the shares of genes in V2 are from those in V3 (log, standard deviation).
batch_difference <- function(counts, cells) {
  shares <- vapply(c("V2", "V3"), function(batch) {
    sums <- rowSums(counts[, cells$cell_type == "T" & cells$batch == batch])
    (sums + 1) / sum(sums)
  }, numeric(nrow(counts)))
  often <- rowSums(counts) > 500
  stats::sd(log(shares[often, "V2"] / shares[often, "V3"]))
}

test_that("seurat: a Seurat object keeps its counts and gets corrected ones", {
  skip_without("Seurat")
  left <- run_vignette("seurat")
  raw <- left$counts[rownames(left$corrected), ]
  corrected <- as.matrix(left$corrected)
  target <- left$cells$batch == "V3"
  expect_identical(corrected[, target], raw[, target] + 0)
  expect_true(all(corrected == round(corrected)))
  expect_gt(mean(corrected[, !target] != raw[, !target]), 0.1)
  expect_lt(batch_difference(corrected, left$cells), 0.6 * batch_difference(raw, left$cells))

  # Tests read the log-normalisation of these counts, as Seurat defines it.
  data <- as.matrix(SeuratObject::LayerData(left$seu, "data", assay = "corrected"))
  expect_equal(data, log1p(sweep(corrected, 2, colSums(corrected) / 1e4, "/")))
  simulated <- intersect(paste0("gene", c(1:20, 41:60)), rownames(left$found))
  best <- rownames(left$found)[seq_along(simulated)]
  expect_gt(mean(best %in% simulated), 0.9)

  flagged <- !left$seu$scvibridge_supported
  expect_true(all(flagged[left$cells$cell_type == "Platelet"]))
  expect_lt(mean(flagged[left$cells$cell_type != "Platelet"]), 0.25)
  expect_identical(colnames(left$trusted), colnames(left$seu)[!flagged])
  expect_identical(nrow(left$more), nrow(left$counts))
  expect_identical(left$more[rownames(corrected), ], left$corrected)
})

test_that("pseudobulk: the genes that were changed are found, and a nested design is refused", {
  skip_without("DESeq2", "edgeR", "scuttle")
  left <- run_vignette("pseudobulk")
  changed <- left$changed != 0
  expect_found <- function(adjusted, least) {
    hits <- which(adjusted < 0.05)
    expect_gte(sum(changed[hits]), least)
    expect_lte(sum(!changed[hits]), 2)
  }
  expect_found(left$by_deseq2$padj, 15)
  expect_found(left$by_edger$FDR, 15)
  expect_found(left$by_edger_corrected$FDR, 15)
  expect_lt(sum(left$by_edger_without$FDR < 0.05), sum(left$by_edger_corrected$FDR < 0.05) - 2)
  agreement <- stats::cor(left$by_edger_corrected$logFC, left$by_edger$logFC)
  expect_gt(agreement, 0.9)

  # The sums are those of the donors' T cells, by another way than scuttle's.
  of_type <- left$cells$cell_type == "T"
  by_hand <- t(rowsum(t(left$counts[, of_type]), left$cells$donor[of_type]))
  expect_equal(assay_of(left$raw, "counts"), by_hand[, colnames(left$raw)])
  target <- left$cells$batch == "V3"
  expect_equal(assay_of(left$sce, "corrected")[, target], left$counts[, target])
  expect_match(left$refused, "are confounded")
})

test_that("no_batch_argument: the chemistry's genes are no response, and do not correlate", {
  skip_without("edgeR", "limma", "scuttle")
  left <- run_vignette("no_batch_argument")
  expect_lt(left$raw["chemistry", "PValue"], 0.01)
  expect_gt(left$corrected["chemistry", "PValue"], 0.05)
  expect_lt(left$raw["response", "PValue"], 1e-4)
  expect_lt(left$corrected["response", "PValue"], 1e-4)
  found <- left$correlations
  expect_gt(found["raw", "chemistry"], 0.1)
  expect_lt(abs(found["corrected", "chemistry"] - found["within_v3", "chemistry"]), 0.05)
  expect_lt(abs(found["corrected", "pathway"] - found["within_v3", "pathway"]), 0.08)
  expect_gt(found["corrected", "pathway"], 0.15)
  target <- left$cells$batch == "V3"
  expect_equal(assay_of(left$sce, "corrected")[, target], left$counts[, target])
})

test_that("large_data: all is on disk, with the values of a correction in memory", {
  skip_without("HDF5Array")
  left <- run_vignette("large_data")
  for (sce in list(left$sce, left$result)) {
    for (assay in as.list(SummarizedExperiment::assays(sce))) {
      expect_s4_class(assay, "DelayedMatrix")
    }
  }
  expected <- suppressWarnings(corrected_counts(
    left$model,
    transform_batch = "V3", labels_key = "cell_type", condition_key = "condition",
    progress = FALSE
  ))
  corrected <- assay_of(expected, "corrected")
  expect_equal(assay_of(left$result, "corrected"), corrected)
  expect_equal(assay_of(left$sce, "corrected"), corrected)
  expect_equal(
    as.matrix(left$log_cpm), log1p(sweep(corrected, 2, colSums(corrected) / 1e4, "/"))
  )
  expect_equal(unname(left$sums), unname(t(rowsum(t(corrected), left$by_type))))
  target <- left$result$batch == "V3"
  raw <- assay_of(left$result, "counts") + 0 # integers on disk
  expect_identical(corrected[, target], raw[, target])
  shared <- read_by_anndata(left$shared)
  expect_identical(as.matrix(shared$counts), raw[, target])
})
