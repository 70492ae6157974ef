escapes <- "\u001b]0;owned\u0007\u001b[2J\u202e"
escaped <- "\\u001b]0;owned\\u0007\\u001b[2J\\u202e"

test_that("text shows what a terminal would obey", {
  expect_identical(printable(escapes), escaped)
  expect_identical(printable(c("plain \u00e9\u4e2d", "a\nb", "")), c("plain \u00e9\u4e2d", "a\nb", ""))
  expect_identical(printable(character()), character())
  expect_identical(printable("a\xffb"), "a<ff>b")
  expect_identical(printable(1.5), "1.5")
})

test_that("errors, warnings and messages of the package show names so", {
  expect_error(stop_scvibridge("batch ", escapes), escaped, fixed = TRUE)
  expect_message(announce_replacing("assay", escapes), escaped, fixed = TRUE)
  table <- data.frame(a = 1)
  table[[escapes]] <- list(mean)
  expect_warning(python_columns(table, "cells"), escaped, fixed = TRUE)
})

test_that("errors and warnings of Python show names so", {
  skip_without_python()
  error <- tryCatch(load_scvi(paste0("absent", escapes)), error = identity)
  expect_s3_class(error, "scvibridge_error")
  expect_identical(conditionMessage(error), printable(conditionMessage(error)))
  expect_match(conditionMessage(error), escaped, fixed = TRUE)
})

test_that("the print of a model shows names so", {
  model <- example_model()
  model$summary$batches <- escapes
  printed <- capture.output(print(model))
  expect_identical(printed, printable(printed))
  expect_true(any(grepl(escaped, printed, fixed = TRUE)))
})
