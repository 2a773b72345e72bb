# make demo        set up, export the small model and track objects in a real clip and a drawn one
# make test        set up, then lint, type checks and tests
# make test-full   what `make test` leaves out: official models at full size, whole demos, the trainer, Python 3.10
# make docs        set up and build the documentation site, in site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?=
CHECKPOINT ?=
# Tests run in one process a core. Each process needs up to 2 GB of memory, so there are at most 8. One that crashes ends the
# run: with a new one in its place pytest-xdist waits for ever.
PYTEST := -m pytest -n auto --maxprocesses 8 --max-worker-restart 0 --dist loadscope --no-loadscope-reorder
# The runtime supports Python 3.10 (JetPack 6). Where one is found, the runtime's tests run there too.
PYTHON310 ?= $(shell for p in python3.10 $(HOME)/.pyenv/versions/3.10.*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test test-full check docs clean

demo: $(VENV)/ready
	$(BIN)/etam-edge demo $(if $(MODEL),--model $(MODEL)) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

test: check
	$(BIN)/python $(PYTEST) -m "not full" --ignore tests/test_train_nano.py

# The trainer starts processes of its own, which end the workers of pytest-xdist: its tests run in one process.
test-full: $(VENV)/ready
	$(BIN)/python $(PYTEST) -m full --ignore tests/test_train_nano.py
	$(BIN)/python -m pytest -q tests/test_train_nano.py
	@if [ -n "$(PYTHON310)" ]; then $(MAKE) --no-print-directory test-python310; \
	else echo "no Python 3.10 here: the runtime's tests ran on this Python only"; fi

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, in site/. A warning is an error: a link that leads nowhere ends the build.
docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# An interpreter without torch and onnx, as on a robot. The bundles that it runs are exported by the other one.
.PHONY: test-python310
test-python310: $(VENV)310/ready $(VENV)/ready
	rm -rf $(VENV)310/bundles
	$(BIN)/python -m tests.make_bundles $(VENV)310/bundles
	ETAM_EDGE_TEST_BUNDLES=$(VENV)310/bundles $(VENV)310/bin/python $(PYTEST) -q -p no:cacheprovider \
		tests/test_session.py tests/test_memory.py tests/test_resample.py tests/test_bundle.py tests/test_imports.py \
		tests/test_cli_track.py tests/test_check.py tests/test_camera.py tests/test_resizing.py

$(VENV)310/ready: pyproject.toml constraints.txt
	$(PYTHON310) -m venv $(VENV)310
	$(VENV)310/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[onnxruntime,video]" pytest pytest-xdist
	touch $@

clean:
	rm -rf $(VENV) $(VENV)310 .cache bundles out site
