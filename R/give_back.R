# The half of the data-first way that puts a result into the object that the counts came from. Here:
# what is the same for all kinds of objects. `sce` is what the method for a model gives, with the
# names that the object has for the genes.

# Kinds of data in the order in which they are looked for: a SingleCellExperiment is a
# SummarizedExperiment too.
data_kinds <- c(
  "Seurat", "SingleCellExperiment", "SummarizedExperiment", "Matrix", "DelayedMatrix", "matrix"
)

# NA where the object is none of them. Seurat objects of former versions are refused.
data_kind <- function(object) {
  if (inherits(object, c("Seurat", "seurat"))) {
    check_seurat_version(object)
  }
  data_kinds[match(TRUE, vapply(data_kinds, inherits, logical(1), x = object))]
}

is_matrix_kind <- function(kind) {
  kind %in% c("Matrix", "DelayedMatrix", "matrix")
}

# `assay`: that which the counts of a Seurat object came from. `dropped`: the cells that the result
# lacks.
give_back <- function(object, sce, assay, dropped = character()) {
  if (length(dropped)) {
    message(
      length(dropped), " of ", ncol(object), " cells left out, which the target batch does not ",
      "support: ", few_names(dropped)
    )
  }
  switch(data_kind(object),
    Seurat = give_back_seurat(object, sce, assay, dropped),
    SingleCellExperiment = give_back_sce(object, sce, dropped),
    SummarizedExperiment = give_back_se(object, sce, dropped),
    give_back_matrix(object, sce)
  )
}

few_names <- function(names, most = 3) {
  shown <- utils::head(names, most)
  paste0(paste(shown, collapse = ", "), if (length(names) > most) ", ...")
}

# Matrices that the result adds; the raw counts the object has.
result_assays <- function(sce) {
  setdiff(SummarizedExperiment::assayNames(sce), "counts")
}

# What scvibridge says of cells or genes, without the columns that came from the object.
own_flags <- function(table) {
  table[, startsWith(colnames(table), "scvibridge_"), drop = FALSE]
}

announce_replacing <- function(what, name) {
  message("the object's ", what, " ", name, " is replaced")
}

# The last bits depend on how many cells are encoded at a time.
is_same_latent <- function(held, found) {
  isTRUE(all.equal(unname(as.matrix(held)), unname(found), tolerance = 1e-5))
}

# Provenance by quantity. What as_seurat() or corrected_counts(model) left is that of one quantity.
with_provenance <- function(held, sce) {
  held <- by_quantity(held)
  new <- by_quantity(S4Vectors::metadata(sce)$scvibridge)
  held[names(new)] <- new
  held
}

# Rows in the object's order where it has these very genes.
in_order_of <- function(sce, object) {
  order <- match(rownames(object), rownames(sce))
  if (identical(order, seq_len(nrow(sce)))) sce else sce[order, ]
}

has_same_genes <- function(sce, object) {
  nrow(sce) == nrow(object) && setequal(rownames(sce), rownames(object))
}
