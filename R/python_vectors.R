# Converts the vectors of an object for Python, where to_anndata.py builds an AnnData from them.
# This file does not depend on whether reticulate or rpy2 transfers them.

# `parts`: see object_parts().
object_vectors <- function(parts) {
  list(
    counts = csr_vectors(parts$read(seq_along(parts$cells))), tables = python_tables(parts)
  )
}

# For Python, which calls these through rpy2. A result has `matrices` instead of `counts`.
vectors_of_object <- function(x, ...) {
  object_vectors(object_parts(x, ...))
}

vectors_of_result <- function(x) {
  pieces <- result_pieces(x)
  cells <- seq_along(pieces$parts$cells)
  list(
    matrices = lapply(pieces$matrices, function(read) read(cells)),
    tables = result_tables(pieces), provenance = settings_as_arrays(pieces$provenance)
  )
}

vectors_of_result_rds <- function(path) {
  vectors_of_result(object_of_rds(path))
}

# rpy2 converts a vector to an array if it has dimensions.
settings_as_arrays <- function(value) {
  if (is.list(value)) {
    return(lapply(value, settings_as_arrays))
  }
  if (is.factor(value)) {
    value <- as.character(value)
  }
  if (length(value) == 1) unname(value) else array(unname(value))
}

vectors_of_rds <- function(path, ...) {
  vectors_of_object(object_of_rds(path), ...)
}

object_of_rds <- function(path) {
  tryCatch(
    suppressWarnings(readRDS(path)),
    error = function(e) {
      stop_scvibridge(path, " could not be read as an RDS file: ", conditionMessage(e))
    }
  )
}

# Returns the vectors of a CSR matrix, cells x genes, from a dgCMatrix, genes x cells, without a
# copy.
csr_vectors <- function(matrix) {
  if (anyNA(matrix@x)) {
    stop_scvibridge(
      "the counts have ", sum(is.na(matrix@x)), " missing values (NA): counts must be whole ",
      "numbers, 0 if nothing was detected"
    )
  }
  list(data = matrix@x, indices = matrix@i, indptr = matrix@p)
}

# A vector with dimensions is an array in Python, whatever its length; a vector of length one
# without dimensions is a single value.
python_tables <- function(parts) {
  names <- obsm_names(names(parts$reductions))
  list(
    cells = array(as_utf8(parts$cells, "a name of the cells", "colnames(x)")),
    genes = array(as_utf8(parts$genes, "a name of the genes", "rownames(x)")),
    obs = matrices_beside(python_columns(parts$obs, "cells"), names),
    var = python_columns(parts$var, "genes"),
    obsm = lapply(seq_along(parts$reductions), function(i) {
      list(name = names[i], values = unname(parts$reductions[[i]]) + 0)
    }),
    origin = python_origin(parts$origin)
  )
}

python_origin <- function(origin) {
  if (is.null(origin)) {
    return(NULL)
  }
  for (flag in c("result", "raw")) {
    if (!isTRUE(origin[[flag]])) origin[[flag]] <- NULL
  }
  origin$others <- if (length(origin$others)) array(origin$others)
  origin
}

# scanpy's names for the common reductions; others keep their names.
obsm_name <- function(name) {
  common <- tolower(name) %in% c("pca", "tsne", "umap")
  if (startsWith(name, "X_")) name else paste0("X_", if (common) tolower(name) else name)
}

# The same for all reductions, with a suffix where a name is taken. "scvi" comes before "X_scvi":
# the latent means of a result are read from there.
obsm_names <- function(names) {
  names <- as.character(names)
  found <- vapply(names, obsm_name, character(1), USE.NAMES = FALSE)
  first <- order(startsWith(names, "X_"))
  free <- found
  free[first] <- make.unique(found[first], sep = "_")
  announce_other_names("reductions", names, found, free)
  free
}

# Matrices among the columns of the cells, with a suffix where a reduction has their name.
matrices_beside <- function(columns, taken) {
  is_matrix <- vapply(columns, function(column) column$kind == "matrix", logical(1))
  found <- vapply(columns[is_matrix], function(column) column$name, character(1))
  free <- utils::tail(make.unique(c(taken, found), sep = "_"), length(found))
  announce_other_names("columns that are matrices", found, found, free)
  columns[is_matrix] <- Map(function(column, name) {
    column$name <- name
    column
  }, columns[is_matrix], free)
  columns
}

