# Everything lives in this checkout: the virtual environment in .venv, runs in runs/. Only package caches lie outside.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
RUNTIME := .venv/share/onnxruntime-web

# Modules are compiled once for all processes, also where the environment has Python write nothing: each worker of the
# tests, and each command that they start, would do it again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo test slow docs docs-test lint clean

help:
	@echo "make demo   install, train on the embedded rooms with and without exchange, write runs/demo/report.html"
	@echo "make test   install and run the tests"
	@echo "make lint   ruff, mypy and the floors of imports"
	@echo "make docs   the documentation as a site, build/site/index.html"
	@echo "make docs-test  run every block of code and every notebook of the documentation"
	@echo "make clean  remove the environment, runs, the site and caches"

install: $(INSTALLED) $(RUNTIME)

# uv resolves and links packages many times faster than pip; it is installed into the environment, nowhere else. It
# compiles them on all cores, which every process would do by itself at its first import, or at each one.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'
	@touch $(INSTALLED)

# What runs the networks of one page of the site. No package of Python has it, and it is too large to be kept here: npm's
# own is fetched once, by the npm that is there, if any, and what else the package holds is left out. Without it the site is
# built all the same, its page says what is missing, and the next `make docs` tries again.
$(RUNTIME): | $(INSTALLED)
	@mkdir -p build && cd build && npm pack --silent --fetch-retries=0 --fetch-timeout=60000 onnxruntime-web@1.30.0 >/dev/null \
		&& tar -xzf onnxruntime-web-1.30.0.tgz package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm \
		&& rm onnxruntime-web-1.30.0.tgz && mkdir -p ../$(dir $(RUNTIME)) && mv package/dist ../$(RUNTIME) && rmdir package \
		|| echo "make: ONNX Runtime Web was not fetched, for which npm and a network are needed: docs/in-the-browser.md is without it"

demo: $(INSTALLED)
	$(BIN)/polymodal demo

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Three at a time on two cores: a third of their time they wait for processes that are killed or told to end.
slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --numprocesses 3 --dist worksteal

docs: $(INSTALLED) $(RUNTIME)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Of the files that have such tests: to collect all the others takes half a minute in each worker.
docs-test: $(INSTALLED) $(RUNTIME)
	$(BIN)/python -m pytest -m docs $$(grep -l mark.docs tests/test_*.py) --numprocesses auto --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=tools $(BIN)/mypy tools/render_rooms.py tools/rooms
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
