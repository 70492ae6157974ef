# Adds a result to the object that the counts came from, for functions called with the data first.
# This file has what is common to all kinds of objects. `sce` is the result of the method for
# models, with the object's gene names.

# Kinds of data, in the order of the checks: a SingleCellExperiment is also a
# SummarizedExperiment.
data_kinds <- c(
  "Seurat", "SingleCellExperiment", "SummarizedExperiment", "Matrix", "DelayedMatrix",
  "SparseMatrix", "IterableMatrix", "matrix"
)

# Returns NA for other objects. Seurat objects of former versions are rejected.
data_kind <- function(object) {
  if (inherits(object, c("Seurat", "seurat"))) {
    check_seurat_version(object)
  }
  data_kinds[match(TRUE, vapply(data_kinds, inherits, logical(1), x = object))]
}

is_matrix_kind <- function(kind) {
  kind %in% c("Matrix", "DelayedMatrix", "SparseMatrix", "IterableMatrix", "matrix")
}

# `origin`: the location of the counts in the object, as in object_parts(). `dropped`: the cells
# missing from the result.
insert_result <- function(object, sce, origin, dropped = character()) {
  if (length(dropped)) {
    message(
      length(dropped), " of ", ncol(object), " cells are removed, since the target batch does not ",
      "support them: ", few_names(dropped)
    )
  }
  switch(data_kind(object),
    Seurat = insert_into_seurat(object, sce, origin, dropped),
    SingleCellExperiment = insert_into_sce(object, sce, origin, dropped),
    SummarizedExperiment = insert_into_se(object, sce, origin, dropped),
    insert_into_matrix(object, sce)
  )
}

few_names <- function(names, most = 3) {
  shown <- utils::head(names, most)
  paste0(paste(shown, collapse = ", "), if (length(names) > most) ", ...")
}

# Matrices that the result adds; the object already has the raw counts.
result_assays <- function(sce) {
  setdiff(SummarizedExperiment::assayNames(sce), "counts")
}

# Flags describe the corrected counts if there are any: only these have flags of cells. Flags of the
# matrix that is replaced do not stay.
with_flags <- function(table, found, held, added) {
  if (!"corrected" %in% added && "corrected" %in% names(held)) {
    return(table)
  }
  flags <- own_flags(found)
  stale <- setdiff(names(own_flags(table)), names(flags))
  table <- table[, !colnames(table) %in% stale, drop = FALSE]
  for (name in names(flags)) {
    table[[name]] <- flags[[name]]
  }
  table
}

# Whether the object's raw counts are to be those of the new result: flags and raw counts are those
# of the corrected counts if there are any.
has_main_counts <- function(sce, held) {
  "corrected" %in% result_assays(sce) || !"corrected" %in% names(held)
}

announce_replacing <- function(what, name) {
  message("the object's ", what, " ", name, " is replaced")
}

# The last bits depend on how many cells are encoded at a time.
is_same_latent <- function(held, found) {
  isTRUE(all.equal(unname(as.matrix(held)), unname(found), tolerance = 1e-5))
}

# Provenance by quantity of the matrices that were there (`present`, with the records `held`) and of
# those that the result adds. The record of a matrix that is replaced goes with it.
with_provenance <- function(held, sce, present) {
  new <- by_quantity(record_of(sce))
  added <- result_assays(sce)
  held <- held[names(held) %in% c(present, "latent")]
  if ("scvi" %in% reduced_names(sce) && is_several(held$latent)) {
    held$latent <- NULL
  }
  if ("corrected" %in% added) {
    held <- with_record_of_normalized(held, present)
  }
  held <- held[!names(held) %in% setdiff(added, names(new))]
  held[names(new)] <- new
  held
}

# Reorders rows to the object's order if it has exactly these genes.
in_order_of <- function(sce, object) {
  order <- match(rownames(object), rownames(sce))
  if (identical(order, seq_len(nrow(sce)))) sce else sce[order, ]
}

has_same_genes <- function(sce, object) {
  nrow(sce) == nrow(object) && setequal(rownames(sce), rownames(object))
}
