# What pyproject.toml asks for (a test compares them).
python_requirements <- c(
  "anndata>=0.12.19", "h5py>=3.16", "mudata>=0.3.10", "numba>=0.68.1", "numpy>=2.4.6",
  "pandas>=2.3.3", "scikit-learn>=1.9.1", "scipy>=1.17.1", "scvi-tools>=1.4.2",
  "torch>=2.13", "tqdm>=4.70.1"
)
python_version <- ">=3.11"
python_environment <- "r-scvibridge"

# PyTorch's index of builds without CUDA, which spare some gigabytes.
cpu_index <- "https://download.pytorch.org/whl/cpu"

#' Install the Python packages that scvibridge needs
#'
#' Makes a virtual environment for Python and installs scvi-tools and what else the package's
#' Python code needs into it. The package finds the environment called `r-scvibridge` by itself
#' from the next R session on. Without that environment reticulate makes one of its own when Python
#' is first needed, with the same packages and torch for CUDA.
#'
#' To use a Python of your own instead, set the environment variable `RETICULATE_PYTHON` to it
#' before R starts; it takes precedence.
#'
#' @param envname Name or path of the virtual environment.
#' @param pip_options Further options of pip, a character vector. An index of packages among them
#'   (`--index-url`, `--extra-index-url`) is used in place of PyTorch's.
#' @param python Python 3.11 or later to make the environment with; found by reticulate if `NULL`.
#' @param torch Which build of torch: `"cuda"`, for NVIDIA's GPUs, some gigabytes; `"cpu"`, from
#'   PyTorch's index of such builds (on macOS there is one build alone); `"auto"` takes `"cuda"`
#'   where `nvidia-smi` sees a GPU, else `"cpu"`. Another build that is there already is replaced
#'   where one is asked for, and kept with `"auto"`.
#' @return The path of the environment's Python, invisibly.
#' @section Errors:
#'   reticulate's, where there is no such Python or pip fails.
#' @seealso [scvibridge_status()] says what is there and what is missing.
#' @examples
#' \dontrun{
#' install_scvibridge()
#' install_scvibridge(torch = "cpu")
#' }
#' @export
install_scvibridge <- function(envname = "r-scvibridge", pip_options = character(), python = NULL,
                               torch = c("auto", "cpu", "cuda")) {
  asked <- match.arg(torch)
  torch <- chosen_torch(asked)
  if (!reticulate::virtualenv_exists(envname)) {
    python <- if (is.null(python)) reticulate::virtualenv_starter(python_version) else python
    if (is.null(python)) {
      stop_scvibridge(
        "no Python ", python_version, " was found: install one, for example with ",
        "reticulate::install_python(\"3.12:latest\"), or name it with python="
      )
    }
    reticulate::virtualenv_create(envname, python = python, packages = NULL)
  }
  if (asked != "auto") {
    remove_other_torch(envname, torch)
  }
  reticulate::virtualenv_install(
    envname, python_requirements,
    pip_options = with_torch_index(pip_options, torch)
  )
  message("Done. Restart R before loading scvibridge.")
  invisible(reticulate::virtualenv_python(envname))
}

# The build that is asked for, or that fits the machine; said either way.
chosen_torch <- function(torch) {
  reason <- "as asked for"
  if (torch == "auto") {
    gpus <- nvidia_gpus()
    torch <- if (length(gpus)) "cuda" else "cpu"
    reason <- if (length(gpus)) paste("nvidia-smi sees", gpus[1]) else "no NVIDIA GPU was seen"
  }
  message("torch: the build for ", c(cpu = "CPUs", cuda = "CUDA")[[torch]], " (", reason, ")")
  torch
}

# Names of the GPUs that NVIDIA's driver tells; none without the driver.
nvidia_gpus <- function() {
  if (!nzchar(Sys.which("nvidia-smi"))) {
    return(character())
  }
  listed <- tryCatch(
    suppressWarnings(system2("nvidia-smi", "-L", stdout = TRUE, stderr = FALSE)),
    error = function(e) character()
  )
  sub("^GPU [0-9]+: (.*?)( \\(UUID.*)?$", "\\1", grep("^GPU [0-9]+: ", listed, value = TRUE))
}

with_torch_index <- function(pip_options, torch, system = Sys.info()[["sysname"]]) {
  names_index <- any(grepl("^(-i($|[^a-z])|--(extra-)?index-url)", pip_options))
  if (torch != "cpu" || names_index || system == "Darwin") {
    return(pip_options)
  }
  c(paste0("--extra-index-url=", cpu_index), pip_options)
}

# pip leaves a torch that is recent enough as it is, whatever its build.
remove_other_torch <- function(envname, torch, system = Sys.info()[["sysname"]]) {
  python <- reticulate::virtualenv_python(envname)
  code <- "from importlib.metadata import version; print(version('torch'))"
  found <- suppressWarnings(
    system2(python, c("-c", shQuote(code)), stdout = TRUE, stderr = FALSE)
  )
  is_cpu <- grepl("+cpu", found[1], fixed = TRUE)
  if (length(found) && system != "Darwin" && is_cpu != (torch == "cpu")) {
    message("torch ", found[1], " is another build and is replaced")
    system2(python, c("-m", "pip", "uninstall", "--yes", "torch"))
  }
}

#' Can Python decode models here?
#'
#' Says whether Python with the packages that scvibridge needs is at hand. Starts Python.
#'
#' @return `TRUE` or `FALSE`.
#' @seealso [scvibridge_status()] says why not.
#' @examples
#' \donttest{
#' scvibridge_available()
#' }
#' @export
scvibridge_available <- function() {
  tryCatch(
    {
      python_module()
      # Found, not imported: see native.py.
      find <- reticulate::import("importlib.util")$find_spec
      !any(vapply(c("torch", "scvi"), function(name) is.null(find(name)), logical(1)))
    },
    error = function(e) FALSE
  )
}
