testthat::skip_on_cran() # Seurat objects by the dozen

# Functions with a Seurat object or a matrix first: what they add, against the method for a model
# and Python; and that all else stays.

layer_of <- function(object, assay, layer) {
  SeuratObject::LayerData(object, layer, assay = assay)
}

test_that("a Seurat object gets what the method for a model gives, in its own order of cells", {
  skip_without("Seurat")
  object <- example_seurat()
  model <- example_model()
  found <- correct_first(object, normalized = TRUE)
  expected <- example_corrected()
  chosen <- example_order()
  expect_identical(SeuratObject::Assays(found), c("RNA", "tags", "corrected", "scvi_normalized"))
  expect_s4_class(found[["corrected"]], "Assay5")
  corrected <- corrected_value("corrected")
  expect_identical(layer_of(found, "corrected", "counts"), corrected)
  by_seurat <- SeuratObject::CreateAssay5Object(counts = corrected)
  by_seurat <- Seurat::NormalizeData(by_seurat, verbose = FALSE)
  expect_identical(
    layer_of(found, "corrected", "data"), SeuratObject::LayerData(by_seurat, "data")
  )
  expect_identical(SeuratObject::Layers(found[["scvi_normalized"]]), "data")
  expect_equal(
    layer_of(found, "scvi_normalized", "data"), log1p(corrected_value("normalized")),
    tolerance = 1e-6
  )
  scvi <- found[["scvi"]]
  expect_identical(SeuratObject::Key(scvi), "scvi_")
  expect_equal(
    unname(SeuratObject::Embeddings(scvi)),
    unname(SingleCellExperiment::reducedDim(expected, "scvi")[chosen, ]),
    tolerance = 1e-6
  )
  flags <- SummarizedExperiment::colData(expected)[chosen, ]
  for (name in grep("^scvibridge_", names(flags), value = TRUE)) {
    ours <- found[[]][[name]]
    expect_equal(if (is.factor(ours)) as.character(ours) else ours, {
      theirs <- flags[[name]]
      if (is.factor(theirs)) as.character(theirs) else theirs
    }, info = name)
  }
  expect_identical(
    found[["corrected"]][[]]$scvibridge_low_detection,
    SummarizedExperiment::rowData(expected)$scvibridge_low_detection
  )
  about <- SeuratObject::Misc(found, "scvibridge")
  expect_named(about, "corrected")
  expect_identical(about$corrected$transform_batch, "V3")

  python <- python_result("corrected_counts", transform_batch = "V3", labels_key = "cell_type")
  expect_identical(
    unname(as.matrix(layer_of(found, "corrected", "counts"))), python_matrix(python$X)[, chosen]
  )
})

test_that("all that a Seurat object had stays", {
  skip_without("Seurat")
  object <- example_seurat()
  found <- correct_first(object)
  found <- denoised_expression(found, example_model(), progress = FALSE)
  for (name in names(object)) {
    expect_identical(found[[name]], object[[name]], label = name)
  }
  expect_identical(found[[]][names(object[[]])], object[[]])
  expect_identical(levels(found$severity), c("low", "high", "unused"))
  expect_identical(SeuratObject::DefaultAssay(found), "RNA")
  expect_identical(SeuratObject::Idents(found), SeuratObject::Idents(object))
  expect_identical(SeuratObject::VariableFeatures(found), c("GENE3", "GENE1"))
  expect_identical(SeuratObject::Misc(found, "note"), "mine")
  expect_identical(SeuratObject::Project(found), "example")
  expect_identical(found@images, object@images)
  expect_identical(found@commands, object@commands)
  expect_true(methods::validObject(found))
})

