# What the package tells its user, without characters that a terminal obeys (see printable()): these
# two take the place of R's own in all of its functions. Errors are those of stop_scvibridge().

message <- function(...) {
  if (inherits(..1, "condition")) base::message(...) else base::message(printable(paste0(...)))
}

warning <- function(..., call. = FALSE) { # nolint: object_name_linter. (R's own name)
  if (inherits(..1, "condition")) {
    return(base::warning(...))
  }
  base::warning(printable(paste0(...)), call. = call.)
}
