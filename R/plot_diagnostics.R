#' Plots of diagnostics
#'
#' `plot()` of the value of [batch_support()] shows the share of cells without support in the target
#' for each label and batch; of [scvi_calibration()], a figure of each batch against its range in
#' reference data; `plot_batch_effect()` shows the batch effect of each gene after a correction
#' against that before. They use base graphics, and return the plotted values, to be plotted in
#' another way. `Seurat::DimPlot()` and `scater::plotReducedDim()` plot cells.
#'
#' @param x The value of [batch_support()] or [scvi_calibration()].
#' @param figure `"variance"` (of the normal scores of the counts) or `"ks_rejection"` (share of
#'   genes that the Kolmogorov-Smirnov test rejects at 5 %).
#' @param result The value of [corrected_counts()] or the path of its file, as in [scvi_report()].
#' @param labels_key Column of the cells' metadata with cell types; by default the one used to
#'   compute the result.
#' @param seed Seed of the shuffled batches from which chance is estimated, a whole number from 0 to
#'   2^32 - 1.
#' @param ... Not used.
#' @return Invisibly:
#' * `plot()` of support: the share of unsupported cells, a matrix of labels x batches; `NA` if
#'   there are too few cells to tell.
#' * `plot()` of a calibration: a data.frame with a row for each batch: `value`, and `low` and
#'   `high` of the reference data; `NA` if too few cells were held out.
#' * `plot_batch_effect()`: a data.frame with a row for each gene and batch: `gene`, `batch`, the
#'   log2 folds `before` and `after`, and `depth_only` (only depth was corrected); its attribute
#'   `settings` has their root mean squares, that of shuffled batches (`chance`), and what is `left`
#'   beyond chance.
#' @inheritSection corrected_counts Errors
#' @seealso [scvi_report()], which has these plots.
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' plot(batch_support(model, transform_batch = "V3", labels_key = "cell_type"))
#' counts <- corrected_counts(model, transform_batch = "V3", labels_key = "cell_type")
#' plot_batch_effect(counts)
#' @name plot_diagnostics
NULL

calibration_figures <- c(
  variance = "variance of normal scores (1: as predicted by the model)",
  ks_rejection = "share of genes rejected by the test"
)

misfit_colours <- c(none = "#0072B2", small = "#E69F00", large = "#D55E00")

#' @rdname plot_diagnostics
#' @method plot scvi_support
#' @exportS3Method
plot.scvi_support <- function(x, ...) {
  table <- x$labels
  labels <- unique(as.character(table$label))
  batches <- unique(as.character(table$batch))
  where <- cbind(match(table$label, labels), match(table$batch, batches))
  judged <- table$n_cells > 0 & table$verdict != "too few cells to tell"
  shares <- matrix(NA_real_, length(labels), length(batches), dimnames = list(labels, batches))
  shares[where] <- ifelse(judged, table$unsupported, NA)
  draw_shares(shares, paste("cells without support in", target_of_support(x)))
  words <- sprintf(
    "%s of %s%s", ifelse(judged, sprintf("%.0f%%", 100 * table$unsupported), "?"),
    format(table$n_cells, big.mark = ",", trim = TRUE),
    ifelse(table$n_target == 0, "\nnone in target", "")
  )
  dark <- judged & table$unsupported > .5
  there <- table$n_cells > 0
  graphics::text(
    where[there, 2], where[there, 1], words[there],
    col = ifelse(dark, "white", "black")[there], cex = .8
  )
  invisible(shares)
}

target_of_support <- function(x) {
  some_of(printable(unlist(x$settings$transform_batch)))
}

# An image of a matrix, the first row on top.
draw_shares <- function(shares, title) {
  columns <- seq_len(ncol(shares))
  rows <- seq_len(nrow(shares))
  before <- graphics::par(mar = c(3, margin_for(rownames(shares)), 3, 1))
  on.exit(graphics::par(before))
  graphics::image(
    columns, rows, t(shares),
    zlim = c(0, 1), ylim = rev(range(rows) + c(-.5, .5)), axes = FALSE, xlab = "", ylab = "",
    col = grDevices::hcl.colors(64, "Oranges", rev = TRUE), main = title
  )
  graphics::axis(1, columns, printable(colnames(shares)), tick = FALSE)
  graphics::axis(2, rows, printable(rownames(shares)), tick = FALSE, las = 1)
  graphics::box()
}

# Lines of margin that hold such labels.
margin_for <- function(labels) {
  min(14, 2 + .55 * max(nchar(labels), 0))
}

#' @rdname plot_diagnostics
#' @method plot scvi_calibration
#' @exportS3Method
plot.scvi_calibration <- function(x, figure = "variance", ...) {
  figure <- with_scvibridge_errors(as_choice(figure, "figure", names(calibration_figures)))
  table <- x$batches
  shown <- data.frame(
    value = table[[figure]],
    low = table[[paste0(figure, "_reference_low")]],
    high = table[[paste0(figure, "_reference_high")]],
    row.names = rownames(table)
  )
  rows <- seq_len(nrow(shown))
  colours <- misfit_colours[as.character(table$misfit)]
  before <- graphics::par(mar = c(4, margin_for(rownames(shown)), 3, 1))
  on.exit(graphics::par(before))
  plot(
    range(0, unlist(shown), finite = TRUE), range(rows) + c(-.6, .6),
    type = "n", ylim = rev(range(rows) + c(-.6, .6)), yaxt = "n", ylab = "",
    xlab = calibration_figures[[figure]],
    main = "held-out cells (points) and sampled data (bars)"
  )
  graphics::rect(shown$low, rows - .25, shown$high, rows + .25, col = "#D5DAE0", border = NA)
  graphics::points(shown$value, rows, pch = 19, col = ifelse(is.na(colours), "#8A8A8A", colours))
  graphics::axis(2, rows, printable(rownames(shown)), tick = FALSE, las = 1)
  invisible(shown)
}

#' @rdname plot_diagnostics
#' @export
plot_batch_effect <- function(result, labels_key = NULL, seed = 0) {
  arguments <- arguments_of_call("plot_batch_effect(result)")
  with_scvibridge_errors({
    found <- call_with("batch_effect", arguments, result = effect_source(result))
    table <- assemble_data_frame(found$table)
    attr(table, "settings") <- assemble_nested(found$settings)
    draw_batch_effect(table)
    invisible(table)
  })
}

draw_batch_effect <- function(table) {
  size <- attr(table, "settings")
  batches <- unique(table$batch)
  colours <- grDevices::hcl.colors(max(length(batches), 2), "Dark 3")
  limit <- 1.05 * max(.1, abs(table$before), abs(table$after))
  plot(
    table$before, table$after,
    pch = ifelse(table$depth_only, 1, 19), col = colours[match(table$batch, batches)], cex = .5,
    xlim = c(-limit, limit), ylim = c(-limit, limit), asp = 1,
    xlab = "log2 fold before", ylab = "log2 fold after",
    main = sprintf(
      "%d folds: RMS %.2f before, %.2f after; left %.2f",
      nrow(table), size$before, size$after, size$left
    )
  )
  graphics::abline(0, 1, lty = 2, col = "#5B6470")
  graphics::abline(h = 0, col = "#5B6470")
  graphics::legend(
    "topleft", printable(batches),
    col = colours[seq_along(batches)], pch = 19, bty = "n", title = "batch"
  )
}