test_that("a second call adds to the first, or takes its place with a message", {
  skip_without("Seurat")
  object <- example_seurat()
  model <- example_model()
  first <- correct_first(object)
  expect_length(messages_of(
    both <- normalized_expression(first, model, transform_batch = "V3", progress = FALSE)
  ), 0)
  expect_identical(both[["corrected"]], first[["corrected"]])
  expect_identical(both[["scvi"]], first[["scvi"]])
  expect_named(SeuratObject::Misc(both, "scvibridge"), c("corrected", "normalized"))
  kept <- grep("^scvibridge_", names(first[[]]), value = TRUE)
  expect_identical(both[[]][kept], first[[]][kept])

  SeuratObject::DefaultAssay(both) <- "corrected"
  said <- messages_of(again <- correct_first(both, assay = "RNA", seed = 5, quiet = FALSE))
  expect_match(said, "object's assay corrected is replaced", all = FALSE)
  expect_identical(SeuratObject::DefaultAssay(again), "corrected")
  python <- python_result(
    "corrected_counts",
    transform_batch = "V3", labels_key = "cell_type", seed = 5L
  )
  counts <- layer_of(again, "corrected", "counts")
  expect_identical(unname(as.matrix(counts)), python_matrix(python$X)[, example_order()])
  expect_equal(unname(again$nCount_corrected), unname(Matrix::colSums(counts)))
  expect_named(SeuratObject::Misc(again, "scvibridge"), c("corrected", "normalized"))
  expect_identical(SeuratObject::Misc(again, "scvibridge")$corrected$seed, 5L)

  converted <- suppressWarnings(as_seurat(example_corrected()))
  converted <- denoised_expression(converted, model, progress = FALSE)
  expect_named(SeuratObject::Misc(converted, "scvibridge"), c("corrected", "denoised"))
})

test_that("raw counts are taken where a result has become the default assay", {
  skip_without("Seurat")
  found <- correct_first(example_seurat())
  SeuratObject::DefaultAssay(found) <- "corrected"
  expect_match(
    messages_of(again <- correct_first(found, quiet = FALSE)),
    "raw counts are read from the assay RNA",
    all = FALSE
  )
  expect_identical(
    layer_of(again, "corrected", "counts"), layer_of(found, "corrected", "counts")
  )
  expect_identical(SeuratObject::DefaultAssay(again), "corrected")
  expect_identical(SeuratObject::DefaultAssay(again[["scvi"]]), "RNA")
  expect_anndata_of(suppressMessages(as_anndata(found)), layer_of(found, "RNA", "counts"))
  found[["scvi"]] <- NULL
  found[["corrected"]]@misc <- list()
  expect_error(as_anndata(found), "without raw counts: set assay", class = "scvibridge_error")
})

test_that("counts that SCTransform() made are not taken for raw ones unasked", {
  skip_without("Seurat")
  set.seed(1)
  counts <- matrix(
    as.double(rpois(200 * 100, rgamma(200, 2))), 200,
    dimnames = list(paste0("gene", 1:200), paste0("cell", 1:100))
  )
  object <- SeuratObject::CreateSeuratObject(methods::as(counts, "dgCMatrix"))
  object <- suppressWarnings(Seurat::SCTransform(object, verbose = FALSE))
  expect_identical(SeuratObject::DefaultAssay(object), "SCT")
  expect_error(as_anndata(object), "assay = \"RNA\"", fixed = TRUE, class = "scvibridge_error")
  expect_anndata_of(as_anndata(object, assay = "RNA"), counts)
})

