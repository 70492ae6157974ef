# Messages and warnings of the package, without terminal control characters (see printable()). These
# two replace R's own in all of its functions. Errors are raised by stop_scvibridge().

message <- function(...) {
  if (inherits(..1, "condition")) base::message(...) else base::message(printable(paste0(...)))
}

warning <- function(..., call. = FALSE) { # nolint: object_name_linter. (R's own name)
  if (inherits(..1, "condition")) {
    return(base::warning(...))
  }
  base::warning(printable(paste0(...)), call. = call.)
}

# Adapts Python's messages to R. Python's text stays in the field `python_message` of errors.

in_words_of_r <- function(text) {
  if (!length(text) || is.na(text) || !nzchar(text)) {
    return(text)
  }
  for (i in seq_len(nrow(python_phrases))) {
    text <- gsub(python_phrases$python[i], python_phrases$r[i], text, perl = TRUE)
  }
  masked <- mask_quoted(text)
  text <- masked$text
  for (i in seq_len(nrow(python_words))) {
    text <- gsub(python_words$python[i], python_words$r[i], text, perl = TRUE)
  }
  unmask_quoted(text, masked$quoted)
}

# Patterns and their replacements, applied in this order.
phrases <- function(...) {
  pairs <- matrix(c(...), ncol = 2, byrow = TRUE)
  data.frame(python = pairs[, 1], r = pairs[, 2])
}

# `obs['name']` and the like; the first group is the name as quoted by Python.
item_of <- function(place) {
  paste0("\\b", place, "\\[((['\"]).*?\\2|[^\\]'\"]+)\\]")
}

python_phrases <- phrases(
  "rename it, adata[.].*?[.]rename\\(columns=\\{(.*?): (.*?)\\}\\)", "rename it, \\1 to \\2",
  "make it text, adata[.].*?[.]astype\\(str\\)", "make it text, as.character()",
  "adata[.]obs\\[('.*?')\\] = adata[.]obs\\['.*?'\\][.]astype\\('category'\\)",
  "give it as a factor, \\1",
  "adata[.]\\S+ = adata[.]\\S+[.]reset_index\\(\\)", "give it plain names",
  ", put them back, adata[.].*?(?=[.] Normalise)", ", put them back",
  ", such as adata[.]copy\\(\\)", " of it",
  "(e[.]g[.] indices=)adata[.]obs\\[(['\"])(.*?)\\2\\]", "\\1object$\\3",
  "give it adata[.]obs_names as its index, or pass (\\w+)[.]to_numpy\\(\\)",
  "give it the names of the cells, or pass unname(\\1)",
  "pass the names, adata[.]var_names\\[mask\\], or a Series with them as its index",
  "pass the names of the genes, or a logical vector that has them as its names",
  " \\(--indices\\)", "",
  "scvibridge[.]train_scvi\\(\\)", "train_scvi()",
  " anndata[.]concat\\(\\) leaves uns out: use .*? from a part", " Copy it from a part",
  "must be a list of names of columns, got", "must be a character vector of columns, got",
  "\\bobs has more than one column", "the cells' metadata have more than one column",
  "make it a matrix in adata[.]obsm, or drop columns", "drop columns",
  "\\bobs cannot be written\\b", "the cells' metadata cannot be written",
  "\\bvar cannot be written\\b", "the genes' metadata cannot be written",
  "give it another name, adata[.]obs\\[.*?\\] = adata[.]obs\\[.*?\\], and name that",
  "copy it to a column of another name, and name that",
  "Assign the new values, model[.]adata[.]obs\\[.*?\\] = [.][.][.], or give the new values",
  "Train with the new values, or give them",
  "adata[.]obs_names_make_unique\\(\\)", "colnames(x) <- make.unique(colnames(x))",
  "adata[.]var_names_make_unique\\(\\)", "rownames(x) <- make.unique(rownames(x))",
  "read R objects with scvibridge[.]r[.]read_rds\\(['\"](.*?)['\"]\\) and pass .*?\\)$",
  "pass the object that readRDS(\"\\1\") returns",
  "read a 10x file with scanpy[.]read_10x_h5\\(\\) and pass the result",
  "read a 10x file with Seurat::Read10X_h5() and pass the matrix",
  "scanpy[.]read_10x_h5\\(\\)", "Seurat::Read10X_h5()",
  "adata[.]X is None", "X is empty",
  "adata[.]X\\b", "the counts",
  "[.] layers\\['([^']*)'\\] holds whole numbers: put those there",
  ". The layer '\\1' holds whole numbers: name it, layer = '\\1'",
  "\\bits layers\\[('[^']*')\\]", "its layer \\1",
  item_of("layers"), "the layer \\1",
  item_of("obs"), "the column \\1",
  item_of("var"), "the column \\1 of the genes",
  item_of("obsm"), "the matrix \\1 of the cells",
  item_of("varm"), "the matrix \\1 of the genes",
  "\\buns\\['([^']*)'\\]\\['([^']*)'\\]", "metadata$\\1$\\2",
  "\\buns\\['([^']*)'\\]", "metadata$\\1",
  "\\bmdata\\['([^']*)'\\]", "its modality '\\1'",
  "column of obs with", "column with",
  "column(s?) of obs\\b", "column\\1 of the cells' metadata",
  ", [.]astype\\(str\\)", ", as.character()",
  "\\{'donor': 'D1'\\}", "list(donor = 'D1')",
  ", or adata=False to pass the data to each function", "",
  " \\(--trust\\)", "",
  "a Series of theta by gene or a DataFrame of genes by batches",
  "a named numeric vector, or a data.frame or matrix of genes by batches",
  "scvibridge[.]load\\(\\)", "load_scvi()",
  "must be a list of names, got the single name", "must be a character vector, got",
  "\\(([a-z_]+)=\\)", "(\\1 = ...)",
  "call model[.]train\\(\\) first", "train it first"
)

