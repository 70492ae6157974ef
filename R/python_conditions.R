# Calls a function and returns its result, messages, warnings and error as values. Python calls this
# through rpy2 and raises its own warnings and errors from them (session.call does the same in the
# other direction).
collect_conditions <- function(fun, ...) {
  notes <- character()
  keep <- function(restart) {
    function(condition) {
      if (!inherits(condition, "packageStartupMessage")) {
        notes <<- c(notes, trimws(conditionMessage(condition)))
      }
      invokeRestart(restart)
    }
  }
  value <- tryCatch(
    withCallingHandlers(
      fun(...),
      message = keep("muffleMessage"), warning = keep("muffleWarning")
    ),
    error = identity
  )
  if (!inherits(value, "error")) {
    return(list(value = value, notes = notes, error = "", error_class = ""))
  }
  list(
    value = NULL, notes = notes,
    error = conditionMessage(value), error_class = class(value)[1]
  )
}
