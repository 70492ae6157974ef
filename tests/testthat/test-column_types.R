# Columns of the data come back as they went in, through training, files and results.

lots_of <- function(n = 60) {
  days <- as.Date("2024-01-01") + rep(0:1, n / 2)
  list(
    double = rep(c(1, 1e5), n / 2), integer = rep(c(2L, 7L), n / 2),
    logical = rep(c(TRUE, FALSE), n / 2), text = rep(c("a", "b"), n / 2),
    factor = factor(rep(c("10", "9"), n / 2), levels = c("9", "10", "11")),
    ordered = factor(rep(c("low", "high"), n / 2), levels = c("low", "high"), ordered = TRUE),
    day = days, time = as.POSIXct("2024-03-01 12:30:15", tz = "UTC") + 3600 * rep(0:1, n / 2),
    span = as.difftime(rep(c(1, 2.5), n / 2), units = "days")
  )
}

lot_data <- function(columns, n = 60) {
  set.seed(1)
  counts <- matrix(
    rpois(20 * n, 3), 20, n,
    dimnames = list(paste0("g", 1:20), paste0("c", seq_len(n)))
  )
  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = counts))
  for (name in names(columns)) {
    SummarizedExperiment::colData(sce)[[name]] <- columns[[name]]
  }
  sce
}

train_lots <- function(sce, batch, ...) {
  suppressWarnings(train_scvi(
    sce,
    batch_key = batch, n_top_genes = NULL, max_epochs = 2, device = "cpu", progress = FALSE, ...
  ))
}

correct <- function(...) suppressWarnings(corrected_counts(..., progress = FALSE))

as_given <- function(sce, columns) {
  lapply(as.list(SummarizedExperiment::colData(sce))[names(columns)], identity)
}

test_that("every kind of column comes back with its class, levels and values", {
  skip_without_python()
  columns <- lots_of()
  sce <- lot_data(columns)
  folder <- tempfile("model")
  model <- train_lots(
    sce, "double",
    labels_key = "factor", categorical_covariate_keys = c("ordered", "day"),
    continuous_covariate_keys = "integer", save = folder
  )
  result <- correct(model, transform_batch = 1)
  expect_identical(as_given(result, columns), columns)
  loaded <- correct(load_scvi(folder), transform_batch = 1)
  expect_identical(as_given(loaded, columns), columns)
  expect_identical(
    SummarizedExperiment::assay(loaded, "corrected"),
    SummarizedExperiment::assay(result, "corrected")
  )
  skip_without("HDF5Array")
  file <- tempfile(fileext = ".h5ad")
  correct(model, transform_batch = 1, out = file)
  expect_identical(as_given(as_sce(file), columns), columns)
})

test_that("batches of every type are targets as R has them, and as text", {
  skip_without_python()
  columns <- lots_of()
  sce <- lot_data(columns)
  for (name in c("double", "integer", "logical", "factor", "day")) {
    model <- train_lots(sce, name)
    target <- columns[[name]][2]
    result <- correct(model, transform_batch = target)
    expect_identical(SummarizedExperiment::colData(result)[[name]], columns[[name]])
    of_target <- SummarizedExperiment::colData(result)[[name]] == target
    expect_identical(of_target, columns[[name]] == target)
    counts <- SummarizedExperiment::assays(result)
    expect_identical(counts$corrected[, of_target], counts$counts[, of_target])
    by_text <- correct(model, transform_batch = as.character(target))
    expect_identical(SummarizedExperiment::assays(by_text)$corrected, counts$corrected)
    # The model's batches are read from a column of text as well.
    as_text <- sce
    SummarizedExperiment::colData(as_text)[[name]] <- as.character(columns[[name]])
    by_data <- correct(as_text, model, transform_batch = target)
    expect_identical(
      as.matrix(SummarizedExperiment::assay(by_data, "corrected")), as.matrix(counts$corrected)
    )
  }
})

test_that("names of numeric batches have no decimal point", {
  skip_without_python()
  model <- train_lots(lot_data(list(lot = rep(c(1, 2, 1e5), 20))), "lot")
  expect_identical(model$summary$batches, c("1", "2", "100000"))
  support <- suppressWarnings(batch_support(model, transform_batch = 2, progress = FALSE))
  expect_setequal(as.character(support$cells$batch), as.character(c(1, 2, 1e5)))
  expect_error(correct(model, transform_batch = 3), "batch 3 is not among 1, 2, 100000")
  expect_error(correct(model, transform_batch = "x"), "\"x\" is not among 1, 2, 100000")
  expect_setequal(rownames(choose_batch(model, progress = FALSE)), c("1", "2", "100000"))
})

