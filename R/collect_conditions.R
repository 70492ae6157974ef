# Calls a function so that its result, messages, warnings and error come back as values: what
# Python, calling through rpy2, makes its own warnings and errors of (handover.call is the same in
# the other direction).
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
