# Every target sets up what it needs by itself, through dev/env, outside of the checkout.

.DEFAULT_GOAL := help
.PHONY: help test test-python test-r test-oldest test-latest lint format check coverage document site demo figures bench evidence clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

test: ## Run both test suites (a failure of the first does not stop the second)
	@status=0; \
	$(MAKE) --no-print-directory test-python || status=1; \
	$(MAKE) --no-print-directory test-r || status=1; \
	exit $$status

# All of it in several processes, each with the tests of whole files (their fixtures are made once)
# and one thread. In the order of the files: the longest of those with few tests stand first.
test-python: ## Run the tests of the Python package; ARGS go to pytest
	@dev/env python -m pytest \
	  $(if $(ARGS),$(ARGS),-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)

test-r: ## Run the tests of the R package; FILTER=name runs the files that match
	@dev/env Rscript dev/test.R $(if $(FILTER),"$(FILTER)")

test-oldest: ## Run both suites on the lowest versions of the Python packages, with Python 3.11
	@SCVIBRIDGE_STACK=oldest $(MAKE) --no-print-directory test

test-latest: ## Run both suites on the newest versions: Python 3.12+, packages, R of Debian sid
	@SCVIBRIDGE_STACK=latest $(MAKE) --no-print-directory test

lint: ## Check the style and the types of both languages
	@dev/env dev/lint

format: ## Format the Python code
	@dev/env ruff check --fix python tests examples dev benchmarks
	@dev/env ruff format python tests examples dev benchmarks

check: ## Build the R package and check it (R CMD check): no errors, no warnings
	@dev/env dev/check

document: ## Write NAMESPACE and man/ from the comments in R/
	@dev/env Rscript -e 'roxygen2::roxygenise(load_code = "source")'

site: ## Build the documentation of both packages into site/: links and examples are checked
	@dev/env dev/site/build

coverage: ## Measure the lines of R code that its tests run; fails under 90 %
	@dev/env Rscript dev/coverage.R

demo: ## Run the whole way on real cells, or on DATA=x.h5ad BATCH=donor LABELS=cell_type
	@dev/env python -m examples.demo --out demo $(if $(DATA),--data "$(DATA)") \
	  $(if $(BATCH),--batch-key "$(BATCH)") $(if $(LABELS),--labels-key "$(LABELS)")

figures: ## Make the pictures of README.md and docs/ again (minutes)
	@dev/env python -W ignore -m examples.figures

bench: ## Measure against scvi-tools and anndata2ri; BENCH=group SCALE=small ROUNDS=9 KEEP=1
	@dev/env python -W ignore -m benchmarks $(BENCH) $(if $(SCALE),--scale $(SCALE)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(KEEP),--keep) \
	  --commit "$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

evidence: ## Measure whether corrected counts are right (hours); WORK=folder keeps what is made, JOBS=2
	@OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 SCVIBRIDGE_EXTRAS=evidence \
	  dev/env python -W ignore -m benchmarks.validity $(if $(WORK),--work "$(WORK)") \
	  $(if $(JOBS),--jobs $(JOBS)) $(if $(SCALE),--$(SCALE))

clean: ## Remove what tests, builds and the demo leave in the checkout (not the cache)
	@rm -rf demo site site.partial dist build *.Rcheck *.tar.gz .hypothesis .pytest_cache .mypy_cache .ruff_cache \
	  tests/testthat/_problems tests/testthat/testthat-problems.rds
	@find python tests examples dev benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
