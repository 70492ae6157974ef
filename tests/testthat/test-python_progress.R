# What Python tells of its progress, as R shows it.

progressions_of <- function(expression) {
  told <- list()
  withCallingHandlers(
    expression,
    progression = function(condition) told <<- c(told, list(condition))
  )
  Filter(function(condition) !inherits(condition, "control_progression"), told)
}

test_that("Python tells R's functions", {
  told <- list()
  note <- function(name) function(...) told <<- c(told, list(list(name, ...)))
  value <- run_work(sapply(c("start", "update", "finish"), note, simplify = FALSE))
  expect_identical(value, 2000L)
  expect_identical(told, list(
    list("start", "Computing counts", 2000L, "cells"), list("update", 500L), list("update", 1000L),
    list("update", 1500L), list("update", 2000L), list("finish")
  ))
})

test_that("inside of with_progress() they are conditions of progressr", {
  skip_without("progressr")
  shown <- progressions_of(progressr::with_progress(
    run_work(progress_reporter()),
    handlers = progressr::handler_void(), enable = TRUE
  ))
  types <- vapply(shown, function(condition) condition$type, character(1))
  expect_identical(types, c("initiate", rep("update", 4), "finish"))
  expect_identical(shown[[1]]$steps, 1000)
  amounts <- vapply(shown[2:5], function(condition) condition$amount, numeric(1))
  expect_identical(amounts, rep(250, 4))
  expect_identical(conditionMessage(shown[[3]]), "Computing counts: 1,000 of 2,000 cells")
})

test_that("a handler of progressr shows one step after the other to its end", {
  skip_without("progressr")
  shown <- capture.output(type = "message", progressr::with_progress(
    {
      run_work(progress_reporter())
      invisible(run_work(progress_reporter()))
    },
    handlers = progressr::handler_txtprogressbar, enable = TRUE
  ))
  shown <- paste(shown, collapse = "")
  expect_match(shown, "100%", fixed = TRUE)
  expect_no_match(shown, "interrupted", fixed = TRUE)
})

test_that("work that fails ends its progress", {
  skip_without("progressr")
  shown <- progressions_of(progressr::with_progress(
    expect_error(run_work(progress_reporter(), fail = TRUE), "broken", class = "scvibridge_error"),
    handlers = progressr::handler_void(), enable = TRUE
  ))
  types <- vapply(shown, function(condition) condition$type, character(1))
  expect_identical(types, c("initiate", "update", "update", "finish"))
})

test_that("a terminal shows a bar of cli with rate and time left", {
  skip_without("cli")
  previous <- options(
    cli.dynamic = TRUE, cli.progress_show_after = 0, cli.progress_clear = FALSE, cli.width = 80
  )
  on.exit(options(previous))
  shown <- cli::cli_fmt(run_work(progress_reporter(), seconds = 0.25)) # cli draws every 0.2 s
  expect_match(
    paste(shown, collapse = "\n"),
    "Computing counts.* [0-9]+% [0-9.k]+/s ETA: +[0-9]"
  )
})

test_that("elsewhere Python writes lines by itself", {
  skip_without("cli")
  previous <- options(cli.dynamic = FALSE)
  on.exit(options(previous))
  expect_null(progress_reporter())
})

test_that("a display that fails does not end the work", {
  failing <- function(...) stop("no terminal")
  reporter <- quiet_reporter(list(start = failing, update = failing, finish = failing))
  expect_identical(run_work(reporter), 2000L)
})

test_that("the steps of corrected_counts() are shown", {
  skip_without("progressr")
  model <- example_model()
  test_module("slow_work")$start()
  correct <- function(progress) {
    progressions_of(progressr::with_progress(
      suppressWarnings(corrected_counts(model, transform_batch = "V3", progress = progress)),
      handlers = progressr::handler_void(), enable = TRUE
    ))
  }
  messages <- vapply(correct(TRUE), conditionMessage, character(1))
  expect_true("Computing counts: 150 of 150 cells" %in% messages, info = toString(messages))
  expect_length(correct(FALSE), 0)
})
