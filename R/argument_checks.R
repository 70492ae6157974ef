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

nearest <- function(name, known) {
  known[which.min(utils::adist(name, known, ignore.case = TRUE))]
}
