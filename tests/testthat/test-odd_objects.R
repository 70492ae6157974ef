# Objects that are not quite as others are: small, renamed, old, or with columns of other classes.

odd_sce <- function(n_genes = 12, n_cells = 8) {
  counts <- matrix(
    seq_len(n_genes * n_cells) %% 5, n_genes, n_cells,
    dimnames = list(paste0("g", seq_len(n_genes)), paste0("c", seq_len(n_cells)))
  )
  corrected <- counts + 1
  SingleCellExperiment::SingleCellExperiment(
    list(counts = counts, corrected = corrected, normalized = log2(corrected + 1)),
    reducedDims = list(scvi = matrix(stats::rnorm(2 * n_cells), n_cells))
  )
}

counts_in <- function(adata) t(as.matrix(adata$to_df())) + 0

refused <- function(expression, ...) {
  expect_error(suppressMessages(expression), ..., class = "scvibridge_error")
}

seurat_layer <- function(object, assay, layer = "counts") {
  as.matrix(SeuratObject::GetAssay(object, assay)[[layer]])
}

test_that("one gene, one cell or one value makes a Seurat object", {
  skip_without("Seurat")
  sce <- odd_sce()
  for (part in list(sce[3, ], sce[, 3], sce[3, 3])) {
    expect_message(
      object <- as_seurat(part), "^RNA and corrected created as version 3 assays: .* a single gene"
    )
    expect_identical(dim(object), dim(part))
    for (name in c("counts", "corrected")) {
      held <- SeuratObject::GetAssayData(object[[c(counts = "RNA", corrected = "corrected")[[name]]]])
      expect_identical(dim(held), dim(part))
    }
    corrected <- SummarizedExperiment::assay(part, "corrected")
    raw <- methods::slot(object[["corrected"]], "counts")
    expect_identical(as.matrix(raw), corrected)
    expect_equal(
      as.matrix(methods::slot(object[["corrected"]], "data")),
      log1p(sweep(corrected, 2, colSums(corrected) / 1e4, "/"))
    )
    plotted <- methods::slot(object[["scvi_normalized"]], "data")
    expect_identical(plotted, log1p(SummarizedExperiment::assay(part, "normalized")))
    expect_identical(
      unname(SeuratObject::Embeddings(object, "scvi")),
      unname(SingleCellExperiment::reducedDim(part, "scvi"))
    )
  }
})

test_that("results of one gene go into the Seurat object that the counts came from", {
  skip_without("Seurat")
  object <- example_seurat()
  expect_message(
    found <- suppressWarnings(corrected_counts(
      object, example_model(),
      transform_batch = "V3", gene_list = "GENE3", progress = FALSE
    )),
    "^corrected created as version 3 assay: "
  )
  all <- suppressWarnings(corrected_counts(
    object, example_model(),
    transform_batch = "V3", progress = FALSE
  ))
  one <- methods::slot(found[["corrected"]], "counts")
  expect_equal(dim(one), c(1, ncol(object)))
  expect_identical(
    as.vector(one), unname(SeuratObject::LayerData(all, "counts", assay = "corrected")[rownames(one), ])
  )
})

test_that("columns with classes of their own become plain ones in feature metadata", {
  skip_without("Seurat")
  sce <- odd_sce()
  day <- as.Date("2024-01-01") + 0:11
  time <- as.POSIXct("2024-03-01 10:30:00", tz = "UTC") + 0:11
  genes <- S4Vectors::DataFrame(
    day = day, time = time, span = as.difftime(1:12, units = "days"),
    run = S4Vectors::Rle(rep(c("a", "b"), 6)), level = factor(rep(c("x", "y"), 6)),
    row.names = rownames(sce)
  )
  genes$local <- as.POSIXlt(time)
  genes$parts <- as.list(1:12)
  genes$nested <- S4Vectors::DataFrame(a = 1:12)
  SummarizedExperiment::rowData(sce) <- genes
  said <- character()
  object <- withCallingHandlers(as_seurat(sce), message = function(m) {
    said <<- c(said, conditionMessage(m))
    invokeRestart("muffleMessage")
  })
  expect_match(said[1], "left out.* parts, nested of the genes")
  expect_match(paste(said, collapse = ""), "plain numbers: day, time, span, local")
  found <- object[["corrected"]][[]]
  expect_identical(found$day, format(day))
  expect_identical(found$time, format(time))
  expect_identical(found$local, format(time))
  expect_identical(found$span, as.double(1:12))
  expect_identical(found$run, rep(c("a", "b"), 6))
  expect_identical(found$level, genes$level)
  # Cells keep their classes, which Seurat takes there.
  SummarizedExperiment::rowData(sce) <- NULL
  sce$day <- day[1:8]
  expect_identical(as_seurat(sce)[[]]$day, day[1:8])
})

