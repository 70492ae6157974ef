# Objects of R as an AnnData: every value, against what R holds and what anndata says of it.



test_that("a sparse matrix is handed over by its own vectors", {
  skip_without_python()
  counts <- counts_of_r()
  columns <- columns_of_r(colnames(counts))
  adata <- as_anndata(counts, cell_data = columns[rev(seq_len(nrow(columns))), ])
  expect_anndata_of(adata, counts, columns)
  for (part in c(data = "x", indices = "i", indptr = "p")) {
    name <- c(x = "data", i = "indices", p = "indptr")[[part]]
    held <- reticulate::r_to_py(adata)$X[[name]]
    expect_identical(reticulate::py_str(held$dtype), if (part == "x") "float32" else "int32")
    expect_equal(as.vector(reticulate::py_to_r(held)), methods::slot(counts, part))
  }
})

test_that("the matrix of an AnnData can be read in R", {
  skip_without_python()
  counts <- counts_of_r()
  expect_equal(
    as.matrix(as_anndata(counts)$X), t(as.matrix(counts)),
    ignore_attr = TRUE
  )
})

test_that("columns are of pandas' kinds", {
  counts <- counts_of_r()
  skip_without_python()
  columns <- columns_of_r(colnames(counts))
  obs <- reticulate::r_to_py(as_anndata(counts, cell_data = columns))$obs
  kinds <- vapply(names(columns), function(name) reticulate::py_str(obs[[name]]$dtype), "")
  text <- reticulate::py_str(reticulate::import("pandas", convert = FALSE)$Series("a")$dtype)
  expect_identical(unname(kinds), c(
    "category", "category", "bool", "boolean", "int32", "Int32", "float64", text
  ))
  expect_true(reticulate::py_to_r(obs[["dose"]]$cat$ordered))
  expect_false(reticulate::py_to_r(obs[["donor"]]$cat$ordered))
})

test_that("numbers that are not whole keep their values", {
  skip_without_python()
  counts <- counts_of_r()
  halves <- counts / 2
  expect_identical(dtype_of(as_anndata(halves)), "float32")
  expect_anndata_of(as_anndata(halves), halves)
  thirds <- counts / 3
  expect_identical(dtype_of(as_anndata(thirds)), "float64")
  expect_anndata_of(as_anndata(thirds), thirds)
  many <- counts * 2^33
  expect_anndata_of(as_anndata(many), many)
})

test_that("matrices of any class have the same counts", {
  skip_without_python()
  counts <- counts_of_r()
  dense <- as.matrix(counts)
  whole <- dense
  storage.mode(whole) <- "integer"
  forms <- list(
    dense, whole, methods::as(counts, "TsparseMatrix"), methods::as(counts, "RsparseMatrix")
  )
  if (requireNamespace("HDF5Array", quietly = TRUE)) {
    forms <- c(forms, methods::as(whole, "HDF5Array"), methods::as(counts, "TENxMatrix"))
    forms <- c(forms, methods::as(counts, "SVT_SparseMatrix"))
  }
  for (form in forms) {
    adata <- as_anndata(form)
    expect_anndata_of(adata, counts)
    expect_identical(dtype_of(adata), "float32", label = class(form)[1])
  }
})

test_that("a SingleCellExperiment keeps its tables and reductions", {
  skip_without_python()
  sce <- small_sce()
  SingleCellExperiment::reducedDim(sce, "PCA") <- matrix(seq_len(120) / 7, 60)
  SummarizedExperiment::rowData(sce)$detection <- matrix(1:80, 40)
  adata <- reticulate::r_to_py(as_anndata(sce))
  expect_anndata_of(adata, SummarizedExperiment::assay(sce, "counts"))
  expect_columns_of_python(SummarizedExperiment::colData(sce), adata$obs)
  expect_columns_of_python(SummarizedExperiment::rowData(sce)["symbol"], adata$var)
  reductions <- c(X_scvi = "scvi", X_pca = "PCA")
  for (name in names(reductions)) {
    expect_identical(
      reticulate::py_to_r(adata$obsm[[name]]),
      unname(as.matrix(SingleCellExperiment::reducedDim(sce, reductions[[name]])))
    )
  }
  expect_equal(reticulate::py_to_r(adata$varm[["detection"]]), matrix(1:80, 40))
  expect_anndata_of(as_anndata(sce, "corrected"), SummarizedExperiment::assay(sce, "corrected"))
  expect_anndata_of(as_anndata(sce, 2), SummarizedExperiment::assay(sce, 2))
})

test_that("a Seurat object gives its counts, of both versions of assays", {
  skip_without_python()
  skip_without("Seurat")
  counts <- counts_of_r()
  columns <- columns_of_r(colnames(counts))
  old <- options(Seurat.object.assay.version = "v5")
  on.exit(options(old))
  for (version in c("v3", "v5")) {
    options(Seurat.object.assay.version = version)
    object <- SeuratObject::CreateSeuratObject(counts, meta.data = columns)
    object <- Seurat::NormalizeData(object, verbose = FALSE)
    embeddings <- matrix(seq_len(48) / 7, 24, dimnames = list(colnames(counts), c("p_1", "p_2")))
    object[["pca"]] <- SeuratObject::CreateDimReducObject(embeddings, key = "p_", assay = "RNA")
    object[["scvi"]] <- SeuratObject::CreateDimReducObject(-embeddings, key = "s_", assay = "RNA")
    adata <- reticulate::r_to_py(as_anndata(object))
    expect_anndata_of(adata, counts, object[[]])
    expect_identical(reticulate::py_to_r(adata$obsm[["X_pca"]]), unname(embeddings))
    expect_identical(reticulate::py_to_r(adata$obsm[["X_scvi"]]), unname(-embeddings))
    logged <- SeuratObject::LayerData(object, "data")
    expect_anndata_of(as_anndata(object, layer = "data"), logged)
  }
})

