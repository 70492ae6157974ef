"""The R files that Python sources stand without the rest of the package."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from scvibridge.r import session

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.r

# Prints "function: what it needs" for each name that R could not find. Names of other packages
# have to be written with `::`, since only those of R itself are attached here.
FIND_MISSING = """
found <- new.env()
for (file in commandArgs(trailingOnly = TRUE)) sys.source(file, envir = found)
names <- Filter(function(name) is.function(found[[name]]), ls(found, all.names = TRUE))
cat("functions:", length(names), "\\n")
for (name in names) {
  needed <- codetools::findGlobals(found[[name]])
  missing <- Filter(function(one) !exists(one, envir = found), needed)
  if (length(missing)) cat("missing in", name, ":", missing, "\\n")
}
"""


def names_that_are_missing(files: list[Path]) -> list[str]:
    command = ["Rscript", "--vanilla", "-e", FIND_MISSING, *map(str, files)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert int(told[0].removeprefix("functions:")) > 0
    return told[1:]


def test_sourced_functions_call_nothing_that_is_not_sourced():
    files = [session._r_folder() / name for name in session.R_FILES]
    assert names_that_are_missing(files) == []


def test_a_file_that_is_left_out_is_noticed():
    files = [session._r_folder() / name for name in session.R_FILES]
    without_checks = [file for file in files if file.name != "errors.R"]
    missing = names_that_are_missing(without_checks)
    assert any("stop_scvibridge" in line for line in missing)
