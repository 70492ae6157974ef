# Matrices whose slots were changed, which Matrix's own functions take for what they are.
counts <- function() {
  values <- matrix(c(0, 3, 1, 0, 0, 2, 5, 0, 0, 1, 1, 4), 3)
  dimnames(values) <- list(paste0("g", 1:3), paste0("c", 1:4))
  Matrix::Matrix(values, sparse = TRUE)
}

changed <- function(slot, at, value, class = "dgCMatrix") {
  x <- methods::as(counts(), class)
  values <- methods::slot(x, slot)
  values[at] <- as.integer(value)
  methods::slot(x, slot, check = FALSE) <- values
  x
}

test_that("positions outside of a matrix are refused", {
  skip_without("Matrix")
  for (value in c(3, -1, 2^30, NA)) {
    expect_error(
      matrix_reader(changed("i", 2, value)),
      "damaged sparse matrix: its slot i has positions outside 0 to 2",
      class = "scvibridge_error"
    )
  }
  triplets <- changed("j", 2, 4, "TsparseMatrix")
  expect_error(matrix_reader(triplets), "its slot j has positions outside 0 to 3")
  rows <- changed("j", 2, -2, "RsparseMatrix")
  expect_error(matrix_reader(rows), "its slot j has positions outside 0 to 3")
})

test_that("pointers that do not fit are refused", {
  skip_without("Matrix")
  for (at in 1:5) {
    expect_error(
      matrix_reader(changed("p", at, 100)),
      "its slot p does not increase from 0 to 7, the number of its values, in 4 steps",
      class = "scvibridge_error"
    )
  }
  expect_error(matrix_reader(changed("p", 2, 100, "RsparseMatrix")), "from 0 to 7, .* in 3 steps")
})

test_that("whole matrices of any kind are read as they are", {
  skip_without("Matrix")
  for (class in c("CsparseMatrix", "RsparseMatrix", "TsparseMatrix")) {
    x <- methods::as(counts(), class)
    expect_identical(as.matrix(matrix_reader(x)(1:4)), as.matrix(counts()))
  }
  none <- Matrix::Matrix(0, 3, 0, sparse = TRUE)
  expect_identical(dim(matrix_reader(none)(integer())), c(3L, 0L))
  expect_identical(sum(matrix_reader(Matrix::Matrix(0, 3, 4, sparse = TRUE))(1:4)), 0)
})

test_that("Python is not called with a damaged matrix", {
  skip_without("Matrix")
  expect_error(as_anndata(changed("i", 2, 2^30)), "damaged sparse matrix")
})
