# Says which packages of DESCRIPTION this R lacks, one a line; exit code 1 where it lacks any.
# Usage: Rscript dev/check-r.R DESCRIPTION [LEAST_VERSION_OF_R]

fields <- c("Depends", "Imports", "Suggests", "Config/Needs/development")

requirements <- function(description) {
  entries <- read.dcf(description, fields = fields)
  entries <- trimws(unlist(strsplit(entries[!is.na(entries)], ",")))
  entries <- entries[nzchar(entries)]
  pattern <- "^([[:alnum:].]+)[[:space:]]*([(]>=[[:space:]]*([0-9.-]+)[)])?$"
  data.frame(name = sub(pattern, "\\1", entries), minimum = sub(pattern, "\\3", entries))
}

is_lacking <- function(name, minimum) {
  if (name == "R") {
    return(getRversion() < minimum)
  }
  if (!nzchar(system.file(package = name))) {
    return(TRUE)
  }
  nzchar(minimum) && utils::packageVersion(name) < minimum
}

arguments <- commandArgs(trailingOnly = TRUE)
required <- requirements(arguments[[1L]])
if (length(arguments) > 1L) {
  required <- rbind(required, data.frame(name = "R", minimum = arguments[[2L]]))
}
lacking <- required[mapply(is_lacking, required$name, required$minimum), ]
if (nrow(lacking) > 0L) {
  minimum <- ifelse(nzchar(lacking$minimum), paste0(" (>= ", lacking$minimum, ")"), "")
  cat(paste0(lacking$name, minimum), sep = "\n")
  quit(status = 1L)
}
