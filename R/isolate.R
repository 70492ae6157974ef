# Isolated calls: a Python process of their own decodes, and torch is never loaded in R's, whose
# packages may have other versions of its libraries. The module that R's process imports
# (scvibridge.from_r) starts that process; what R holds of a model is then where to load it from.

is_isolating <- function() {
  as_flag(getOption("scvibridge.isolate", FALSE), "the option scvibridge.isolate")
}

# What Python needs to know of this session (scvibridge.isolation.Session). Files go to R's own
# temporary folder, which R removes at its end.
python_session <- function(isolate) {
  list(isolate = isolate, threads = thread_option(), folder = tempdir())
}

# NULL leaves the number to Python, which looks at the cores that this process may use.
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

# A result of an isolated call, which Python has taken apart already.
is_taken_apart <- function(x) {
  inherits(x, "scvibridge.exchange.TakenApart")
}
