# The interface to Python: one module (scvibridge.r.reticulate), one calling function, errors as
# conditions.

python_state <- new.env(parent = emptyenv())

python_module <- function() {
  if (is.null(python_state$module)) {
    check_python_version(import_python("scvibridge"))
    python_state$module <- import_python("scvibridge.r.reticulate")
  }
  python_state$module
}

import_python <- function(name) {
  tryCatch(
    uninterrupted(reticulate::import_from_path(name, python_code())),
    error = function(e) {
      stop_scvibridge(
        "the Python code of scvibridge could not be loaded: ", first_line(conditionMessage(e)),
        ". Install its requirements with scvibridge::install_scvibridge() and restart R, or set ",
        "RETICULATE_PYTHON to a Python that has them; see scvibridge::scvibridge_status()"
      )
    }
  )
}

# For imports, which Python cannot always repeat after an interrupt.
uninterrupted <- function(expression) {
  value <- suspendInterrupts(expression)
  # R handles a pending interrupt here; if Python saw it first, it would be an error.
  Sys.sleep(0.001)
  value
}

# Path of the Python package that this package contains.
python_code <- function() {
  system.file("python", package = "scvibridge", mustWork = TRUE)
}

# Python imports a package only once: a different scvibridge imported before stays loaded.
check_python_version <- function(module) {
  ours <- unname(getNamespaceVersion("scvibridge"))
  if (identical(module$`__version__`, ours)) {
    return(invisible())
  }
  folder <- dirname(module$`__file__`)
  stop_scvibridge(
    "this is scvibridge ", ours, ", but Python has already imported scvibridge ",
    module$`__version__`, " from ", folder, ". Restart R and call a function of scvibridge before ",
    "reticulate::import(\"scvibridge\"), or install the same version: ",
    shQuote(upgrade_command(ours), type = "cmd2")
  )
}

upgrade_command <- function(version) {
  paste0(reticulate::py_exe(), " -m pip install --upgrade scvibridge==", version)
}

# Calls a Python function by its name in r/endpoints.py. `reporter`: see python_progress.R.
# `isolate`: see python_session.R.
call_python <- function(name, arguments, reporter = NULL, isolate = is_isolating()) {
  force(arguments) # errors in making them are their own
  module <- python_module()
  session <- python_session(isolate)
  outcome <- tryCatch(
    {
      uninterrupted(module$prepare(name, arguments, session))
      module$call(name, arguments, reporter, session)
    },
    error = stop_conversion
  )
  for (text in unlist(outcome$warnings)) {
    warning(in_words_of_r(text), call. = FALSE)
  }
  if (!is.null(outcome$error)) {
    stop_python(outcome$error)
  }
  outcome$value
}

# The condition has only Python's message, adapted to R; the fields `python_message` and `traceback`
# have Python's originals.
stop_python <- function(error) {
  python_class <- paste0("python.builtin.", error$type)
  remedy <- if (identical(error$type, "ModuleNotFoundError")) {
    ": install it with scvibridge::install_scvibridge() and restart R"
  }
  stop_scvibridge(
    in_words_of_r(error$message), remedy,
    class = python_class,
    fields = list(traceback = error$traceback, python_message = error$message)
  )
}

# reticulate.call() raises nothing; errors during conversion come from reticulate.
stop_conversion <- function(condition) {
  message <- sub("\nRun `reticulate::py_last_error.*", "", conditionMessage(condition))
  stop_scvibridge(
    "a value could not be converted between R and Python: ", message,
    class = setdiff(class(condition), c("error", "condition")), fields = list(parent = condition)
  )
}

first_line <- function(text) {
  sub("[. ]+$", "", strsplit(text, "\n", fixed = TRUE)[[1]][1])
}
