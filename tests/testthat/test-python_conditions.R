# What Python is told of a call that it makes through rpy2.

test_that("a value comes with what was said on the way, in order", {
  said <- collect_conditions(function(x) {
    message("first")
    warning("second")
    message(" third \n")
    x + 1
  }, 1)
  expect_identical(
    said, list(value = 2, notes = c("first", "second", "third"), error = "", error_class = "")
  )
})

test_that("nothing of it is shown, and messages of loading are no notes", {
  expect_silent(said <- collect_conditions(function() {
    packageStartupMessage("welcome")
    warning("odd")
  }))
  expect_identical(said$notes, "odd")
})

test_that("an error comes with its message and class, after what was said before it", {
  said <- collect_conditions(function() {
    message("before")
    check_requires("no.such.package", "this test")
  })
  expect_null(said$value)
  expect_identical(said$notes, "before")
  expect_match(said$error, "this test requires the R package no.such.package; install with ")
  expect_identical(said$error_class, "scvibridge_missing_package")
})

test_that("matrices that Python fills have the names and every value 0", {
  found <- empty_matrix(c("a", "b", "c"), c("x", "y"))
  expect_identical(found, matrix(0, 3, 2, dimnames = list(c("a", "b", "c"), c("x", "y"))))
})
