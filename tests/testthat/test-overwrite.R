test_that("a result that exists is replaced where that is asked for alone", {
  skip_without("HDF5Array", "SingleCellExperiment")
  model <- example_model()
  out <- tempfile(fileext = ".h5ad")
  denoise <- function(...) denoised_expression(model, out = out, progress = FALSE, ...)
  denoise(indices = 1:20)
  before <- tools::md5sum(out)
  expect_error(
    denoise(), "exists: choose another name, or set overwrite = TRUE", class = "scvibridge_error"
  )
  expect_identical(tools::md5sum(out), before)
  expect_identical(ncol(denoise(indices = 1:20, resume = TRUE)), 20L)
  expect_identical(tools::md5sum(out), before)
  expect_identical(ncol(denoise(indices = 1:10, overwrite = TRUE)), 10L)
  expect_error(denoise(overwrite = NA), "overwrite")
})

test_that("files that are read are not replaced", {
  skip_without("HDF5Array", "SingleCellExperiment")
  files <- example_files()
  model <- load_scvi(files$model, files$adata)
  before <- tools::md5sum(files$adata)
  expect_error(
    denoised_expression(model, out = files$adata, overwrite = TRUE, progress = FALSE),
    "is a file that is being read"
  )
  out <- tempfile(fileext = ".h5ad")
  on_disk <- suppressWarnings(corrected_counts(
    model, transform_batch = "V3", out = out, progress = FALSE
  ))
  held <- tools::md5sum(out)
  expect_error(write_h5ad(on_disk, out, overwrite = TRUE), "is a file that is being read")
  link <- tempfile(fileext = ".h5ad")
  file.symlink(out, link)
  raw <- methods::as(on_disk, "SingleCellExperiment")
  expect_error(
    denoised_expression(raw, model, out = link, overwrite = TRUE), "is a file that is being read"
  )
  expect_identical(tools::md5sum(out), held)
  expect_identical(tools::md5sum(files$adata), before)
})

test_that("reports and extended models have the same rule", {
  model <- example_model()
  page <- tempfile(fileext = ".html")
  writeLines("older", page)
  counts <- suppressWarnings(corrected_counts(model, transform_batch = "V3", progress = FALSE))
  if (reticulate::py_module_available("jinja2")) {
    expect_error(scvi_report(counts, page, progress = FALSE), "set overwrite = TRUE")
    expect_identical(readLines(page), "older")
    scvi_report(counts, page, overwrite = TRUE, progress = FALSE)
    expect_match(paste(readLines(page, warn = FALSE), collapse = ""), "<html")
  }
  folder <- tempfile("model")
  dir.create(folder)
  expect_error(
    extend_genes(model, example_files()$adata, save = folder), "set overwrite = TRUE"
  )
  expect_identical(list.files(folder), character())
})

test_that("an example replaces no data and no model", {
  skip_without_python()
  for (name in c("data.h5ad", "model")) {
    folder <- tempfile("example")
    dir.create(folder)
    writeLines("mine", file.path(folder, name))
    expect_error(
      example_scvi(folder), paste0("dir: .*", name, " exists: choose another folder"),
      class = "scvibridge_error"
    )
    expect_identical(list.files(folder), name)
    expect_identical(readLines(file.path(folder, name)), "mine")
  }
})

test_that("files that alternative experiments or cells given by adata lie in are not replaced", {
  skip_without("HDF5Array", "SingleCellExperiment")
  model <- example_model()
  out <- tempfile(fileext = ".h5ad")
  on_disk <- suppressWarnings(corrected_counts(
    model,
    transform_batch = "V3", out = out, progress = FALSE
  ))
  held <- tools::md5sum(out)
  beside <- on_disk
  for (name in SummarizedExperiment::assayNames(beside)) {
    values <- as.matrix(SummarizedExperiment::assay(beside, name))
    SummarizedExperiment::assay(beside, name, withDimnames = FALSE) <- values
  }
  SingleCellExperiment::altExp(beside, "scvi") <- on_disk
  expect_error(write_h5ad(beside, out, overwrite = TRUE), "is a file that is being read")
  expect_error(
    denoised_expression(model, adata = on_disk, out = out, overwrite = TRUE, progress = FALSE),
    "is a file that is being read"
  )
  expect_identical(tools::md5sum(out), held)
})
