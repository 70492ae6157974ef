library(testthat)
library(scvibridge)

# A regular expression for the names of the files to run (dev/check); all of them if it is not set.
chosen <- Sys.getenv("SCVIBRIDGE_TEST_FILES")
test_check("scvibridge", filter = if (nzchar(chosen)) chosen)
