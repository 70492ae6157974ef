# Errors and checks of arguments, without dependencies: Python also runs this file, through rpy2.
# Every error of an exported function has the class `scvibridge_error`.

# `class`: classes that come before it. `fields`: named list of further fields of the condition.
stop_scvibridge <- function(..., class = NULL, fields = list()) {
  message <- printable(paste0(...))
  class <- c(class, "scvibridge_error")
  stop(do.call(errorCondition, c(list(message, class = class), fields), quote = TRUE))
}

# Evaluates the body of an exported function. Errors of R and of other packages get the class as
# well; the original condition is the field `parent`.
with_scvibridge_errors <- function(expression) {
  withCallingHandlers(expression, error = function(e) {
    if (!inherits(e, "scvibridge_error")) {
      stop_scvibridge(
        conditionMessage(e),
        class = "scvibridge_wrapped_error", fields = list(call = conditionCall(e), parent = e)
      )
    }
  })
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

as_string <- function(value, name) {
  if (is.factor(value)) {
    value <- as.character(value)
  }
  if (!is.character(value) || length(value) != 1 || is.na(value)) {
    stop_scvibridge(name, " must be a single string, got ", shown(value))
  }
  value[[1]]
}

as_choice <- function(value, name, choices) {
  value <- as_string(value, name)
  if (!value %in% choices) {
    stop_scvibridge(
      name, " must be one of ", paste0("\"", choices, "\"", collapse = ", "), ", got ", shown(value)
    )
  }
  value
}

# Formats a value for an error message, which may be a large object passed by mistake: its first
# lines alone are deparsed.
shown <- function(value) {
  text <- paste(deparse(value, width.cutoff = 60L, nlines = 2L), collapse = " ")
  if (nchar(text) > 60) paste0(substr(text, 1, 57), "...") else text
}

# Returns the arguments of the calling function as a list, without `...`. `usage`: a call with all
# that are required. `further`: the arguments that ended up in `...`, which are rejected.
arguments_of_call <- function(usage, further = list()) {
  frame <- parent.frame()
  check_required(usage, frame, sys.function(sys.parent()))
  known <- setdiff(names(formals(sys.function(sys.parent()))), "...")
  check_no_more_arguments(further, known)
  mget(known, envir = frame)
}

# Checks that the calling function got all arguments that have no default. Evaluates them, so that
# errors in a user's own expressions are not taken for errors of the function.
check_required <- function(usage, frame = parent.frame(), called = sys.function(sys.parent())) {
  is_required <- vapply(formals(called), identical, logical(1), quote(expr = ))
  for (name in setdiff(names(which(is_required)), "...")) {
    if (eval(call("missing", as.name(name)), frame)) {
      stop_scvibridge("the argument ", name, " is missing: ", usage)
    }
    get(name, envir = frame)
  }
}

# Arguments with an unknown name end up in `...`, which `given` lists.
check_no_more_arguments <- function(given, known) {
  if (!length(given)) {
    return(invisible())
  }
  unknown <- setdiff(names(given), "")
  if (!length(unknown)) {
    stop_scvibridge("too many unnamed arguments")
  }
  if ("adata" %in% known && unknown[1] %in% c("assay", "assay.type", "layer", "cell_data")) {
    stop_scvibridge(
      unknown[1], " is only for data that come first, before the model: for adata, pass ",
      "as_anndata(object, ", unknown[1], " = ...)"
    )
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
  stop_scvibridge(
    purpose, " requires the R package", if (length(missing) > 1) "s", " ",
    paste(missing, collapse = ", "), "; install with ", install_command(missing),
    class = "scvibridge_missing_package"
  )
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