test_that("results of fewer genes than the object has are found in altExp scvi", {
  skip_without("Seurat")
  sce <- odd_sce()
  results <- c("corrected", "normalized")
  beside <- sce[c(5, 2, 7), ]
  rownames(beside)[1] <- rownames(sce)[5] <- "g_5"
  SummarizedExperiment::rowData(beside)$scvibridge_low_detection <- c(TRUE, FALSE, FALSE)
  SingleCellExperiment::altExp(sce, "scvi") <- beside
  for (name in results) SummarizedExperiment::assay(sce, name) <- NULL
  object <- suppressMessages(as_seurat(sce))
  expect_identical(SeuratObject::Assays(object), c("RNA", "corrected", "scvi_normalized"))
  expect_identical(SeuratObject::DefaultAssay(object), "RNA")
  genes <- c("g-5", "g2", "g7")
  held <- SeuratObject::LayerData(object, "counts", assay = "corrected")
  expect_identical(rownames(held), genes)
  expect_identical(
    unname(as.matrix(held)), unname(SummarizedExperiment::assay(beside, "corrected"))
  )
  plotted <- SeuratObject::LayerData(object, "data", assay = "scvi_normalized")
  expect_identical(
    unname(plotted), log1p(unname(SummarizedExperiment::assay(beside, "normalized")))
  )
  expect_identical(
    object[["corrected"]][[]]$scvibridge_low_detection, c(TRUE, FALSE, FALSE)
  )
  expect_equal(nrow(object[["RNA"]]), 12)
})

test_that("corrected counts of more genes than the model has survive the way to Seurat", {
  skip_without("Seurat")
  data <- example_data()
  counts <- rbind(data$counts, more = 1)
  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = counts), colData = data$cells)
  sce <- suppressWarnings(corrected_counts(
    sce, example_model(),
    transform_batch = "V3", progress = FALSE
  ))
  object <- suppressMessages(as_seurat(sce))
  held <- SeuratObject::LayerData(object, "counts", assay = "corrected")
  beside <- SingleCellExperiment::altExp(sce, "scvi")
  expect_identical(unname(held), unname(SummarizedExperiment::assay(beside, "corrected")))
  expect_identical(object[["corrected"]][[]]$original_name, rownames(beside))
  expect_gt(sum(held != SummarizedExperiment::assay(beside, "counts")), 0)
})

test_that("AggregateExpression() makes an object of all assays that have counts", {
  skip_without("Seurat")
  sce <- odd_sce()
  sce$group <- rep(c("a", "b"), 4)
  object <- as_seurat(sce)
  found <- suppressWarnings(suppressMessages(Seurat::AggregateExpression(
    object,
    group.by = "group", return.seurat = TRUE, verbose = FALSE
  )))
  expect_identical(SeuratObject::Assays(found), c("RNA", "corrected"))
  sums <- rowsum(t(SummarizedExperiment::assay(sce, "corrected")), sce$group)
  held <- SeuratObject::GetAssayData(found, assay = "corrected", layer = "counts")
  expect_identical(unname(as.matrix(held)), unname(t(sums)))
})

