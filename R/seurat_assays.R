# Converts assays of a SingleCellExperiment to Seurat assays: for a new object (as_seurat.R) and for
# the object that the counts came from (insert_into_seurat.R).

# Name in Seurat, by the name of the assay in the SingleCellExperiment. The first one present
# becomes the default.
seurat_assay_names <- c(
  counts = "RNA", corrected = "corrected", normalized = "scvi_normalized",
  denoised = "scvi_denoised"
)

# Applies Seurat's rule (Seurat itself warns, and fails on the duplicates that it creates). A gene
# that already has its name keeps it; a renamed one gets a suffix.
seurat_features <- function(genes) {
  renamed <- gsub("[_|]", "-", genes)
  changed <- renamed != genes
  kept_first <- order(changed)
  renamed[kept_first] <- make.unique(renamed[kept_first])
  data.frame(original_name = genes, row.names = renamed)
}

# Original names that scvibridge recorded in a table of `genes`, or NULL. A column of that name with
# other values is the user's own.
original_names <- function(table, genes) {
  for (column in c(second_column, "original_name")) {
    values <- as.character(table[[column]])
    if (is_renaming(values, genes)) {
      return(values)
    }
  }
  NULL
}

# Name of the column if the table has another one that is called original_name.
second_column <- "original_name_scvibridge"

column_of_names <- function(table, genes) {
  values <- table[["original_name"]]
  is_free <- is.null(values) || is_renaming(as.character(values), genes)
  if (is_free) "original_name" else second_column
}

without_original_names <- function(table, genes) {
  table[[second_column]] <- NULL
  if (column_of_names(table, genes) == "original_name") {
    table[["original_name"]] <- NULL
  }
  table
}

# Whether seurat_features() turns `original` into `genes`, perhaps among others.
is_renaming <- function(original, genes) {
  if (length(original) != length(genes) || anyNA(original) || anyDuplicated(original)) {
    return(FALSE)
  }
  renamed <- gsub("[_|]", "-", original)
  suffix <- substr(genes, nchar(renamed) + 1L, nchar(genes))
  all(startsWith(genes, renamed) & grepl("^([.][0-9]+)?$", suffix))
}

announce_renaming <- function(features, column = "original_name") {
  before <- features$original_name
  after <- rownames(features)
  changed <- which(before != after)
  if (!length(changed)) {
    return(invisible())
  }
  clashes <- changed[gsub("[_|]", "-", before[changed]) != after[changed]]
  message(
    "Seurat allows neither '_' nor '|' in feature names: ", length(changed),
    " renamed, such as ", renaming_examples(before, after, changed),
    if (length(clashes)) {
      paste0(
        "; with a suffix because the name was taken: ",
        renaming_examples(before, after, clashes)
      )
    },
    ". The original names are in the feature metadata, column '", column, "'."
  )
}

renaming_examples <- function(before, after, which) {
  shown <- utils::head(which, 3)
  paste0("'", before[shown], "' to '", after[shown], "'", collapse = ", ")
}

known_assays <- function(sce) {
  present <- intersect(names(seurat_assay_names), SummarizedExperiment::assayNames(sce))
  setdiff(present, unrecorded_assays(sce))
}

# `version` is that of Seurat's assays, "v3" or "v5".
seurat_assays <- function(sce, features, which = known_assays(sce), version = "v5") {
  metadata <- feature_metadata(sce, features)
  assays <- lapply(which, function(name) {
    values <- aligned_assay(sce, name)
    dimnames(values) <- list(rownames(features), colnames(sce))
    assay <- switch(name,
      counts = count_assay(values, version),
      corrected = normalized_assay(values, version),
      plot_assay(values)
    )
    SeuratObject::AddMetaData(assay, metadata)
  })
  stats::setNames(assays, seurat_assay_names[which])
}

# A v5 assay cannot hold one feature or one cell.
version_for <- function(values, version) {
  if (min(dim(values)) < 2 && !inherits(values, "IterableMatrix")) "v3" else version
}

# Adds the record of how each assay was computed and of the assay with the raw counts, and of their
# layer unless it is called counts: Seurat's merge() keeps Misc() of assays, but not of the object.
with_records <- function(assays, provenance, origin, layer = "counts") {
  held <- by_quantity(provenance)
  for (quantity in names(own_seurat_assays)) {
    name <- own_seurat_assays[[quantity]]
    if (name %in% names(assays)) {
      assays[[name]]@misc$scvibridge <- held[[quantity]]
      assays[[name]]@misc$scvibridge_counts <- origin
      if (layer != "counts") assays[[name]]@misc$scvibridge_layer <- layer
    }
  }
  assays
}

# Returns counts, and the same counts after LogNormalize as `data`.
normalized_assay <- function(values, version) {
  version <- version_for(values, version)
  if (!methods::is(values, "dgCMatrix") || version == "v3") {
    counts <- count_assay(values, version)
    return(Seurat::NormalizeData(counts, normalization.method = "LogNormalize", verbose = FALSE))
  }
  # Seurat's method for assays copies the matrix several times, each with a garbage collection.
  assay_of_layers(list(
    counts = values,
    data = Seurat::NormalizeData(values, normalization.method = "LogNormalize", verbose = FALSE)
  ))
}