test_that("Seurat's own functions take the results", {
  skip_without("Seurat")
  found <- correct_first(example_seurat(), normalized = TRUE)
  test <- function(object, assay) {
    Seurat::FindMarkers(
      object,
      assay = assay, group.by = "cell_type", ident.1 = "B", ident.2 = "T", test.use = "t",
      logfc.threshold = 0, min.pct = 0, verbose = FALSE
    )
  }
  markers <- test(found, "corrected")
  data <- as.matrix(layer_of(found, "corrected", "data"))
  is_b <- found$cell_type == "B"
  is_t <- found$cell_type == "T"
  expected <- apply(data, 1, function(gene) stats::t.test(gene[is_b], gene[is_t])$p.value)
  expect_equal(markers$p_val, unname(expected[rownames(markers)]))

  found <- Seurat::FindNeighbors(
    found,
    reduction = "scvi", dims = 1:5, k.param = 5, verbose = FALSE, graph.name = c("nn", "snn")
  )
  latent <- SeuratObject::Embeddings(found, "scvi")
  nearest <- order(as.matrix(stats::dist(latent))[1, ])[1:5]
  expect_setequal(which(as.matrix(found[["nn"]])[1, ] > 0), nearest)
  plotted <- Seurat::DotPlot(found, assay = "scvi_normalized", features = c("GENE1", "GENE2"))
  shown <- plotted$data
  mine <- mean(expm1(layer_of(found, "scvi_normalized", "data")["GENE1", is_b]))
  expect_equal(shown$avg.exp[shown$id == "B" & shown$features.plot == "GENE1"], mine)
})

test_that("assays of version 3 and split layers are taken, and Seurat's option is followed", {
  skip_without("Seurat")
  chosen <- example_order()
  expected <- corrected_value("corrected")
  object <- example_seurat()
  old <- object
  old[["RNA"]] <- suppressWarnings(methods::as(object[["RNA"]], "Assay"))
  found <- correct_first(old)
  expect_s4_class(found[["corrected"]], "Assay5")
  expect_identical(layer_of(found, "corrected", "counts"), expected)
  expect_identical(found[["RNA"]], old[["RNA"]])

  previous <- options(Seurat.object.assay.version = "v3")
  on.exit(options(previous))
  expect_no_warning(suppressMessages(found <- normalized_expression(
    correct_first(old), example_model(),
    progress = FALSE
  )))
  options(previous)
  expect_true(inherits(found[["corrected"]], "Assay"))
  expect_identical(layer_of(found, "corrected", "counts"), expected)
  python <- python_result("normalized_expression")
  expect_equal(
    unname(as.matrix(layer_of(found, "scvi_normalized", "data"))),
    log1p(python_matrix(python$X)[, chosen]),
    tolerance = 1e-6
  )

  object[["RNA"]] <- split(object[["RNA"]], object$batch)
  found <- correct_first(object)
  expect_identical(layer_of(found, "corrected", "counts"), expected)
  expect_identical(found[["RNA"]], object[["RNA"]])
})

test_that("genes that Seurat renamed are found, and keep the object's names", {
  skip_without("Seurat")
  odd <- odd_model()
  model <- odd$model
  expected <- suppressWarnings(corrected_counts(model, transform_batch = "V3", progress = FALSE))
  expect_true(all(c("GENE_2", "GENE|3", "GENE-2") %in% rownames(expected)))
  counts <- odd$seurat_counts
  object <- SeuratObject::CreateSeuratObject(counts, meta.data = odd$cells)
  found <- suppressWarnings(
    corrected_counts(object, model, transform_batch = "V3", progress = FALSE)
  )
  expect_identical(rownames(found[["corrected"]]), rownames(object[["RNA"]]))
  expect_identical(found[["corrected"]][[]]$original_name, rownames(expected))
  expect_identical(
    unname(layer_of(found, "corrected", "counts")),
    unname(SummarizedExperiment::assay(expected, "corrected"))
  )
  expect_silent(denoised_expression(object, model, progress = FALSE))

  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = counts), colData = odd$cells)
  found <- suppressWarnings(corrected_counts(sce, model, transform_batch = "V3", progress = FALSE))
  expect_identical(SummarizedExperiment::assayNames(found), c("counts", "corrected"))
  expect_identical(
    unname(SummarizedExperiment::assay(found, "corrected")),
    unname(SummarizedExperiment::assay(expected, "corrected"))
  )
})

