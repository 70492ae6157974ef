arguments <- function(..., n_cells = 3) {
  python_arguments(list(...), n_cells)
}

cells <- c("c1", "c2", "c3")
is_b <- c(c1 = TRUE, c2 = FALSE, c3 = TRUE)
with_values <- function(values) list(named = array(values), names = array(cells))

test_that("a logical vector with names keeps them on its way to Python", {
  expect_identical(arguments(indices = is_b)$indices, with_values(c(TRUE, FALSE, TRUE)))
  matrix <- matrix(unname(is_b), ncol = 1, dimnames = list(cells, "cell_type"))
  table <- data.frame(is_b = unname(is_b), row.names = cells)
  for (given in list(matrix, table, array(is_b, 3, list(cells)))) {
    expect_identical(arguments(indices = given)$indices, with_values(c(TRUE, FALSE, TRUE)))
  }
  skip_without("S4Vectors")
  for (given in list(S4Vectors::DataFrame(table), S4Vectors::DataFrame(x = S4Vectors::Rle(is_b)))) {
    rownames(given) <- cells
    expect_identical(arguments(indices = given)$indices, with_values(c(TRUE, FALSE, TRUE)))
  }
  rle <- S4Vectors::Rle(unname(is_b))
  expect_identical(arguments(indices = rle)$indices, array(c(0L, 2L)))
})

test_that("what which() returns selects by name", {
  expect_identical(arguments(indices = which(is_b))$indices, list("c1", "c3"))
  expect_error(arguments(indices = c(c1 = 3, c3 = 1)), "unname\\(indices\\)")
  expect_error(arguments(indices = c(c1 = 1, c2 = 1)), "repeated numbers")
})

test_that("names of cells are values, whatever their own names", {
  for (given in list(c(x = "c2", y = "c1"), factor(c("c2", "c1")), c("c2", "c1"))) {
    expect_identical(arguments(indices = given)$indices, list("c2", "c1"))
  }
})

test_that("missing values are refused by name", {
  expect_error(arguments(indices = c(is_b, c4 = NA)), "indices is NA for 1 of 4 entries: .*c4")
  expect_error(arguments(gene_list = c(g1 = TRUE, g2 = NA)), "gene_list is NA for 1 of 2.*g2")
  expect_error(arguments(indices = stats::setNames(is_b, c("c1", "", "c3"))), "names .* are empty")
})

test_that("tables of several columns are refused", {
  expect_error(arguments(indices = data.frame(a = TRUE, b = FALSE)), "indices has 2 columns")
})

test_that("a data.frame without names of rows goes by position", {
  expect_identical(
    arguments(indices = data.frame(is_b = c(TRUE, FALSE, TRUE)))$indices, array(c(0L, 2L))
  )
})

test_that("genes are chosen by names alone", {
  mask <- c(g2 = TRUE, g1 = FALSE)
  expected <- list(named = array(c(TRUE, FALSE)), names = array(c("g2", "g1")))
  expect_identical(arguments(gene_list = mask)$gene_list, expected)
  expect_identical(arguments(n_top_genes = mask)$n_top_genes, expected)
  expect_error(arguments(gene_list = c(TRUE, FALSE)), "without gene names")
  expect_error(arguments(gene_list = 1:2), "gene_list must be a character vector")
  expect_error(arguments(categorical_covariate_keys = mask), "must be a character vector")
})

test_that("scalars lose names and dimensions", {
  expect_identical(arguments(normalized = c(x = TRUE))$normalized, TRUE)
  expect_identical(arguments(seed = c(x = 1))$seed, 1L)
  expect_identical(arguments(library_size = matrix(5))$library_size, 5)
  expect_identical(arguments(labels_key = c(x = "a"))$labels_key, "a")
})

test_that("dates and time spans are no numbers", {
  for (wrong in list(as.Date("2024-01-01"), as.difftime(1, units = "secs"))) {
    expect_error(arguments(seed = wrong), "seed must be a single whole number")
    expect_error(arguments(library_size = wrong), "library_size must be")
  }
})

