# Converts text for Python, which only accepts UTF-8.

# `where` describes the text, `fix` the expression that iconv() should be called on.
as_utf8 <- function(text, where, fix) {
  text <- as.character(text)
  check_locale(text, where, fix)
  text <- enc2utf8(text)
  wrong <- which(!is.na(text) & !validUTF8(text))
  if (length(wrong)) {
    stop_scvibridge(
      where, " contains text that is not UTF-8, such as ", shown_bytes(text[wrong[1]]),
      ": convert it first, ", fix, " <- iconv(", fix, ", \"latin1\", \"UTF-8\")"
    )
  }
  text
}

# In the locale C, R would replace other characters than ASCII by escapes such as <c3>.
check_locale <- function(text, where, fix, locale = Sys.getlocale("LC_CTYPE")) {
  if (!locale %in% c("C", "POSIX")) {
    return(invisible())
  }
  has_bytes <- grepl("[\\x80-\\xff]", text, perl = TRUE, useBytes = TRUE)
  wrong <- which(has_bytes & Encoding(text) == "unknown")
  if (length(wrong)) {
    stop_scvibridge(
      where, " contains text that is not ASCII, such as ", shown_bytes(text[wrong[1]]),
      ", and the locale ", locale, " has no other characters: start R in a UTF-8 locale ",
      "(LC_ALL=C.UTF-8) or, if the text is UTF-8, declare it, Encoding(", fix, ") <- \"UTF-8\""
    )
  }
}

# Shows bytes that are not valid text as \xfc.
shown_bytes <- function(text) {
  bytes <- iconv(text, "UTF-8", "UTF-8", sub = "byte")
  paste0("\"", gsub("<([0-9a-f]{2})>", "\\\\x\\1", bytes), "\"")
}

# Converts a column of a table if it is text or has levels; others are returned unchanged.
column_in_utf8 <- function(values, name, what) {
  where <- paste0("the column ", name, " of the ", what)
  fix <- paste0("x$", name)
  if (is.factor(values)) {
    fix <- paste0("levels(", fix, ")")
    levels(values) <- as_utf8(levels(values), where, fix)
  } else if (is.character(values)) {
    values[] <- as_utf8(values, where, fix)
  }
  values
}
