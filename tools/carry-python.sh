# Copies the Python code into the R package, which carries it: python/ to inst/python, where R
# installs it from. Run by `configure` (R CMD INSTALL) and by `cleanup` (R CMD build, which calls
# it in its own copy of the sources, before it leaves python/ out of the tarball).
# A tarball has no python/: what it carries is left as it is.
set -e
if [ -f python/scvibridge/__init__.py ]; then
  rm -rf inst/python
  mkdir -p inst/python
  cp -R python/scvibridge inst/python/scvibridge
  find inst/python -type d -name __pycache__ -prune -exec rm -rf {} +
fi
if [ ! -f inst/python/scvibridge/__init__.py ]; then
  echo "scvibridge: there is no Python code in python/ or inst/python/" >&2
  exit 1
fi
