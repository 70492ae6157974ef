testthat::skip_on_cran() # trains models

# Data first, of models that encode more than genes: their proteins and regions are in the object.

# lintr does not see what helper.R defines.
# nolint start: object_usage_linter.

# Cells of the model as objects of R: counts of genes, of proteins and of regions, genes x cells, and
# the table of cells.
cells_of <- function(model) {
  adata <- reticulate::import("builtins", convert = FALSE)$getattr(python_model(model), "adata")
  is_mudata <- reticulate::py_has_attr(adata, "mod")
  rna <- if (is_mudata) adata$mod[["rna"]] else adata
  values <- function(table, names) {
    matrix <- as.matrix(python_matrix(table))
    dimnames(matrix) <- list(names, text_of(adata$obs_names))
    methods::as(matrix, "dgCMatrix")
  }
  of_modality <- function(name) {
    values(adata$mod[[name]]$X, text_of(adata$mod[[name]]$var_names))
  }
  proteins <- if (is_mudata) {
    of_modality("protein")
  } else {
    table <- adata$obsm[["proteins"]]
    values(table$to_numpy(), text_of(table$columns))
  }
  list(
    counts = values(rna$X, text_of(rna$var_names)), proteins = proteins,
    regions = if (is_mudata) of_modality("atac"), cells = cells_of_python(rna)
  )
}

text_of <- function(index) unlist(reticulate::py_to_r(index$tolist()))

correct_beside <- function(object, model) {
  suppressMessages(suppressWarnings(corrected_counts(
    object, model,
    transform_batch = "V3", progress = FALSE
  )))
}

# Gives the object with its result, and Python's result that its counts were compared with.
expect_pythons_counts <- function(object, model) {
  python <- of_python("corrected_counts", model, transform_batch = "V3")
  found <- correct_beside(object, model)
  corrected <- if (inherits(found, "Seurat")) {
    SeuratObject::LayerData(found, "counts", assay = "corrected")
  } else {
    SummarizedExperiment::assay(found, "corrected")
  }
  expect_same_values(corrected, python$X)
  list(found = found, python = python)
}

corrected_to_v3 <- function(...) {
  suppressWarnings(corrected_counts(..., transform_batch = "V3", progress = FALSE))
}

experiment <- function(counts) {
  counts <- rbind(counts, extra = 1)
  SummarizedExperiment::SummarizedExperiment(list(counts = counts[rev(seq_len(nrow(counts))), ]))
}

sce_of <- function(data) {
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = data$counts),
    colData = S4Vectors::DataFrame(data$cells)
  )
  decoy <- SummarizedExperiment::SummarizedExperiment(list(counts = data$proteins[1:3, ]))
  SingleCellExperiment::altExp(sce, "decoy") <- decoy
  SingleCellExperiment::altExp(sce, "ADT") <- experiment(data$proteins)
  if (!is.null(data$regions)) {
    SingleCellExperiment::altExp(sce, "peaks") <- experiment(data$regions)
  }
  sce
}

seurat_of <- function(data) {
  object <- SeuratObject::CreateSeuratObject(data$counts, meta.data = data$cells)
  with_dash <- data$proteins
  rownames(with_dash) <- gsub("_", "-", rownames(with_dash))
  object[["ADT"]] <- SeuratObject::CreateAssay5Object(counts = with_dash[11:1, ])
  if (!is.null(data$regions)) {
    object[["peaks"]] <- SeuratObject::CreateAssay5Object(counts = data$regions)
  }
  object
}

test_that("proteins are taken from the object by their names, and come back normalized", {
  model <- model_of("TOTALVI")
  data <- cells_of(model)
  both <- expect_pythons_counts(sce_of(data), model)
  sce <- both$found
  expect_identical(
    SingleCellExperiment::altExpNames(sce), c("decoy", "ADT", "proteins")
  )
  values <- SummarizedExperiment::assay(SingleCellExperiment::altExp(sce, "proteins"), "normalized")
  expect_same_values(values, both$python$obsm[["protein_normalized"]])
  # What came back has no counts, and is not taken for the proteins' own.
  again <- correct_beside(sce, model)
  expect_identical(
    SummarizedExperiment::assay(again, "corrected"), SummarizedExperiment::assay(sce, "corrected")
  )

  skip_without("Seurat")
  seurat <- expect_pythons_counts(seurat_of(data), model)$found
  layer <- SeuratObject::LayerData(seurat, "data", assay = "proteins")
  expect_equal(unname(as.matrix(layer)), unname(log1p(values)))
  # In another order, and some of them.
  chosen <- colnames(seurat)[c(90:31, 120:140)]
  few <- seurat_of(data)[, chosen]
  some <- add_latent(few, model, progress = FALSE)
  expect_equal(
    SeuratObject::Embeddings(some, "scvi"), SeuratObject::Embeddings(seurat, "scvi")[colnames(few), ],
    tolerance = 1e-5
  )
})