test_that("arrays of one dimension are vectors", {
  skip_without_python()
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = example_data()$counts),
    colData = S4Vectors::DataFrame(example_data()$cells)
  )
  expected <- correct(sce, example_model(), transform_batch = "V3", labels_key = "cell_type")
  given <- sce
  given$batch <- array(as.character(sce$batch)) # as reticulate returns columns of pandas
  given$cell_type <- `dim<-`(sce$cell_type, ncol(sce))
  given$number <- array(seq_len(ncol(sce)) + 0.5)
  given$size <- table(sce$batch)[as.character(sce$batch)]
  obs <- expect_no_warning(as_anndata(given))$obs
  expect_identical(as.character(obs$cell_type), as.character(sce$cell_type))
  expect_identical(as.vector(obs$number), seq_len(ncol(sce)) + 0.5)
  expect_identical(as.vector(obs$size), as.vector(table(sce$batch)[as.character(sce$batch)]))
  found <- correct(given, example_model(), transform_batch = "V3", labels_key = "cell_type")
  corrected <- function(x) SummarizedExperiment::assay(x, "corrected")
  expect_identical(corrected(found), corrected(expected))
  skip_without("Seurat")
  metadata <- suppressMessages(as_seurat(found))[[]]
  expect_identical(metadata$batch, as.character(sce$batch))
  expect_identical(metadata$cell_type, sce$cell_type)
})

test_that("categories that are numbers in Python have the levels that factor() gives", {
  skip_without_python()
  pandas <- reticulate::import("pandas", convert = FALSE)
  columns <- reticulate::import_from_path("scvibridge.r.columns", python_code())
  level <- function(values) {
    categories <- pandas$Categorical(values)
    levels(assemble_column(columns$column(pandas$Series(categories))))
  }
  expect_identical(level(list(1, 2.5, 1e5)), levels(factor(c(1, 2.5, 1e5))))
  expect_identical(level(list(1L, 100000L)), levels(factor(c(1L, 100000L))))
  expect_identical(level(list(TRUE, FALSE)), levels(factor(c(TRUE, FALSE))))
})

test_that("times that the clock shows twice stay apart, and come back as they were", {
  # 2:30 in Berlin and 1:45 on Lord Howe Island, before and after the clocks are set back.
  berlin <- as.POSIXct("2023-10-29 00:30:00", tz = "UTC") + 3600 * c(-1, 0, 1, 2, NA)
  attr(berlin, "tzone") <- "Europe/Berlin"
  howe <- as.POSIXct("2024-04-06 14:45:00", tz = "UTC") + c(0, 1800, 3600)
  attr(howe, "tzone") <- "Australia/Lord_Howe"
  for (times in list(berlin, howe, berlin + 0.25)) {
    column <- python_column(times, "time")
    expect_identical(anyDuplicated(column$values), 0L)
    back <- with_r_class(as.vector(column$values), column$r_class)
    expect_equal(as.numeric(back), as.numeric(times), tolerance = 1e-15)
    expect_identical(attr(back, "tzone"), attr(times, "tzone"))
  }
  expect_identical(
    as.vector(python_column(berlin, "time")$values)[1:3],
    c("2023-10-29T01:30:00", "2023-10-29T02:30:00+0200", "2023-10-29T02:30:00+0100")
  )
  # As files of former versions have them.
  expect_identical(
    with_r_class("2023-10-29T01:30:00", "POSIXct Europe/Berlin"), berlin[1]
  )
  skip_without_python()
  sce <- correct(example_model(), transform_batch = "V3")
  sce$when <- rep(berlin[2:4], length.out = ncol(sce))
  file <- tempfile(fileext = ".h5ad")
  suppressWarnings(write_h5ad(sce, file, progress = FALSE))
  expect_identical(read_corrected(file)$when, sce$when)
})

test_that("times without a time zone are the same moments in a session of another zone", {
  given <- withr::with_timezone("America/New_York", {
    times <- as.POSIXct(c("2024-01-01 12:00", NA))
    list(times, as.POSIXlt(times), `attr<-`(times, "tzone", NULL))
  })
  expect_identical(attr(times, "tzone"), "")
  for (times in given) {
    column <- withr::with_timezone("America/New_York", python_column(times, "time"))
    expect_identical(as.vector(column$values)[1], "2024-01-01T12:00:00")
    back <- withr::with_timezone(
      "Asia/Tokyo", with_r_class(as.vector(column$values), column$r_class)
    )
    expect_identical(as.numeric(back), as.numeric(times))
  }
})

test_that("a column of scale() is a vector", {
  skip_without_python()
  sce <- lot_data(list(batch = rep(c("a", "b"), 30)))
  values <- sqrt(seq_len(60))
  plain <- given <- sce
  plain$score <- as.vector(scale(values))
  given$score <- scale(values)
  expect_identical(
    as.vector(reticulate::py_to_r(reticulate::r_to_py(as_anndata(given))$obs)$score), plain$score
  )
  model <- train_lots(given, "batch", continuous_covariate_keys = "score")
  found <- correct(given, model, transform_batch = "a")
  expect_identical(found$score, given$score)
  expected <- correct(plain, model, transform_batch = "a")
  expect_identical(SummarizedExperiment::assays(found), SummarizedExperiment::assays(expected))
  skip_without("Seurat")
  of_seurat <- function(x) suppressMessages(as_seurat(x))$score
  expect_identical(of_seurat(found), of_seurat(expected))
  # What scvibridge adds stays a matrix.
  detection <- matrix(1:20, dimnames = list(rownames(sce), NULL))
  expect_identical(python_column(detection, "scvibridge_detection")$kind, "matrix")
})
