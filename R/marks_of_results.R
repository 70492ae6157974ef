# Marks of corrected counts: some of those that differ from the raw ones, by the names of cell and
# gene. A matrix that holds them is a result under whatever name, also after the object was subset,
# saved, or joined with others, or its cells were renamed. Python also runs this file through rpy2.

# Entry of the metadata of an experiment, or of Misc() of a Seurat object: a list with a table for
# each result.
marks_entry <- "scvibridge_marks"

# Cells that are read for the marks, number of marks, and how many a matrix must have.
cells_with_marks <- 100L
most_marks <- 2000L
fewest_marks <- 3L

# Marks by which a cell is known under another name: raw cells of the same type share a few counts,
# but not so many.
marks_of_renamed_cell <- 15L

# Cells that are searched for renamed ones at a time.
cells_searched <- 10000L

# Returns the marks of a result, NULL if none of its counts differ. The matrices are genes x cells.
marks_of_counts <- function(counts, corrected, genes, cells) {
  chosen <- evenly(length(cells), cells_with_marks)
  before <- as.matrix(as_column_sparse(counts[, chosen, drop = FALSE]))
  after <- as_column_sparse(corrected[, chosen, drop = FALSE])
  column <- rep.int(seq_along(chosen), diff(after@p))
  differ <- which(after@x > 0 & after@x != before[cbind(after@i + 1L, column)])
  if (!length(differ)) {
    return(NULL)
  }
  differ <- differ[evenly(length(differ), most_marks)]
  data.frame(
    cell = cells[chosen[column[differ]]],
    gene = genes[after@i[differ] + 1L],
    count = after@x[differ]
  )
}

# At most `n` of the positions to `last`.
evenly <- function(last, n) {
  unique(as.integer(round(seq(1, last, length.out = min(last, n)))))
}

# Adds the marks of a result to its metadata.
with_marks <- function(sce) {
  if (!all(c("counts", "corrected") %in% SummarizedExperiment::assayNames(sce)) || !length(sce)) {
    return(sce)
  }
  values <- function(name) {
    as_counts_matrix(SummarizedExperiment::assay(sce, name, withDimnames = FALSE))
  }
  with_more_marks(sce, list(
    marks_of_counts(values("counts"), values("corrected"), rownames(sce), colnames(sce))
  ))
}

# Adds marks to those that an object has of earlier results.
with_more_marks <- function(object, marks) {
  held <- own_marks(object)
  all <- unique(c(held, Filter(Negate(is.null), marks)))
  if (length(all) == length(held)) {
    return(object)
  }
  if (inherits(object, "Seurat")) {
    object@misc[[marks_entry]] <- all
    return(object)
  }
  with_entry(object, marks_entry, all)
}

# cbind() keeps the metadata of all objects that it joins.
own_marks <- function(object) {
  if (inherits(object, "Seurat")) {
    return(object@misc[[marks_entry]])
  }
  entries <- S4Vectors::metadata(object)
  unlist(unname(entries[names(entries) %in% marks_entry]), recursive = FALSE)
}

# Also those of alternative experiments: swapAltExp() makes the former object one.
known_marks <- function(object) {
  if (inherits(object, "Seurat") || !methods::is(object, "SingleCellExperiment")) {
    return(own_marks(object))
  }
  beside <- lapply(alternative_names(object), function(name) {
    own_marks(SingleCellExperiment::altExp(object, name))
  })
  c(own_marks(object), unlist(beside, recursive = FALSE))
}

# The same marks with other names of genes.
with_genes_of_marks <- function(marks, renamed) {
  lapply(marks, function(table) {
    table$gene <- renamed(table$gene)
    table
  })
}

# Whether a matrix holds the marks of a result of the object.
is_marked <- function(object, genes, cells, read) {
  marks <- known_marks(object)
  length(marks) > 0 && holds_marks(marks, genes, cells, read)
}

# Rejects a result whose raw counts were replaced by corrected ones.
check_raw_counts <- function(sce) {
  if (!"counts" %in% SummarizedExperiment::assayNames(sce) || !length(known_marks(sce))) {
    return(invisible())
  }
  read <- matrix_reader(aligned_assay(sce, "counts"))
  if (is_marked(sce, rownames(sce), colnames(sce), read)) {
    stop_corrected_as_raw("the assay counts")
  }
}

stop_corrected_as_raw <- function(place) {
  stop_scvibridge(
    place, " holds corrected counts, not the raw ones that the result was computed from: restore ",
    "them first, and store corrected counts in another assay"
  )
}

# Whether a matrix holds the marks of one of the results. `read`: see object_parts().
holds_marks <- function(marks, genes, cells, read) {
  for (table in marks) {
    present <- table[table$gene %in% genes & table$cell %in% cells, ]
    is_held <- if (nrow(present) >= fewest_marks) {
      holds_all(present, genes, cells, read)
    } else {
      holds_renamed(table[table$gene %in% genes, ], genes, length(cells), read)
    }
    if (is_held) {
      return(TRUE)
    }
  }
  FALSE
}

holds_all <- function(table, genes, cells, read) {
  gene <- unique(table$gene)
  cell <- unique(table$cell)
  values <- as.matrix(read(match(cell, cells), match(gene, genes)))
  isTRUE(all(values[cbind(match(table$gene, gene), match(table$cell, cell))] == table$count))
}

# Whether a matrix holds all marks of some cells, whatever their names.
holds_renamed <- function(table, genes, n_cells, read) {
  marked <- factor(table$cell)
  has_many <- tabulate(marked, nlevels(marked)) >= marks_of_renamed_cell
  if (sum(has_many) < fewest_marks || n_cells == 0) {
    return(FALSE)
  }
  table <- table[has_many[marked], ]
  marked <- factor(table$cell)
  gene <- unique(table$gene)
  rows <- match(gene, genes)
  # A gene with a count, as one number.
  entry <- function(gene, count) gene + count * length(rows)
  wanted <- entry(match(table$gene, gene), table$count)
  entries <- unique(wanted)
  of_marked <- indicators(match(wanted, entries), as.integer(marked), entries, nlevels(marked))
  is_found <- logical(nlevels(marked))
  for (first in seq(1L, n_cells, by = cells_searched)) {
    positions <- seq(first, min(n_cells, first + cells_searched - 1L))
    values <- read(positions, rows)
    held <- match(entry(values@i + 1L, values@x), entries)
    column <- rep.int(seq_along(positions), diff(values@p))[!is.na(held)]
    of_cells <- indicators(held[!is.na(held)], column, entries, length(positions))
    shared <- Matrix::crossprod(of_marked, of_cells)
    is_found[shared@i[shared@x == tabulate(marked)[shared@i + 1L]] + 1L] <- TRUE
  }
  sum(is_found) >= fewest_marks
}

# Entries x cells, 1 where a cell has the entry.
indicators <- function(entry, cell, entries, n_cells) {
  Matrix::sparseMatrix(i = entry, j = cell, x = 1, dims = c(length(entries), n_cells))
}
