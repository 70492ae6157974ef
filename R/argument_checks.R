# Checks and errors that need nothing else: Python, which runs this file through rpy2, has them too.

stop_scvibridge <- function(...) {
  stop(errorCondition(printable(paste0(...)), class = "scvibridge_error"))
}

# Text without characters that a terminal obeys: names come from whoever made the data. Those become
# escapes such as \u001b; line breaks stay.
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

# A value as it is shown in an error.
shown <- function(value) {
  text <- paste(deparse(value, width.cutoff = 60L), collapse = " ")
  if (nchar(text) > 60) paste0(substr(text, 1, 57), "...") else text
}

# Arguments of another name end up in `...`.
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

nearest <- function(name, known) {
  known[which.min(utils::adist(name, known, ignore.case = TRUE))]
}
