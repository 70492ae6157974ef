# Plots of diagnostics: what they return against the tables, and what stands in the picture.

# lintr does not see what helper.R defines.
# nolint start: object_usage_linter.

# Evaluates a plot on a device of its own: its value, and the words in the picture.
drawn <- function(plotted) {
  file <- tempfile(fileext = ".pdf")
  grDevices::pdf(file, compress = FALSE, useKerning = FALSE)
  value <- tryCatch(withVisible(plotted), finally = grDevices::dev.off())
  expect_false(value$visible)
  lines <- grep("Tj$", readLines(file, warn = FALSE), value = TRUE, useBytes = TRUE)
  words <- sub("^.*?\\((.*)\\) Tj$", "\\1", lines, perl = TRUE)
  list(value = value$value, words = gsub("\\\\([()])", "\\1", words))
}

test_that("the plot of support shows the share of each label and batch", {
  found <- batch_support(
    example_model(),
    transform_batch = "V3", labels_key = "cell_type", progress = FALSE
  )
  picture <- drawn(plot(found))
  table <- found$labels
  for (i in seq_len(nrow(table))) {
    expected <- if (grepl("^too few", table$verdict[i])) NA_real_ else table$unsupported[i]
    expect_identical(picture$value[table$label[i], table$batch[i]], expected)
    share <- if (is.na(expected)) "?" else sprintf("%.0f%%", 100 * expected)
    if (table$n_cells[i] > 0) {
      expect_true(sprintf("%s of %d", share, table$n_cells[i]) %in% picture$words)
    }
  }
  expect_true("cells without support in 'V3'" %in% picture$words)
  expect_true(all(table$label %in% picture$words) && all(table$batch %in% picture$words))

  # A label that the target has none of, too few cells, and no cell.
  found$labels <- data.frame(
    label = c("B", "B", "T", "T"), batch = c("V2", "V3", "V2", "V3"), n_cells = c(4, 0, 1500, 2),
    n_target = c(0, 0, 2, 2), unsupported = c(1, NaN, .25, 0),
    verdict = c("none in the target", "", "supported", "too few cells to tell")
  )
  picture <- drawn(plot(found))
  expect_identical(
    picture$value,
    matrix(c(1, .25, NA, NA), 2, dimnames = list(c("B", "T"), c("V2", "V3")))
  )
  expect_identical(
    intersect(picture$words, c("100% of 4", "none in target", "25% of 1,500", "? of 2", "? of 0")),
    c("100% of 4", "none in target", "25% of 1,500", "? of 2")
  )
})

test_that("the plot of a calibration shows each batch and its range", {
  found <- scvi_calibration(example_model(), n_references = 5, progress = FALSE)
  # The small example holds out too few cells to tell.
  expect_true(all(is.na(drawn(plot(found))$value)))
  batches <- rownames(found$batches)
  figures <- data.frame(
    variance = c(1.2, NA, 1), ks_rejection = c(.3, .05, .08), misfit = c("large", "none", "small"),
    variance_reference_low = c(.9, NA, .95), variance_reference_high = c(1.1, NA, 1.05),
    ks_rejection_reference_low = c(.01, .02, .03), ks_rejection_reference_high = c(.06, .07, .08)
  )
  expect_true(all(names(figures) %in% names(found$batches)))
  found$batches <- data.frame(figures, row.names = batches)
  for (figure in c("variance", "ks_rejection")) {
    picture <- drawn(plot(found, figure = figure))
    columns <- paste0(figure, c("", "_reference_low", "_reference_high"))
    expect_identical(
      picture$value, stats::setNames(found$batches[columns], c("value", "low", "high"))
    )
    expect_true(all(batches %in% picture$words))
  }
  expect_error(
    plot(found, figure = "mean"), "figure must be one of \"variance\", \"ks_rejection\"",
    class = "scvibridge_error"
  )
})

test_that("the batch effects of genes are those of Python's plot", {
  skip_if_not(reticulate::py_module_available("matplotlib"), "Python's matplotlib is not at hand")
  file <- tempfile(fileext = ".h5ad")
  result <- example_corrected()
  write_h5ad(result, file)
  reticulate::import("matplotlib")$use("Agg")
  axes <- python_scvibridge()$pl$batch_effect(file, labels_key = "cell_type", seed = 3L)
  points <- do.call(rbind, reticulate::iterate(axes$collections, function(drawn) {
    reticulate::py_to_r(drawn$get_offsets()$filled(NaN))
  }))
  points <- points[rowSums(is.na(points)) == 0, ]
  for (source in list(result, as_seurat(result), file)) {
    picture <- suppressMessages(drawn(plot_batch_effect(source, "cell_type", seed = 3)))
    found <- picture$value
    expect_named(found, c("gene", "batch", "before", "after", "depth_only"))
    expect_true(all(found$gene %in% rownames(result)))
    expect_equal(sort(found$before), sort(points[, 1]), tolerance = 1e-6)
    expect_equal(sort(found$after), sort(points[, 2]), tolerance = 1e-6)
    size <- attr(found, "settings")
    expect_equal(size$before, sqrt(mean(found$before^2)))
    expect_equal(size$after, sqrt(mean(found$after^2)))
    expect_match(picture$words, sprintf("RMS %.2f before", size$before), fixed = TRUE, all = FALSE)
    expect_true(all(found$batch %in% picture$words))
  }
  expect_error(
    plot_batch_effect(result, "no_such_column"), "no_such_column",
    class = "scvibridge_error"
  )
})

# nolint end