announce_other_names <- function(what, given, found, free) {
  changed <- which(free != found)
  if (length(changed)) {
    message(
      what, " whose names in an AnnData would be taken get others: ",
      paste0(shQuote(given[changed], "sh"), " becomes ", free[changed], collapse = ", ")
    )
  }
}

python_columns <- function(table, what) {
  values <- as.list(table)
  names <- as_utf8(names(values), paste("a name of the columns of the", what), "names(table)")
  columns <- Map(python_column, values, make.unique(names), what)
  dropped <- names(values)[lengths(columns) == 0]
  if (length(dropped)) {
    warning(
      "columns of the ", what, " that are neither vectors nor numeric matrices are left out: ",
      paste(dropped, collapse = ", "),
      call. = FALSE
    )
  }
  unname(columns[lengths(columns) > 0])
}

# Returns NULL if Python has no equivalent. `r_class` is for the way back (python_results.R).
python_column <- function(values, name, what = "cells") {
  given <- as_r_vector(values)
  if (is_vector_as_matrix(given, name)) {
    given <- as.vector(given)
  }
  values <- column_in_utf8(plain_vector(given), name, what)
  if (is.matrix(values) && is.numeric(values)) {
    return(list(name = name, kind = "matrix", values = unname(values) + 0))
  }
  known <- c("logical", "integer", "double", "character")
  if (!typeof(values) %in% known || !is.null(dim(values))) {
    return(NULL)
  }
  column <- if (is.factor(values)) factor_column(values) else list(kind = typeof(values))
  if (column$kind %in% c("logical", "integer") && anyNA(values)) {
    column$missing <- array(is.na(values))
  }
  if (is.null(column$values)) {
    column$values <- array(as.vector(values))
  }
  column$r_class <- r_class_of(given)
  c(list(name = name), column)
}

# Returns NULL for vectors with an equivalent in Python. A time zone or unit follows after a space.
r_class_of <- function(values) {
  if (inherits(values, "Date")) {
    return("Date")
  }
  if (inherits(values, "POSIXt")) {
    return(paste("POSIXct", zone_of(as.POSIXct(values))))
  }
  if (inherits(values, "difftime")) paste("difftime", units(values))
}

# Times without a time zone are shown in that of the session, which another session may not have.
# UTC if R does not know its own.
zone_of <- function(times) {
  zone <- attr(times, "tzone")[1]
  if (is.null(zone) || !nzchar(zone)) {
    zone <- Sys.timezone()
  }
  if (is.na(zone)) "UTC" else zone
}

# Codes from 0, -1 for missing values, as in pandas.
factor_column <- function(values) {
  codes <- as.integer(values) - 1L
  list(
    kind = "factor", values = array(ifelse(is.na(codes), -1L, codes)),
    levels = array(levels(values)), ordered = is.ordered(values)
  )
}

# Drops classes, which have no meaning in Python; dates and times become text.
plain_vector <- function(values) {
  if (inherits(values, "Date")) {
    return(format(values, "%Y-%m-%d"))
  }
  if (inherits(values, "POSIXt")) {
    times <- as.POSIXct(values)
    attr(times, "tzone") <- zone_of(times)
    return(time_as_text(times))
  }
  # 64-bit integers are stored as doubles.
  if (inherits(values, "integer64")) {
    return(NULL)
  }
  if (is.factor(values)) values else unclass(values)
}

# Formats times without fractions of a second if there are none, and with the offset from UTC if the
# clock showed the time twice, when it was set back.
time_as_text <- function(times) {
  seconds <- unclass(times)
  whole <- all(is.na(seconds) | seconds == trunc(seconds))
  style <- if (whole) "%Y-%m-%dT%H:%M:%S" else "%Y-%m-%dT%H:%M:%OS6"
  text <- format(times, style)
  twice <- which(is_shown_twice(times))
  text[twice] <- format(times[twice], paste0(style, "%z"))
  text
}

# Clocks are set back by an hour, or by half an hour on Lord Howe Island.
is_shown_twice <- function(times) {
  seconds <- as.vector(unclass(times))
  distinct <- .POSIXct(unique(seconds), tz = attr(times, "tzone"))
  shown <- format(distinct, "%Y-%m-%dT%H:%M:%S")
  twice <- Reduce(`|`, lapply(c(-3600, -1800, 1800, 3600), function(shift) {
    format(distinct + shift, "%Y-%m-%dT%H:%M:%S") == shown
  }))
  twice[match(seconds, unique(seconds))] %in% TRUE
}
