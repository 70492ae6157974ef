# Converts text for Python, which only accepts UTF-8.

# `where` describes the text, `mend` the expression that iconv() should be called on.
as_utf8 <- function(text, where, mend) {
  text <- enc2utf8(as.character(text))
  wrong <- which(!is.na(text) & !validUTF8(text))
  if (length(wrong)) {
    stop_scvibridge(
      where, " holds text that is not UTF-8, such as ", shown_bytes(text[wrong[1]]),
      ": convert it first, ", mend, " <- iconv(", mend, ", \"latin1\", \"UTF-8\")"
    )
  }
  text
}

# Shows bytes that are not valid text as \xfc.
shown_bytes <- function(text) {
  bytes <- iconv(text, "UTF-8", "UTF-8", sub = "byte")
  paste0("\"", gsub("<([0-9a-f]{2})>", "\\\\x\\1", bytes), "\"")
}

# Converts a column of a table if it is text or has levels; others are returned unchanged.
column_in_utf8 <- function(values, name, what) {
  where <- paste0("the column ", name, " of the ", what)
  mend <- paste0("x$", name)
  if (is.factor(values)) {
    mend <- paste0("levels(", mend, ")")
    levels(values) <- as_utf8(levels(values), where, mend)
  } else if (is.character(values)) {
    values[] <- as_utf8(values, where, mend)
  }
  values
}
