skip_without_python <- function() {
  testthat::skip_if_not(
    scvibridge_available(),
    "Python with the packages of install_scvibridge() is not at hand"
  )
}

skip_without <- function(...) {
  for (package in c(...)) {
    testthat::skip_if_not_installed(package)
  }
}

remembered <- new.env(parent = emptyenv())

# R code in a process of its own, with variables such as "RETICULATE_PYTHON=": what it prints.
run_rscript <- function(code, env = character(), stderr = FALSE) {
  file <- tempfile(fileext = ".R")
  writeLines(code, file)
  suppressWarnings(system2(
    file.path(R.home("bin"), "Rscript"), shQuote(file),
    env = c(paste0("R_LIBS=", shQuote(paste(.libPaths(), collapse = ":"))), env),
    stdout = TRUE, stderr = stderr
  ))
}

# A text as R code.
quoted <- function(text) encodeString(text, quote = "\"")

# The files of one small model, made once for all tests.
example_files <- function() {
  skip_without_python()
  if (is.null(remembered$files)) {
    remembered$files <- example_scvi()
  }
  remembered$files
}

example_model <- function() {
  files <- example_files()
  if (is.null(remembered$model)) {
    remembered$model <- load_scvi(files$model, files$adata)
  }
  remembered$model
}

# Python of the tests' own: what it gives is what R should hold, by another way than the package's.
test_module <- function(name) {
  skip_without_python()
  reticulate::import_from_path(name, testthat::test_path("."), convert = FALSE)
}

# Work in Python that tells the reporter of its progress; each of four blocks takes so long.
run_work <- function(reporter, fail = FALSE, seconds = 0) {
  test_module("slow_work")$start()
  call_python("work", list(fail = fail, seconds = seconds), reporter)
}

# Python's scvibridge itself, unconverted.
python_scvibridge <- function() {
  skip_without_python()
  reticulate::import_from_path("scvibridge", python_code(), convert = FALSE)
}

# One of its modules, by the name within the package, unconverted.
scvibridge_module <- function(name) {
  skip_without_python()
  reticulate::import_from_path(paste0("scvibridge.", name), python_code(), convert = FALSE)
}

# The result of one of its functions for the example model.
python_result <- function(name, ...) {
  python <- python_scvibridge()
  warnings <- reticulate::import("warnings", convert = FALSE)
  warnings$simplefilter("ignore")
  python[[name]](example_model()$python, ..., progress = FALSE)
}

# A small model of another class, with the covariates donor and percent_mito.
model_of <- function(name) {
  if (is.null(remembered[[name]])) {
    folder <- file.path(tempfile("models"), name)
    # In a process of its own: a training in R's may find its libraries' threads in the way.
    arguments <- c(testthat::test_path("many_models.py"), name, example_files()$adata, folder)
    status <- system2(reticulate::py_exe(), shQuote(arguments), stdout = FALSE, stderr = FALSE)
    testthat::expect_identical(status, 0L)
    remembered[[name]] <- load_scvi(folder)
  }
  remembered[[name]]
}

# The result of one of Python's functions for such a model.
of_python <- function(name, model, ...) {
  reticulate::import("warnings", convert = FALSE)$simplefilter("ignore")
  python_scvibridge()[[name]](model$python, ..., progress = FALSE)
}

# A matrix that Python holds, genes x cells.
python_matrix <- function(matrix) {
  if (reticulate::py_has_attr(matrix, "toarray")) {
    matrix <- matrix$toarray()
  }
  t(reticulate::py_to_r(matrix$astype("float64")))
}

expect_same_values <- function(found, python) {
  testthat::expect_identical(unname(as.matrix(found)), unname(python_matrix(python)))
}

# The object without its matrices.
without_assays <- function(sce) {
  SummarizedExperiment::assays(sce) <- list()
  sce
}

# A matrix of R's own, in memory, whatever the kind of numbers.
in_memory <- function(matrix) {
  matrix <- as.matrix(matrix)
  storage.mode(matrix) <- "double"
  matrix
}

# A file of a result, with the odd columns that files can hold.
odd_file <- function(adata = test_module("odd_result")$odd_counts(), ending = ".h5ad") {
  kept <- c("factor", "ordered", "nullable_bool", "nullable_int", "double", "text")
  adata$obs <- adata$obs[reticulate::r_to_py(as.list(kept))]
  file <- tempfile(fileext = ending)
  if (ending == ".h5ad") {
    scvibridge_module("io.h5ad")$write_h5ad(adata, file)
  } else if (ending == ".h5") {
    scvibridge_module("io.ten_x")$write_10x_h5(adata, file)
  } else {
    test_module("odd_result")$write_zarr(adata, file)
  }
  file
}

expect_same_assays <- function(found, expected) {
  testthat::expect_identical(
    SummarizedExperiment::assayNames(found), SummarizedExperiment::assayNames(expected)
  )
  for (name in SummarizedExperiment::assayNames(expected)) {
    testthat::expect_identical(
      in_memory(SummarizedExperiment::assay(found, name)),
      as.matrix(SummarizedExperiment::assay(expected, name))
    )
  }
}