test_that("an assay whose names are in another order is refused, with both remedies", {
  sce <- odd_sce()
  counts <- SummarizedExperiment::assay(sce, "counts")
  moved <- sce
  SummarizedExperiment::assay(moved, "counts", withDimnames = FALSE) <- counts[12:1, 8:1]
  calls <- list(
    as_anndata, function(x) write_h5ad(x, tempfile(fileext = ".h5ad")),
    function(x) train_scvi(x, batch_key = "batch"),
    if (requireNamespace("Seurat", quietly = TRUE)) as_seurat
  )
  for (call in Filter(Negate(is.null), calls)) {
    refused(call(moved), "the assay counts .*'g1' is number 12 there but number 1 in the object")
  }
  # Each remedy, as the message says.
  remedies <- function(x) {
    said <- tryCatch(as_anndata(x), scvibridge_error = conditionMessage)
    pattern <- "(?<=inside, |values, )[^;]* <- [^;]*"
    commands <- regmatches(said, gregexpr(pattern, said, perl = TRUE))[[1]]
    expect_length(commands, 2)
    lapply(commands, function(command) {
      frame <- list2env(list(x = x), parent = asNamespace("SingleCellExperiment"))
      eval(parse(text = command), frame)
      frame$x
    })
  }
  fixed <- remedies(moved)
  expect_identical(counts_in(as_anndata(fixed[[1]])), `dimnames<-`(counts[12:1, 8:1], dimnames(sce)))
  expect_identical(counts_in(as_anndata(remedies(fixed[[2]])[[2]])), counts)
  # The same names of genes in the other order after a renaming: the order of the object is right.
  swapped <- sce
  rownames(swapped)[1:2] <- c("g2", "g1")
  refused(as_anndata(swapped), "'g2' is number 2 there but number 1")
  adata <- as_anndata(remedies(swapped)[[1]])
  expect_identical(counts_in(adata), `rownames<-`(counts, rownames(swapped)))
  latent <- SingleCellExperiment::reducedDim(sce, "scvi")
  rownames(latent) <- colnames(sce)
  turned <- sce
  SingleCellExperiment::reducedDim(turned, "scvi", withDimnames = FALSE) <- latent[8:1, ]
  refused(as_anndata(turned), "the reduced dimension scvi .*'c1' is number 8")
  if (requireNamespace("Seurat", quietly = TRUE)) {
    refused(as_seurat(turned), "the reduced dimension scvi .*'c1' is number 8")
  }
  in_order <- as_anndata(remedies(turned)[[2]])
  expect_equal(unname(in_order$obsm["X_scvi"]), unname(latent))
  # Other names at the same places are those from before a renaming.
  renamed <- sce
  rownames(renamed) <- paste0("symbol", 1:12)
  expect_no_warning(adata <- as_anndata(renamed))
  expect_identical(counts_in(adata), `rownames<-`(counts, rownames(renamed)))
  # Neither: the values cannot be reordered.
  other <- counts[12:1, ]
  rownames(other)[2] <- "unknown"
  SummarizedExperiment::assay(moved, "counts", withDimnames = FALSE) <- other
  said <- tryCatch(as_anndata(moved), scvibridge_error = conditionMessage)
  expect_match(said, "'g1' is number 12 there but number 1 in the object.* <- unname\\(")
  expect_no_match(said, "reorder")
})

test_that("assays of results in another order are refused wherever they are read", {
  sce <- as_sce(odd_file())
  parts <- list(
    counts = SummarizedExperiment::assay(sce, "counts"),
    corrected = SummarizedExperiment::assay(sce, "corrected")
  )
  calls <- list(
    as_sce, function(x) write_h5ad(x, tempfile(fileext = ".h5ad")),
    function(x) scvi_report(x, tempfile(fileext = ".html")),
    if (requireNamespace("Seurat", quietly = TRUE)) as_seurat
  )
  for (name in names(parts)) {
    moved <- sce
    values <- parts[[name]]
    SummarizedExperiment::assay(moved, name, withDimnames = FALSE) <- values[rev(rownames(sce)), ]
    beside <- SingleCellExperiment::SingleCellExperiment(
      list(counts = values[c(1, 1:nrow(values)), ] |> `rownames<-`(paste0("n", 0:nrow(values)))),
      altExps = list(scvi = moved)
    )
    for (call in Filter(Negate(is.null), calls)) {
      refused(call(moved), paste0("the assay ", name, " has the names of the genes in another order"))
    }
    refused(as_sce(beside), paste0("the assay ", name, " has the names of the genes in another order"))
  }
})

