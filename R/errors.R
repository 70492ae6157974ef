# Checks and errors without dependencies: Python also runs this file, through rpy2.

stop_scvibridge <- function(...) {
  stop(errorCondition(printable(paste0(...)), class = "scvibridge_error"))
}

# Removes terminal control characters from text, since names come from untrusted data. They become
# escapes such as \u001b; line breaks are kept.
printable <- function(text) {
  text <- iconv(enc2utf8(as.character(text)), "UTF-8", "UTF-8", sub = "byte")
  found <- gregexpr("[\\p{C}\\p{Zl}\\p{Zp}]", text, perl = TRUE)
  regmatches(text, found) <- lapply(regmatches(text, found), function(characters) {
    escaped <- sprintf("\\u%04x", vapply(characters, utf8ToInt, 1L))
    escaped[characters == "\n"] <- "\n"
    escaped
  })
  text
}

as_one_text <- function(value, name) {
  if (is.factor(value)) {
    value <- as.character(value)
  }
  if (!is.character(value) || length(value) != 1 || is.na(value)) {
    stop_scvibridge(name, " must be one text, got ", shown(value))
  }
  value[[1]]
}

# Formats a value for an error message.
shown <- function(value) {
  text <- paste(deparse(value, width.cutoff = 60L), collapse = " ")
  if (nchar(text) > 60) paste0(substr(text, 1, 57), "...") else text
}

# Arguments with an unknown name end up in `...`.
check_no_more_arguments <- function(..., known) {
  if (...length() == 0) {
    return(invisible())
  }
  given <- ...names()
  unknown <- setdiff(given[nzchar(given)], "")
  if (!length(unknown)) {
    stop_scvibridge("too many arguments without a name")
  }
  stop_scvibridge(
    "there is no argument ", unknown[1], "; did you mean ", nearest(unknown[1], known), "?"
  )
}

# The name most similar to a part of one: `labls` is closer to `labels_key` than to `layer`.
nearest <- function(name, known) {
  of_part <- utils::adist(name, known, ignore.case = TRUE, partial = TRUE)
  whole <- utils::adist(name, known, ignore.case = TRUE)
  known[order(of_part, whole)][1]
}

# Packages that only some functions need are suggested, not imported. One error names all missing
# packages and the command that installs them.
check_requires <- function(packages, purpose) {
  installed <- vapply(packages, requireNamespace, logical(1), quietly = TRUE)
  if (all(installed)) {
    return(invisible(TRUE))
  }
  missing <- packages[!installed]
  message <- paste0(
    purpose, " needs the R package", if (length(missing) > 1) "s", " ",
    paste(missing, collapse = ", "), "; install with ", install_command(missing)
  )
  stop(errorCondition(message, class = "scvibridge_missing_package"))
}

# Checks the packages that an object needs, by the name that Python's write_rds() uses for it.
check_object_packages <- function(kind) {
  experiment <- c("SingleCellExperiment", "SummarizedExperiment", "S4Vectors", "Matrix")
  switch(kind,
    sce = check_requires(experiment, "a SingleCellExperiment"),
    backed = check_requires(c("HDF5Array", experiment), "a SingleCellExperiment of a file"),
    seurat = check_requires(c("Seurat", "SeuratObject", experiment), "a Seurat object")
  )
}

# BiocManager also installs CRAN packages, in versions that match the release.
install_command <- function(packages) {
  quoted <- paste0("\"", packages, "\"", collapse = ", ")
  if (length(packages) > 1) {
    quoted <- paste0("c(", quoted, ")")
  }
  command <- paste0("BiocManager::install(", quoted, ")")
  if (nzchar(system.file(package = "BiocManager"))) {
    return(command)
  }
  paste0("install.packages(\"BiocManager\"); ", command)
}
