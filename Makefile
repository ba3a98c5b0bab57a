# Everything runs in .venv, which is made at the first call and renewed when
# pyproject.toml or constraints.txt change. PYTHON is what it is made with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test check format clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1 \2/p' Makefile \
		| while read -r make name what; do printf 'make %-8s %s\n' "$$name" "$$what"; done

demo: export PYTHONDONTWRITEBYTECODE = 1
demo: $(STAMP) ## analyse a structure, print the taxonomy, generate a module and run it
	$(BIN)/einc analyze btt --in 1024
	$(BIN)/einc taxonomy
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT INT TERM && \
	$(BIN)/einc codegen btt --in 1024 --out 1024 -o "$$folder/btt.py" && \
	$(BIN)/python examples/run_generated.py "$$folder/btt.py"

test: $(STAMP) ## run the tests; ARGS="..." goes to pytest
	$(BIN)/python -m pytest -n 2 $(ARGS)

check: $(STAMP) ## check format, lint and types
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy

format: $(STAMP) ## sort imports and format
	$(BIN)/python -m ruff check --select I --fix
	$(BIN)/python -m ruff format

clean: ## remove .venv and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The pip of PYTHON installs into .venv: venv alone would want ensurepip, which
# some distributions package apart.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "einc needs Python 3.11 or newer, but $(PYTHON) is %s: choose another with make PYTHON=..." % sys.version.split()[0])'
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install -c constraints.txt -e '.[dev]' pip
	@touch $@
