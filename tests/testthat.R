library(testthat)
library(scvibridge)

test_check("scvibridge")
