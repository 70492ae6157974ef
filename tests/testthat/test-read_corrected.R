# Results whose matrices stay on disk, against the same in memory and against Python.

test_that("on disk there is the same as in memory", {
  skip_without("HDF5Array")
  file <- odd_file()
  in_memory <- read_corrected(file)
  on_disk <- read_corrected(file, backed = TRUE)
  expect_identical(in_memory, as_sce(file))
  expect_identical(without_assays(on_disk), without_assays(in_memory))
  expect_same_assays(on_disk, in_memory)
  for (assay in as.list(SummarizedExperiment::assays(on_disk))) {
    expect_s4_class(assay, "H5ADMatrix")
  }
  expect_true(DelayedArray::is_sparse(SummarizedExperiment::assay(on_disk, "corrected")))
})

test_that("a selection has the same values and names", {
  skip_without("HDF5Array")
  file <- odd_file()
  genes <- c("GENE", "a_b", "MT_CO1")
  cells <- c(7, 2, 12)
  on_disk <- read_corrected(file, backed = TRUE)[genes, cells]
  expect_same_assays(on_disk, as_sce(file)[genes, cells])
  corrected <- SummarizedExperiment::assay(on_disk, "corrected")
  expect_s4_class(corrected, "DelayedMatrix")
  expect_identical(dimnames(corrected), list(genes, paste0("cell_", cells - 1, "-1")))
  whole <- SummarizedExperiment::assay(as_sce(file), "corrected")
  expect_equal(
    DelayedArray::colSums(corrected), Matrix::colSums(whole[genes, cells])
  )
})

test_that("matrices in other forms are turned the right way", {
  skip_without("HDF5Array")
  sparse <- reticulate::import("scipy.sparse", convert = FALSE)
  for (form in c("csc_matrix", "dense", "int64 indptr")) {
    adata <- test_module("odd_result")$odd_counts()
    expected <- python_matrix(adata$X)
    if (form == "dense") {
      adata$X <- adata$X$toarray()
    } else if (form == "csc_matrix") {
      adata$X <- sparse$csc_matrix(adata$X)
    } else {
      adata$X$indptr <- adata$X$indptr$astype("int64")
    }
    on_disk <- read_corrected(odd_file(adata), backed = TRUE)
    found <- in_memory(SummarizedExperiment::assay(on_disk, "corrected"))
    expect_identical(unname(found), expected, label = form)
  }
})

test_that("expressions have the name of their kind", {
  skip_without("HDF5Array")
  file <- odd_file(test_module("odd_result")$odd_expression("denoised_expression"))
  expect_same_assays(read_corrected(file, backed = TRUE), as_sce(file))
})

test_that("a 10x file has the counts and the names of the genes", {
  skip_without("HDF5Array")
  adata <- test_module("odd_result")$odd_counts()
  adata$var$insert(0L, "gene_ids", reticulate::r_to_py(as.list(paste0("ENSG", 1:7))))
  file <- odd_file(adata, ".h5")
  on_disk <- read_corrected(file, backed = TRUE)
  expect_s4_class(SummarizedExperiment::assay(on_disk, withDimnames = FALSE), "DelayedMatrix")
  expect_same_assays(on_disk, as_sce(file))
  expect_same_values(in_memory(SummarizedExperiment::assay(on_disk, "corrected")), adata$X)
  expect_identical(rownames(on_disk), reticulate::py_to_r(adata$var_names$tolist()))
  expect_identical(SummarizedExperiment::rowData(on_disk)$gene_ids, paste0("ENSG", 1:7))
  expect_identical(S4Vectors::metadata(on_disk)$scvibridge$kind, "corrected_counts")
})

test_that("a zarr folder is read into memory alone", {
  file <- odd_file(ending = ".zarr")
  adata <- test_module("odd_result")$odd_counts()
  expect_same_values(SummarizedExperiment::assay(read_corrected(file), "corrected"), adata$X)
  expect_error(
    read_corrected(file, backed = TRUE), "zarr folder.*out = \"x.h5ad\"",
    class = "scvibridge_error"
  )
})

test_that("what is no result is refused", {
  skip_without("HDF5Array")
  adata <- test_module("odd_result")$odd_counts()
  adata$uns <- reticulate::dict()
  file <- odd_file(adata)
  for (backed in c(TRUE, FALSE)) {
    expect_error(
      read_corrected(file, backed = backed), "not a result of scvibridge",
      class = "scvibridge_error"
    )
    expect_error(
      read_corrected("absent.h5ad", backed = backed), "there is no file absent.h5ad",
      class = "scvibridge_error"
    )
  }
  expect_error(read_corrected(1), "path must be a single string", class = "scvibridge_error")
  expect_error(read_corrected(file, NA), "backed must be TRUE or FALSE", class = "scvibridge_error")
})