# Applied outside quoted text and paths.
python_words <- phrases(
  # Functions with other names in R.
  "(?:\\bscvibridge[.]|(?<![\\w.:$]))(calibration|damage|report)\\(", "scvi_\\1(",
  # An argument without a value, and one with its value.
  "\\b([a-z][a-z0-9_]*)=(?=[\\s,;:.)]|$)", "\\1",
  "\\b([a-z][a-z0-9_]*)=(?=[^=\\s])", "\\1 = ",
  "\\bTrue\\b", "TRUE",
  "\\bFalse\\b", "FALSE",
  "\\bNone\\b(?! of)", "NULL",
  "\\bDataFrame\\b", "data.frame"
)

# -- quoted text -------------------------------------------------------------------------------

# Text quoted by Python, and paths: names of batches, columns and files can be anything. An
# apostrophe follows a letter, as in "the model's genes".
quoted_or_path <- paste0(
  "(?<![\\w'\"])'(?:[^'\\\\\\n]|\\\\.)*'(?!\\w)|",
  "(?<![\\w'\"])\"(?:[^\"\\\\\\n]|\\\\.)*\"(?!\\w)|",
  "(?<!\\S)\\S*[/\\\\]\\S*"
)

mask_quoted <- function(text) {
  found <- gregexpr(quoted_or_path, text, perl = TRUE)
  quoted <- regmatches(text, found)[[1]]
  regmatches(text, found) <- list(paste0("\001", seq_along(quoted), "\002"))
  list(text = text, quoted = quoted)
}

unmask_quoted <- function(text, quoted) {
  for (i in seq_along(quoted)) {
    text <- sub(paste0("\001", i, "\002"), in_double_quotes(quoted[i]), text, fixed = TRUE)
  }
  text
}

in_double_quotes <- function(text) {
  if (!startsWith(text, "'")) {
    return(text)
  }
  inner <- gsub("\\'", "'", substr(text, 2, nchar(text) - 1), fixed = TRUE)
  paste0("\"", gsub("\"", "\\\"", inner, fixed = TRUE), "\"")
}
