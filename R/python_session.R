# Isolated calls: a separate Python process decodes, so that torch is never loaded in R's process,
# whose packages may use other versions of its libraries. The module that R's process imports
# (scvibridge.r.reticulate) starts that process; R then only holds where to load the model from.

is_isolating <- function() {
  as_flag(getOption("scvibridge.isolate", FALSE), "the option scvibridge.isolate")
}

# What Python needs to know about this session (scvibridge.r.process.Session). Files go to R's
# temporary folder, which R removes when it exits.
python_session <- function(isolate) {
  list(isolate = isolate, threads = thread_option(), folder = tempdir())
}

# NULL leaves the number to Python, which checks how many cores this process may use.
thread_option <- function() {
  threads <- getOption("scvibridge.threads")
  if (is.null(threads)) {
    return(NULL)
  }
  threads <- as_whole_number(threads, "the option scvibridge.threads")
  if (threads < 1) {
    stop_scvibridge("the option scvibridge.threads must be 1 or more, got ", threads)
  }
  threads
}

# Whether an isolated call's result is already split into parts by Python.
is_taken_apart <- function(x) {
  inherits(x, "scvibridge.r.exchange.TakenApart")
}