expect_columns_of_python <- function(found, table) {
  expected <- test_module("expected")
  names <- reticulate::py_to_r(table$columns$tolist())
  testthat::expect_identical(names(found)[seq_along(names)], names)
  for (name in names) {
    column <- table[[name]]
    testthat::expect_identical(
      text_of(found[[name]]), reticulate::py_to_r(expected$text(column)),
      label = paste("values of", name)
    )
    testthat::expect_identical(
      is.na(found[[name]]), reticulate::py_to_r(column$isna()$tolist()),
      label = paste("missing of", name)
    )
    testthat::expect_identical(
      as.character(levels(found[[name]])),
      as.character(unlist(reticulate::py_to_r(expected$levels(column)))),
      label = paste("levels of", name)
    )
  }
}

# The values of a column as text, as expected.py writes them.
text_of <- function(x) {
  text <- if (inherits(x, "POSIXct")) {
    sprintf("%.0f", as.double(x))
  } else if (is.numeric(x)) {
    sprintf("%.17g", x)
  } else {
    as.character(x)
  }
  ifelse(is.na(x), "", text)
}

# A SingleCellExperiment such as corrected_counts() returns, made in R.
small_sce <- function(genes = paste0("GENE", 1:40), n_cells = 60) {
  set.seed(1)
  n_genes <- length(genes)
  cells <- sprintf("cell%d", seq_len(n_cells))
  group <- factor(rep(c("x", "y"), length.out = n_cells), levels = c("y", "x"))
  means <- outer(stats::runif(n_genes, 0.3, 6), ifelse(group == "x", 1, 1.5))
  draw <- function() {
    counts <- matrix(
      as.double(stats::rpois(n_genes * n_cells, means)), n_genes,
      dimnames = list(genes, cells)
    )
    methods::as(counts, "dgCMatrix")
  }
  SingleCellExperiment::SingleCellExperiment(
    assays = list(
      counts = draw(), corrected = draw(),
      normalized = matrix(stats::rexp(n_genes * n_cells), n_genes, dimnames = list(genes, cells))
    ),
    colData = S4Vectors::DataFrame(
      group = group, donor = rep(c("d1", "d2", "d3"), each = 2, length.out = n_cells),
      flag = rep(c(TRUE, NA, FALSE), length.out = n_cells), row.names = cells
    ),
    rowData = S4Vectors::DataFrame(symbol = tolower(genes), row.names = genes),
    reducedDims = list(scvi = matrix(stats::rnorm(n_cells * 2), n_cells)),
    metadata = list(scvibridge = list(kind = "corrected_counts", seed = 0L))
  )
}

# Counts, genes x cells.
counts_of_r <- function(n_genes = 30, n_cells = 24, seed = 1) {
  set.seed(seed)
  values <- matrix(
    as.double(stats::rpois(n_genes * n_cells, 0.8)), n_genes,
    dimnames = list(paste0("gene", seq_len(n_genes)), paste0("cell", seq_len(n_cells)))
  )
  methods::as(values, "dgCMatrix")
}

# Columns of every kind, some with missing values.
columns_of_r <- function(cells) {
  n <- length(cells)
  data.frame(
    donor = factor(rep(c("d2", "d1", NA), length.out = n), levels = c("d2", "d1", "unused")),
    dose = factor(rep(c("low", "high"), length.out = n), levels = c("low", "high"), ordered = TRUE),
    flag = rep(c(TRUE, FALSE), length.out = n),
    flag_or_na = rep(c(TRUE, NA, FALSE), length.out = n),
    whole = seq_len(n),
    whole_or_na = replace(seq_len(n), 2, NA),
    real = replace(seq_len(n) / 7, 3, NA),
    text = replace(rep(c("a", "\u00e9", ""), length.out = n), 4, NA),
    row.names = cells
  )
}

expect_anndata_of <- function(adata, counts, columns = NULL) {
  adata <- reticulate::r_to_py(adata)
  testthat::expect_identical(python_matrix(adata$X), unname(as.matrix(counts)))
  testthat::expect_identical(reticulate::py_to_r(adata$var_names$tolist()), rownames(counts))
  testthat::expect_identical(reticulate::py_to_r(adata$obs_names$tolist()), colnames(counts))
  if (!is.null(columns)) {
    expect_columns_of_python(columns, adata$obs)
  }
}

dtype_of <- function(adata) reticulate::py_str(reticulate::r_to_py(adata)$X$dtype)

# Latent means of a small model that Python trains.
trained_in_python <- function(adata, ...) {
  python <- python_scvibridge()$train_scvi(
    adata, ...,
    n_top_genes = 30L, max_epochs = 2L, device = "cpu", progress = FALSE
  )
  reticulate::py_to_r(python$get_latent_representation())
}