test_that("split layers are joined as Seurat joins them", {
  skip_without_python()
  skip_without("Seurat")
  counts <- counts_of_r()
  batches <- rep(c("x", "y", "z"), 8)
  object <- SeuratObject::CreateSeuratObject(counts)
  object[["RNA"]] <- split(object[["RNA"]], f = batches)
  before <- object
  expect_identical(
    SeuratObject::Layers(object, search = "counts"), c("counts.x", "counts.y", "counts.z")
  )
  expect_anndata_of(as_anndata(object), counts)
  expect_identical(object, before)
  chosen <- rev(colnames(counts))[3:9]
  expect_anndata_of(as_anndata(object[, chosen]), counts[, colnames(object[, chosen])])
})

test_that("a gene that a layer lacks counts 0 there", {
  skip_without_python()
  skip_without("Seurat")
  counts <- counts_of_r()
  first <- SeuratObject::CreateSeuratObject(counts[c(20:1), 1:10])
  second <- SeuratObject::CreateSeuratObject(counts[11:30, 11:24])
  object <- merge(first, second)
  expected <- as.matrix(SeuratObject::LayerData(SeuratObject::JoinLayers(object), "counts"))
  expect_setequal(rownames(expected), rownames(counts))
  expect_true(all(expected["gene1", 11:24] == 0))
  expect_message(
    adata <- as_anndata(object),
    "20 of 30 genes are missing from some layers \\(counts.1, counts.2\\) and have 0 counts there"
  )
  expect_anndata_of(adata, expected)
})

test_that("numbers of rows are not taken for names of cells", {
  skip_without_python()
  counts <- counts_of_r()
  colnames(counts) <- rev(seq_len(ncol(counts)))
  columns <- data.frame(place = seq_len(ncol(counts)))
  expect_error(
    as_anndata(counts, cell_data = columns),
    "cell_data has no row names, only numbers, which are also names of cells",
    class = "scvibridge_error"
  )
  rownames(columns) <- colnames(counts)
  expect_identical(as.vector(as_anndata(counts, cell_data = columns)$obs$place), columns$place)
  colnames(counts) <- seq_len(ncol(counts))
  rownames(columns) <- NULL
  expect_identical(as.vector(as_anndata(counts, cell_data = columns)$obs$place), columns$place)
})

test_that("what Python has nothing like is left out with a warning", {
  skip_without_python()
  counts <- counts_of_r()
  columns <- columns_of_r(colnames(counts))
  columns$parts <- I(lapply(seq_len(24), seq_len))
  columns$day <- as.Date("2020-02-28") + seq_len(24)
  columns$z <- complex(24)
  expect_warning(adata <- as_anndata(counts, cell_data = columns), "left out: parts, z$")
  obs <- reticulate::r_to_py(adata)$obs
  expect_identical(reticulate::py_to_r(obs[["day"]]$tolist())[1:2], c("2020-02-29", "2020-03-01"))
  expect_identical(
    reticulate::py_to_r(obs$columns$tolist()), c(names(columns_of_r(colnames(counts))), "day")
  )
})

test_that("what is in Python already is given back", {
  files <- example_files()
  expect_identical(as_anndata(files$adata), files$adata)
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(files$adata)
  expect_identical(as_anndata(adata), adata)
  expect_error(as_anndata(reticulate::dict()), "x must be the path", class = "scvibridge_error")
})

test_that("names must be there, and once each", {
  skip_without_python()
  counts <- counts_of_r()
  expect_refused <- function(x, message, ...) {
    expect_error(as_anndata(x, ...), message, class = "scvibridge_error")
  }
  expect_refused(unname(counts), "no gene names: set rownames\\(x\\)")
  twice <- counts
  colnames(twice)[2] <- "cell1"
  expect_refused(twice, "'cell1'. Make them unique first: colnames\\(x\\) <- make.unique")
  rownames(twice)[3] <- ""
  expect_refused(twice, "some genes have an empty name")
  columns <- columns_of_r(colnames(counts))
  expect_refused(counts, "lacks 2 of the 24 cells: 'cell1', 'cell2'", cell_data = columns[-(1:2), ])
  expect_refused(counts[, -1], "rows for 1 cells that x lacks: 'cell1'", cell_data = columns)
  repeated <- S4Vectors::DataFrame(columns)[c(1, seq_len(24)), ]
  expect_refused(counts, "more than one row for 1 of the cells: 'cell1'", cell_data = repeated)
  expect_refused(counts, "must be a data.frame, not .* character", cell_data = "donor")
  expect_refused(counts, "did you mean cell_data\\?", celldata = columns)
  counts[2, 2] <- NA
  expect_refused(counts, "have 1 missing values")
  expect_refused(matrix("a", 1, 1, dimnames = list("g", "c")), "must be a numeric matrix")
  expect_refused(data.frame(a = 1), "not an object of class data.frame")
})

test_that("assays and layers that are not there are refused with those that are", {
  skip_without_python()
  sce <- small_sce()
  expect_error(as_anndata(sce, "raw"), "no assay \"raw\".*counts, corrected, normalized")
  expect_error(as_anndata(sce, 7), "no assay 7", class = "scvibridge_error")
  skip_without("Seurat")
  counts <- counts_of_r()
  object <- SeuratObject::CreateSeuratObject(
    SeuratObject::CreateAssay5Object(data = log1p(counts)),
    assay = "RNA"
  ) |> suppressWarnings()
  expect_error(
    as_anndata(object), "assay RNA has no layer counts; its layers: data",
    class = "scvibridge_error"
  )
  expect_error(as_anndata(object, "ADT"), "no assay ADT; the object has RNA")
})
