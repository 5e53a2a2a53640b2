# Two commands matter: `make demo` and `make test`. Both create .venv from a lock file first.
#   PYTHON=python3.12 make demo     another interpreter (3.11, 3.12 or 3.13)
#   make demo ARGS="--fast"         arguments of `cptlaw demo`

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
UV := uv==0.13.9
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
LOCK := requirements/lock-$(if $(filter 3.11,$(VERSION)),3.11,3.12).txt
STAMP := $(VENV)/installed-$(VERSION)

.PHONY: demo test test-slow colabs lint docs env lock clean

demo: $(STAMP)
	$(BIN)/cptlaw demo $(ARGS)

test: lint docs
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# Runs the notebooks and keeps their outputs; ARGS="--repository https://github.com/OWNER/NAME": where they open from.
colabs: $(STAMP)
	$(BIN)/python colabs/execute.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site. Strict: a broken link, an undescribed flag or an undescribed field of a config fails.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

env: $(STAMP)

# uv installs the locked set in seconds where pip takes minutes; pip alone does the same where uv finds no
# index (it does not read pip.conf). --compile-bytecode: importing seqio without .pyc files takes 16 s.
$(STAMP): $(LOCK) setup.py pyproject.toml
	@case "$(VERSION)" in 3.11|3.12|3.13) ;; *) echo "cptlaw needs CPython 3.11, 3.12 or 3.13, but '$(PYTHON)' is '$(VERSION)'. Name one: make PYTHON=python3.11 demo" >&2; exit 2;; esac
	test -x $(BIN)/python && test "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$(VERSION)" || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the packages of $(LOCK) into $(VENV): about 3,800 MB on disk once unpacked, TensorFlow the largest part; what pip or uv have cached is not downloaded again."
	$(BIN)/pip install -q $(UV)
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -r $(LOCK) || $(BIN)/pip install -q -r $(LOCK)
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e . || $(BIN)/pip install -q --no-deps -e .
	touch $@

# Remakes the lock files from setup.py; run it after changing a dependency.
lock:
	$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --extra dev setup.py -o requirements/lock-3.11.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.12 --extra dev setup.py -o requirements/lock-3.12.txt

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