test_that("proteins of an object that is passed as adata are found by their names", {
  model <- model_of("TOTALVI")
  data <- cells_of(model)
  expected <- python_matrix(of_python("corrected_counts", model, transform_batch = "V3")$X)
  dimnames(expected) <- dimnames(data$counts)
  objects <- list(sce_of(data)[, 150:1])
  if (requireNamespace("Seurat", quietly = TRUE)) {
    objects <- c(objects, seurat_of(data)[, 150:1])
  }
  for (object in objects) {
    loaded <- load_scvi(model$dir, adata = object)
    for (found in list(
      corrected_to_v3(loaded), corrected_to_v3(loaded, adata = object[, 20:1]),
      corrected_to_v3(model, adata = object)
    )) {
      counts <- SummarizedExperiment::assay(found, "corrected")
      expect_identical(as.matrix(counts), expected[rownames(found), colnames(found)])
    }
  }
  object <- sce_of(data)
  SingleCellExperiment::altExp(object, "ADT") <- NULL
  for (call in list(
    function() load_scvi(model$dir, adata = object),
    function() corrected_to_v3(model, adata = object)
  )) {
    expect_error(
      call(), "also encodes 11 proteins .* must have an altExp", class = "scvibridge_error"
    )
  }
})

test_that("a model of a MuData takes proteins and regions from an object", {
  model <- model_of("MULTIVI")
  data <- cells_of(model)
  both <- expect_pythons_counts(sce_of(data), model)
  expect_equal(
    unname(SingleCellExperiment::reducedDim(both$found, "scvi")),
    t(python_matrix(both$python$obsm[["X_scvi"]])),
    tolerance = 1e-5
  )
  skip_without("Seurat")
  expect_pythons_counts(seurat_of(data), model)
})

test_that("proteins with the names of genes are not read from the genes", {
  model <- model_of("TOTALVI")
  data <- cells_of(model)
  genes <- data$proteins[, rev(seq_len(ncol(data$proteins)))]
  colnames(genes) <- colnames(data$proteins)
  named_alike <- data
  named_alike$counts <- rbind(data$counts, genes)
  python <- of_python("denoised_expression", model)
  latent <- t(python_matrix(python$obsm[["X_scvi"]]))
  sce <- sce_of(data)
  tags <- SingleCellExperiment::altExp(sce, "ADT")
  decoy <- SummarizedExperiment::SummarizedExperiment(list(counts = named_alike$counts))
  SingleCellExperiment::altExps(sce) <- list(genes = decoy, ADT = tags)
  found <- add_latent(sce, model, progress = FALSE)
  expect_equal(unname(SingleCellExperiment::reducedDim(found, "scvi")), latent, tolerance = 1e-5)
  skip_without("Seurat")
  object <- suppressWarnings(seurat_of(named_alike)) # of Seurat, about "_"
  found <- add_latent(object, model, progress = FALSE)
  expect_equal(unname(SeuratObject::Embeddings(found, "scvi")), latent, tolerance = 1e-5)
})

test_that("a reduction with the name of the proteins is refused before any work", {
  skip_without("Seurat")
  model <- model_of("TOTALVI")
  object <- seurat_of(cells_of(model))
  means <- matrix(1, ncol(object), 2, dimnames = list(colnames(object), c("q_1", "q_2")))
  object[["proteins"]] <- SeuratObject::CreateDimReducObject(means, key = "q_", assay = "RNA")
  testthat::local_mocked_bindings(data_for_model = function(...) stop("work has started"))
  for (call in list(corrected_counts, normalized_expression, denoised_expression)) {
    expect_error(
      call(object, model),
      "as the assay proteins, but the object has a reduction of that name",
      class = "scvibridge_error"
    )
  }
})

test_that("an object without the proteins, or with counts where the result goes, is refused", {
  model <- model_of("TOTALVI")
  data <- cells_of(model)
  refused <- function(object, message) {
    refusal <- expect_error(correct_beside(object, model), class = "scvibridge_error")
    expect_match(conditionMessage(refusal), message, fixed = TRUE)
    expect_match(conditionMessage(refusal), "^(the model|the normalized|2 of)")
  }
  sce <- sce_of(data)
  without <- sce
  SingleCellExperiment::altExp(without, "ADT") <- NULL
  refused(without, "also encodes 11 proteins (CD_0, CD_1, CD_2, ...)")
  refused(without, "(it has the altExps decoy)")
  SingleCellExperiment::altExpNames(sce) <- c("decoy", "proteins")
  refused(sce, "rename it first, altExpNames()")

  skip_without("Seurat")
  seurat <- seurat_of(data)
  fewer <- seurat
  suppressWarnings(
    fewer[["ADT"]] <- subset(seurat[["ADT"]], cells = colnames(seurat)[-(1:2)])
  )
  refused(fewer, "2 of the 150 cells have no counts of the proteins")
  seurat[["proteins"]] <- SeuratObject::CreateAssay5Object(
    counts = SeuratObject::LayerData(seurat, "counts", assay = "ADT")
  )
  refused(seurat, "rename it first, RenameAssays()")
})
# nolint end
