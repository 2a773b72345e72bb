# make demo    sets up, exports the small model and tracks objects through a real clip and a drawn one
# make test    sets up and runs lint, types and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?=
CHECKPOINT ?=
# The runtime supports Python 3.10 (JetPack 6): where one is found, its tests run there too.
PYTHON310 ?= $(shell for p in python3.10 $(HOME)/.pyenv/versions/3.10.*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test check clean

demo: $(VENV)/ready
	$(BIN)/etam-edge demo $(if $(MODEL),--model $(MODEL)) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

test: check
	$(BIN)/python -m pytest
	@if [ -n "$(PYTHON310)" ]; then $(MAKE) --no-print-directory test-python310; \
	else echo "no Python 3.10 here: the runtime's tests ran on this Python only"; fi

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# An interpreter without torch and onnx, as on a robot; the bundles it runs are made by the other one.
.PHONY: test-python310
test-python310: $(VENV)310/ready $(VENV)/ready
	rm -rf $(VENV)310/bundles
	$(BIN)/python tests/make_bundles.py $(VENV)310/bundles
	ETAM_EDGE_TEST_BUNDLES=$(VENV)310/bundles $(VENV)310/bin/python -m pytest -q -p no:cacheprovider \
		tests/test_session.py tests/test_memory.py tests/test_resample.py tests/test_bundle.py tests/test_imports.py \
		tests/test_cli_track.py tests/test_check.py tests/test_camera.py tests/test_resizing.py

$(VENV)310/ready: pyproject.toml constraints.txt
	$(PYTHON310) -m venv $(VENV)310
	$(VENV)310/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[onnxruntime,video]" pytest
	touch $@

clean:
	rm -rf $(VENV) $(VENV)310 bundles out
