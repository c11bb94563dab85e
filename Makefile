# Needs make and Python 3.11 or newer. uv installs faster and is used where it is on PATH.
# Everything is installed into $(VENV), again only when pyproject.toml or constraints.txt changed.

VENV    ?= .venv
PYTHON  ?= python3
WORKERS ?= 2
ARGS    ?=
UV      := $(shell command -v uv 2>/dev/null)

# uv reads none of pip's settings; a local folder of wheels (a CPU build of torch, say) serves both.
ifdef PIP_FIND_LINKS
comma := ,
empty :=
export UV_FIND_LINKS ?= $(subst $(empty) $(empty),$(comma),$(strip $(PIP_FIND_LINKS)))
endif

BIN     := $(VENV)/bin
RUNTIME := $(VENV)/.installed
DEV     := $(VENV)/.installed-dev

ifneq ($(UV),)
create_venv = $(UV) venv --quiet --allow-existing --python "$(PYTHON)" $(VENV)
install     = $(UV) pip install --python $(BIN)/python --constraint constraints.txt --editable
else
create_venv = "$(PYTHON)" -m venv $(VENV)
install     = $(BIN)/python -m pip install --constraint constraints.txt --editable
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint types check clean distclean
.DELETE_ON_ERROR:

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)$$/make \1:\2/p' $(firstword $(MAKEFILE_LIST)) \
		| while IFS=: read -r name text; do printf '%-15s %s\n' "$$name" "$$text"; done
	@echo 'Variables: PYTHON=python3.12  VENV=.venv  WORKERS=2 (test processes)'

demo: $(RUNTIME) ## train the small demonstration model: make demo ARGS="training.num_rollouts=2"
	$(BIN)/unmask train $(ARGS)

test: $(DEV) ## run the tests; make test ARGS="-m 'not slow'" narrows them down
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

lint: $(DEV) ## check style with ruff
	$(BIN)/ruff check .

types: $(DEV) ## check types with mypy
	$(BIN)/mypy

check: lint types test ## everything that must pass before a change is handed in

clean: ## remove caches and build outputs
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too
	rm -rf $(VENV)

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo '$(PYTHON) is missing or older than Python 3.11: name another, as in' \
		     'make PYTHON=python3.12 $(or $(MAKECMDGOALS),demo)' >&2; exit 1; }
ifeq ($(UV),)
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '$(PYTHON) cannot make virtual environments: install its venv module' \
		     '(Debian, Ubuntu: apt install python3-venv) or install uv' >&2; exit 1; }
endif
	$(create_venv)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(install) .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(install) '.[dev]'
	@touch $(RUNTIME) $@