test_that("values of a column that are in several entries are refused", {
  expect_error(
    arguments(estimate_on = list(type = "B", lot = 1, type = "T")),
    "estimate_on has several entries for 'type': .* such as list\\(condition = c\\(",
    class = "scvibridge_error"
  )
  for (value in list(c(donor = "D1", donor = "D2"), list(donor = "D1", donor = "D2"))) {
    expect_error(
      arguments(transform_covariates = value),
      "transform_covariates has several entries for 'donor'", class = "scvibridge_error"
    )
  }
  expect_identical(
    arguments(estimate_on = list(type = c("B", "T")))$estimate_on, list(type = list("B", "T"))
  )
})

test_that("a table of dispersions holds numbers", {
  for (wrong in list(factor(c("5", "7")), c("5", "7"), c(TRUE, FALSE))) {
    table <- data.frame(theta = wrong, row.names = c("g1", "g2"))
    expect_error(arguments(dispersion = table), "dispersion must be")
  }
})

test_that("a named selection takes the cells and genes that it names, in every way to call", {
  model <- example_model()
  files <- example_files()
  names <- reticulate::py_to_r(reticulate::r_to_py(model$python)$adata$obs_names$tolist())
  types <- reticulate::py_to_r(reticulate::r_to_py(model$python)$adata$obs["cell_type"]$tolist())
  mask <- stats::setNames(types == "B", names)
  shuffled <- mask[rev(names)]
  expected <- names[mask]
  for (given in list(shuffled, which(shuffled), as.data.frame(shuffled))) {
    for (out in list(NULL, tempfile(fileext = ".h5ad"))) {
      sce <- suppressWarnings(corrected_counts(
        model, transform_batch = "V3", indices = given, out = out, progress = FALSE
      ))
      expect_setequal(colnames(sce), expected)
    }
  }
  expect_identical(colnames(denoised_expression(model, indices = shuffled)), expected)
  found <- batch_support(model, transform_batch = "V3", indices = shuffled, progress = FALSE)
  expect_identical(rownames(found$cells), expected)
  expect_error(
    corrected_counts(model, transform_batch = "V3", indices = mask[-1], progress = FALSE),
    "lacks 1 of the"
  )
  genes <- as_text(model$summary$genes)
  chosen <- stats::setNames(endsWith(genes, "7"), genes)
  sce <- denoised_expression(model, gene_list = rev(chosen), progress = FALSE)
  expect_identical(rownames(sce), genes[chosen])
  isolated <- load_scvi(files$model, files$adata, isolate = TRUE)
  sce <- denoised_expression(
    isolated, indices = shuffled, gene_list = rev(chosen), progress = FALSE
  )
  expect_identical(dimnames(sce), list(genes[chosen], expected))
})

# Every argument that is TRUE or FALSE by default, of every function that is exported.
flags_of <- function(fun) {
  is_flag <- vapply(formals(fun), function(default) is.logical(default) && !is.na(default), NA)
  names(formals(fun))[is_flag]
}

test_that("every flag of every function refuses text and numbers", {
  namespace <- asNamespace("scvibridge")
  methods <- getNamespaceInfo(namespace, "S3methods")[, 3]
  functions <- union(getNamespaceExports(namespace), methods[endsWith(methods, ".scvi_model")])
  flags <- lapply(stats::setNames(functions, functions), function(name) {
    flags_of(get(name, envir = namespace, mode = "function"))
  })
  flags <- flags[lengths(flags) > 0]
  expect_gte(length(unlist(flags)), 15)
  file <- example_files()
  sce <- small_sce()
  sce$batch <- "V3"
  first <- list(
    load_scvi = list(file$model), read_corrected = list("x.h5ad"), scvibridge_status = list(),
    write_h5ad = list(counts_of_r(), tempfile(fileext = ".h5ad")),
    train_scvi = list(counts_of_r()), scvi_damage = list(counts_of_r(), "batch"),
    scvi_report = list("x.h5ad"), add_latent = list(sce, example_model()),
    extend_genes.scvi_model = list(example_model(), "x.h5ad")
  )
  for (name in names(flags)) {
    given <- first[[name]] %||% list(example_model())
    for (flag in flags[[name]]) {
      for (wrong in list("FALSE", 0, NA, c(TRUE, FALSE))) {
        arguments <- c(given, stats::setNames(list(wrong), flag))
        expect_error(
          do.call(name, arguments, quote = TRUE), paste(flag, "must be TRUE or FALSE"),
          class = "scvibridge_error", info = name
        )
      }
    }
  }
})