test_that("sparse arrays of Bioconductor are data", {
  skip_without("SparseArray")
  model <- example_model()
  sce <- as_sce(denoised_expression(model, progress = FALSE))
  counts <- SummarizedExperiment::assay(sce, "counts")
  cells <- as.data.frame(SummarizedExperiment::colData(sce))
  correct <- function(x, ...) {
    suppressWarnings(corrected_counts(x, model, transform_batch = "V3", progress = FALSE, ...))
  }
  expected <- as.matrix(correct(counts, cell_data = cells))
  for (class in c("SVT_SparseMatrix", "COO_SparseMatrix")) {
    given <- methods::as(counts, class)
    expect_identical(unname(counts_in(as_anndata(given))), unname(as.matrix(counts)))
    expect_equal(as.matrix(correct(given, cell_data = cells)), expected, ignore_attr = TRUE)
    in_sce <- SingleCellExperiment::SingleCellExperiment(list(counts = given), colData = cells)
    expect_identical(
      as.matrix(SummarizedExperiment::assay(correct(in_sce), "corrected")),
      `attr<-`(expected, "scvibridge", NULL)
    )
  }
})

test_that("counts in a table are taken", {
  counts <- SummarizedExperiment::assay(odd_sce(), "counts")
  for (table in list(as.data.frame(counts), S4Vectors::DataFrame(counts))) {
    sce <- SingleCellExperiment::SingleCellExperiment(list(counts = table))
    expect_identical(counts_in(as_anndata(sce)), counts)
  }
  wrong <- as.data.frame(counts)
  wrong$c3 <- "1"
  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = wrong))
  refused(as_anndata(sce), "that are not numeric: 'c3'")
  refused(as_anndata(as.data.frame(counts)), "convert it with as.matrix\\(x\\)")
})

test_that("bytes that are no UTF-8 are named, and marked text is converted", {
  sce <- odd_sce()
  bytes <- "M\xfcnster"
  given <- function(change) change(sce)
  refused(
    as_anndata(given(function(x) `$<-`(x, "site", bytes))),
    "column site of the cells .*\"M\\\\xfcnster\".*x\\$site <- iconv\\(x\\$site, \"latin1\""
  )
  refused(
    as_anndata(given(function(x) `$<-`(x, "site", factor(bytes)))), "levels\\(x\\$site\\) <- iconv"
  )
  refused(
    as_anndata(given(function(x) `colnames<-`(x, c(bytes, paste0("c", 2:8))))),
    "colnames\\(x\\) <- iconv"
  )
  marked <- iconv("M\u00fcnster", "UTF-8", "latin1")
  sce$site <- marked
  expect_identical(unique(as.character(as_anndata(sce)$obs$site)), "M\u00fcnster")
})

test_that("in the locale C, text that is not ASCII must be declared", {
  text <- "M\u00fcnster"
  bytes <- `Encoding<-`(text, "unknown")
  for (locale in c("C", "POSIX")) {
    refused(
      check_locale(c("a", bytes), "the column site", "x$site", locale),
      "column site .*locale C|POSIX.*UTF-8 locale.*Encoding\\(x\\$site\\) <- \"UTF-8\""
    )
    expect_silent(check_locale(c("a~\t", NA, text), "the column site", "x$site", locale))
  }
  expect_silent(check_locale(bytes, "the column site", "x$site", "C.UTF-8"))
})

test_that("layers of Seurat with one cell or gene are read", {
  skip_without_python()
  skip_without("Seurat")
  data <- example_data()
  object <- SeuratObject::CreateSeuratObject(data$counts, meta.data = data$cells)
  expected <- function(x, genes = rownames(data$counts)) {
    unname(as.matrix(data$counts[genes, sub("^._", "", colnames(x)), drop = FALSE]))
  }
  for (x in list(object[, 5], object["GENE3", ], object["GENE3", 5])) {
    expect_identical(unname(counts_in(as_anndata(x))), expected(x, rownames(x)))
  }
  joined <- merge(object[, 1:70], object[, 71:150], add.cell.ids = c("A", "B"))
  few <- joined[, c("A_cell1", "B_cell80", "B_cell81")]
  expect_identical(unname(counts_in(as_anndata(few))), expected(few))
  correct <- function(x) {
    suppressWarnings(corrected_counts(x, example_model(), transform_batch = "V3", progress = FALSE))
  }
  alone <- correct(few)
  of_all <- SeuratObject::LayerData(correct(joined), "counts", assay = "corrected")
  expect_identical(
    SeuratObject::LayerData(alone, "counts", assay = "corrected"), of_all[, colnames(few)]
  )
})

