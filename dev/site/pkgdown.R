# Builds the site of the R package, from this checkout and without the network.
# Usage: Rscript pkgdown.R FOLDER

arguments <- commandArgs(trailingOnly = TRUE)
destination <- normalizePath(arguments[[1L]], mustWork = FALSE)

# pkgdown asks CRAN whether it knows the package, and takes JavaScript from the network where its
# cache lacks some: the cache gets stand-ins.
options(pkgdown.internet = FALSE)
cache <- tempfile("cache")
Sys.setenv(R_USER_CACHE_DIR = cache)
libraries <- list(
  headroom = c("0.11.0", "headroom.min.js", "jQuery.headroom.min.js"),
  "bootstrap-toc" = c("1.0.1", "bootstrap-toc.min.js"),
  clipboard.js = c("2.0.11", "clipboard.min.js"),
  search = c("1.0.0", "fuse.min.js", "autocomplete.jquery.min.js", "mark.min.js")
)
stand_in <- function(name, version, files) {
  folder <- file.path(tools::R_user_dir("pkgdown", "cache"), name, version)
  dir.create(folder, recursive = TRUE)
  file.copy("dev/site/stand_ins.js", file.path(folder, files[[1L]]))
  file.create(file.path(folder, files[-1L]))
}
for (name in names(libraries)) {
  stand_in(name, libraries[[name]][[1L]], libraries[[name]][-1L])
}

pkgdown::build_site(
  ".",
  override = list(destination = destination),
  # The environment's own copy of the package is the checkout's.
  install = FALSE, new_process = FALSE, preview = FALSE
)

# pkgdown also copies pages of the repository, whose links lead to others that it does not copy: the
# Python package's site has them all.
copies <- c("CODE_OF_CONDUCT", "CONTRIBUTING", "SECURITY", "SUPPORT")
unlink(file.path(destination, paste0(rep(copies, each = 2L), c(".html", ".md"))))