# Returns a v5 assay with some layers, each a dgCMatrix of the same features and cells.
# SeuratObject selects the features and cells of each layer that it is given, even if they are all
# there: a copy, and a garbage collection. It is therefore given empty ones, which are then
# replaced.
assay_of_layers <- function(layers) {
  names_of <- dimnames(layers[[1L]])
  columns <- integer(length(names_of[[2L]]) + 1L)
  empty <- sparse_matrix(integer(), columns, numeric(), names_of[[1L]], names_of[[2L]])
  assay <- do.call(SeuratObject::CreateAssay5Object, lapply(layers, function(layer) empty))
  for (name in names(layers)) {
    layer <- layers[[name]]
    layer@Dimnames <- list(NULL, NULL)
    assay@layers[[name]] <- layer
  }
  assay
}

feature_metadata <- function(sce, features) {
  table <- SummarizedExperiment::rowData(sce)
  metadata <- plain_data_frame(for_feature_metadata(table), rownames(features))
  metadata[[column_of_names(table, rownames(sce))]] <- features$original_name
  metadata
}

# Converts a DataFrame to a data.frame without changing column names. A matrix becomes several
# columns; anything else (a nested table) cannot be stored in Seurat's metadata.
plain_data_frame <- function(table, rows) {
  columns <- do.call(c, unname(Map(plain_columns, as.list(table), names(table))))
  structure(as.list(columns), names = names(columns), class = "data.frame", row.names = rows)
}

plain_columns <- function(values, name) {
  values <- as_r_vector(values)
  if (is_vector_as_matrix(values, name)) {
    values <- as.vector(values)
  }
  if (is.matrix(values)) {
    suffix <- if (is.null(colnames(values))) seq_len(ncol(values)) else colnames(values)
    columns <- lapply(seq_len(ncol(values)), function(i) unname(values[, i]))
    return(stats::setNames(columns, paste(name, suffix, sep = "_")))
  }
  if (is.atomic(values)) stats::setNames(list(values), name) else list()
}

most_values_of_dgc <- .Machine$integer.max

# Whether a sparse array of Bioconductor has too many values for a dgCMatrix.
is_long <- function(matrix) {
  methods::is(matrix, "SVT_SparseMatrix") &&
    SparseArray::nzcount(matrix) > most_values_of_dgc
}

stop_too_many <- function() {
  stop_scvibridge(
    "more than 2^31 - 1 nonzero values, the maximum for a sparse matrix in Seurat's memory: ",
    "select cells or genes first, or write the result with out = \"x.h5ad\" and install the ",
    "package BPCells, with which Seurat leaves it on disk (https://bnprks.github.io/BPCells)"
  )
}

as_sparse <- function(values) {
  if (is_long(values)) {
    stop_too_many()
  }
  is_ready <- methods::is(values, "dgCMatrix") || inherits(values, "IterableMatrix")
  if (is_ready) values else methods::as(values, "dgCMatrix")
}

count_assay <- function(values, version) {
  if (version_for(values, version) == "v3") {
    return(SeuratObject::CreateAssayObject(counts = as_sparse(values)))
  }
  values <- as_sparse(values)
  if (methods::is(values, "dgCMatrix")) {
    return(assay_of_layers(list(counts = values)))
  }
  SeuratObject::CreateAssay5Object(counts = values)
}

# Returns a version 3 assay, which keeps dense values dense. AggregateExpression() skips a version 3
# assay without counts, but fails on a version 5 one, and with it on all other assays.
plot_assay <- function(values) {
  if (inherits(values, "IterableMatrix")) {
    return(without_totals(SeuratObject::CreateAssay5Object(data = log1p(values))))
  }
  without_totals(SeuratObject::CreateAssayObject(data = log1p(values)))
}

# Seurat adds the totals of an assay's counts to the cells' metadata, and warns if there are no
# counts.
without_totals <- function(expression) {
  previous <- options(Seurat.object.assay.calcn = FALSE)
  on.exit(options(previous))
  expression
}

# Returns a reduction with the key that its name allows.
seurat_reduction <- function(sce, name, assay, key = reduction_key(name)) {
  embeddings <- aligned_reduction(sce, name)
  dimnames(embeddings) <- list(colnames(sce), paste0(key, seq_len(ncol(embeddings))))
  SeuratObject::CreateDimReducObject(embeddings, key = key, assay = assay)
}

# Keys are letters and digits, and begin with a letter.
reduction_key <- function(name) {
  key <- gsub("[^A-Za-z0-9]", "", name)
  paste0(if (!grepl("^[A-Za-z]", key)) "dim", key, "_")
}

# Seurat replaces a key that is taken by a random one. Keys that differ only in case are as one.
free_key <- function(key, taken) {
  bare <- sub("_$", "", key)
  tried <- paste0(bare, c("", paste0("x", seq_along(taken))), "_")
  tried[!tolower(tried) %in% tolower(taken)][1]
}

# Returns the normalized values of proteins, or NULL if the model has none.
protein_assay <- function(sce) {
  proteins <- own_proteins(sce)
  if (is.null(proteins)) {
    return(NULL)
  }
  values <- aligned_assay(proteins, "normalized")
  features <- seurat_features(rownames(proteins))
  dimnames(values) <- list(rownames(features), colnames(sce))
  SeuratObject::AddMetaData(plot_assay(values), features)
}