test_that("more nonzeros than R's integers can count stay on disk", {
  skip_without("HDF5Array")
  large <- test_module("large_result")
  file <- tempfile(fileext = ".h5ad")
  on.exit(unlink(file))
  large$write(file)
  sce <- read_corrected(file, backed = TRUE)
  expect_identical(dim(sce), c(50000L, 60000L))
  corrected <- SummarizedExperiment::assay(sce, "corrected")
  expect_identical(HDF5Array::nzcount(DelayedArray::seed(corrected)), 2.4e9)
  last <- methods::as(corrected[, 59998:60000], "dgCMatrix")
  expect_same_values(last, large$expected())
  expect_identical(
    in_memory(corrected[c("GENE49999", "GENE0"), 59999:60000]),
    as.matrix(last[c("GENE49999", "GENE0"), 2:3])
  )
  skip_without("Seurat")
  skip_if(requireNamespace("BPCells", quietly = TRUE), "BPCells leaves it on disk")
  expect_error(suppressMessages(as_seurat(sce)), "BPCells")
})

test_that("a sparse array of Bioconductor holds what a dgCMatrix cannot", {
  skip_without("SparseArray")
  file <- odd_file()
  expected <- as_sce(file)
  columns <- scvibridge_module("r.columns")
  assays <- scvibridge_module("r.assays")
  on.exit({
    reticulate::py_set_attr(columns, "R_MAX_INTEGER", .Machine$integer.max)
    reticulate::py_set_attr(assays, "_NONZEROS_OF_BLOCK", as.integer(2^28))
  })
  n_values <- vapply(c("counts", "corrected"), function(name) {
    Matrix::nnzero(SummarizedExperiment::assay(expected, name))
  }, 1)
  most <- as.integer(min(n_values) - 1)
  reticulate::py_set_attr(columns, "R_MAX_INTEGER", most)
  reticulate::py_set_attr(assays, "_NONZEROS_OF_BLOCK", most %/% 5L)
  expect_message(found <- as_sce(file), "the assay corrected has more .*SVT_SparseMatrix")
  testthat::local_mocked_bindings(most_values_of_dgc = most)
  for (name in c("counts", "corrected")) {
    array <- SummarizedExperiment::assay(found, name)
    expect_s4_class(array, "SVT_SparseMatrix")
    expect_identical(SparseArray::type(array), "integer")
    dense <- as.matrix(SummarizedExperiment::assay(expected, name))
    expect_identical(as.matrix(array) + 0, dense)
    expect_equal(SparseArray::colSums(array), colSums(dense))
  }
  expect_identical(
    SummarizedExperiment::assay(found, "normalized"),
    SummarizedExperiment::assay(expected, "normalized")
  )
  # It is read in blocks, and written to a file.
  testthat::local_mocked_bindings(values_in_block = nrow(found) * 7)
  expect_identical(
    python_matrix(reticulate::r_to_py(as_anndata(found, assay = "corrected"))$X),
    unname(as.matrix(SummarizedExperiment::assay(expected, "corrected")))
  )
  copy <- tempfile(fileext = ".h5ad")
  write_h5ad(found, copy, progress = FALSE)
  written <- suppressMessages(as_sce(copy))
  expect_identical(
    as.matrix(SummarizedExperiment::assay(written, "corrected")),
    as.matrix(SummarizedExperiment::assay(found, "corrected"))
  )
  changed <- found
  SummarizedExperiment::assay(changed, "corrected") <-
    SummarizedExperiment::assay(found, "corrected") / 2
  expect_error(write_h5ad(changed, copy, overwrite = TRUE), "no longer holds counts")
  skip_without("Seurat")
  expect_error(suppressMessages(as_seurat(found)), "more than 2\\^31 - 1 .* select cells or genes")
  expect_identical(
    as.matrix(SeuratObject::LayerData(
      suppressMessages(as_seurat(found[, 1:5])), "counts",
      assay = "corrected"
    )),
    as.matrix(SeuratObject::LayerData(
      suppressMessages(as_seurat(expected[, 1:5])), "counts",
      assay = "corrected"
    ))
  )
})

test_that("a Seurat object is made of it in memory, as of the same in memory", {
  skip_without("HDF5Array", "Seurat")
  skip_if(requireNamespace("BPCells", quietly = TRUE), "BPCells leaves it on disk")
  file <- odd_file()
  on_disk <- read_corrected(file, backed = TRUE)
  messages <- capture_messages(found <- as_seurat(on_disk))
  expect_match(
    messages, "read into memory: counts, corrected, normalized.*BPCells",
    all = FALSE
  )
  expect_identical(found, suppressMessages(as_seurat(as_sce(file))))
})