test_that("a reduced dimension without columns is no reduction of Seurat", {
  skip_without("Seurat")
  sce <- odd_sce()
  values <- matrix(seq_len(2 * ncol(sce)), ncol = 2)
  SingleCellExperiment::reducedDims(sce) <- list(none = values[, 0], UMAP = values)
  expect_message(found <- as_seurat(sce), "without columns are left out: none")
  expect_identical(SeuratObject::Reductions(found), "umap")
  expect_identical(unname(SeuratObject::Embeddings(found, "umap")), values)
})

test_that("a reduced dimension with text is left out with a warning", {
  skip_without_python()
  sce <- odd_sce()
  table <- data.frame(x = seq_len(ncol(sce)), cluster = "a", row.names = colnames(sce))
  SingleCellExperiment::reducedDims(sce) <- list(UMAP = table, PCA = table[, 1, drop = FALSE])
  message <- "values that are not numbers are left out: UMAP"
  expect_warning(adata <- as_anndata(sce), message)
  expect_identical(as.vector(adata$obsm[["X_pca"]]), as.double(table$x))
  expect_length(reticulate::py_to_r(reticulate::r_to_py(adata)$obsm$keys()), 1)
  skip_without("Seurat")
  SummarizedExperiment::assay(sce, "corrected") <- SummarizedExperiment::assay(sce, "counts")
  expect_warning(found <- suppressMessages(as_seurat(sce)), message)
  expect_identical(SeuratObject::Reductions(found), "pca")
})

test_that("objects of former versions of Seurat are named, with what helps", {
  skip_without("Seurat")
  counts <- methods::as(SummarizedExperiment::assay(odd_sce(), "counts"), "dgCMatrix")
  old <- SeuratObject::CreateSeuratObject(SeuratObject::CreateAssayObject(counts))
  old@version <- package_version("3.0.2")
  attr(old, "images") <- NULL
  # testthat would show the call, and with it the object, which Seurat cannot show.
  error_of <- function(call, object) {
    tryCatch(call(object), scvibridge_error = conditionMessage)
  }
  calls <- list(
    as_anndata, function(x) corrected_counts(x, example_model(), "V3"),
    function(x) train_scvi(x, batch_key = "batch"), function(x) scvi_damage(x, "batch"),
    function(x) write_h5ad(x, tempfile(fileext = ".h5ad"))
  )
  for (call in calls) {
    expect_match(
      error_of(call, old), "Seurat 3.0.2 \\(no slot images\\).*UpdateSeuratObject\\(x\\)"
    )
    expect_match(
      error_of(call, structure(list(), class = "seurat")), "Seurat 2, .*UpdateSeuratObject\\(x\\)"
    )
  }
  updated <- suppressMessages(SeuratObject::UpdateSeuratObject(old))
  expect_identical(counts_in(as_anndata(updated)), as.matrix(counts))
})

test_that("paths are checked when they are given", {
  refused(as_anndata("x.rds"), "readRDS\\(\"x.rds\"\\)")
  refused(as_anndata(file.path(tempdir(), "nowhere.h5ad")), "there is no file")
  refused(as_anndata(tempdir()), "has no extension")
  refused(train_scvi("x.rds", batch_key = "batch"), "readRDS\\(\"x.rds\"\\)")
  refused(load_scvi(example_files()$model, adata = "x.RDS"), "readRDS\\(\"x.RDS\"\\)")
  refused(corrected_counts(example_model(), adata = "x.rds", transform_batch = "V3"), "readRDS")
  refused(read_corrected("x.rds"), "readRDS")
  refused(scvi_report("x.rds"), "readRDS")
  file <- example_files()$adata
  expect_identical(as_anndata(file), file)
})