test_that("genes are given under the object's names, too", {
  skip_without("Seurat")
  odd <- odd_model()
  object <- SeuratObject::CreateSeuratObject(odd$seurat_counts, meta.data = odd$cells)
  correct <- function(...) {
    suppressWarnings(corrected_counts(
      ..., odd$model,
      transform_batch = "V3", progress = FALSE
    ))
  }
  counts <- function(found) layer_of(found, "corrected", "counts")
  ours <- c("GENE-2.1", "GENE-2", "GENE-3")
  models <- c("GENE_2", "GENE-2", "GENE|3")
  all <- counts(correct(object))
  expect_identical(counts(correct(object, gene_list = NULL, genes_kept = NULL)), all)
  expect_identical(counts(correct(object, gene_list = ours)), all[ours, ])
  expect_identical(counts(correct(object, gene_list = factor(ours))), all[ours, ])
  expect_identical(counts(correct(object, gene_list = models)), all[ours, ])
  mask <- stats::setNames(rownames(object) %in% ours, rownames(object))
  expect_setequal(rownames(counts(correct(object, gene_list = mask))), ours)
  kept <- counts(correct(object, genes_kept = ours))
  expect_identical(kept[ours, ], layer_of(object, "RNA", "counts")[ours, ])
  expect_identical(kept, counts(correct(object, genes_kept = models)))
  theta <- stats::setNames(seq_len(60) / 10, rownames(object))
  by_model <- stats::setNames(theta, odd$model$summary$genes)
  expected <- counts(correct(object, dispersion = by_model))
  expect_false(identical(expected, all))
  for (given in list(theta, as.matrix(theta), data.frame(theta))) {
    expect_identical(counts(correct(object, dispersion = given)), expected)
  }
  expect_error(correct(object, gene_list = "GENE-x"), "GENE-x", class = "scvibridge_error")
})

test_that("a matrix gives a matrix", {
  data <- example_data()
  chosen <- example_order()
  model <- example_model()
  counts <- data$counts[60:1, chosen]
  expected <- corrected_value("corrected")[60:1, ]
  found <- correct_first(counts, cell_data = data$cells[sort(chosen), ])
  expect_s4_class(found, "dgCMatrix")
  expect_identical(attr(found, "scvibridge")$kind, "corrected_counts")
  attr(found, "scvibridge") <- NULL
  expect_identical(found, expected)
  dense <- correct_first(as.matrix(counts), cell_data = data$cells[chosen, ])
  attr(dense, "scvibridge") <- NULL
  expect_identical(dense, expected)

  more <- rbind(counts, further_genes(chosen))
  found <- normalized_expression(
    more, model,
    transform_batch = "V3", cell_data = data$cells[chosen, ], progress = FALSE
  )
  expect_true(is.matrix(found))
  expect_identical(rownames(found), rownames(data$counts))
  python <- python_result("normalized_expression", transform_batch = "V3")
  expect_equal(
    unname(found), python_matrix(python$X)[, chosen],
    tolerance = 1e-6, ignore_attr = "scvibridge"
  )
})

test_that("cells that the target does not support can be dropped from the object", {
  skip_without("Seurat")
  odd <- odd_model()
  support <- batch_support(odd$model, transform_batch = "V3", progress = FALSE)
  kept <- rownames(support$cells)[support$cells$supported]
  n_cells <- ncol(odd$counts)
  expect_gt(n_cells - length(kept), 20)
  drop_unsupported <- function(object) {
    suppressWarnings(corrected_counts(
      object, odd$model,
      transform_batch = "V3", unsupported = "drop", progress = FALSE
    ))
  }
  object <- SeuratObject::CreateSeuratObject(odd$seurat_counts, meta.data = odd$cells)
  said <- messages_of(found <- drop_unsupported(object))
  expect_match(
    said, paste0("^", n_cells - length(kept), " of ", n_cells, " cells are removed"),
    all = FALSE
  )
  expect_identical(colnames(found), kept)
  expect_identical(
    layer_of(found, "RNA", "counts"), layer_of(object, "RNA", "counts")[, kept]
  )
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = odd$counts),
    colData = odd$cells
  )
  found <- suppressMessages(drop_unsupported(sce))
  expect_identical(colnames(found), kept)
  expect_identical(SummarizedExperiment::assay(found, "counts"), odd$counts[, kept])
})
