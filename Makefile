# Two commands do everything, on a machine with Python 3.10 to 3.13, make and a C compiler:
#   make demo   sets up and runs the whole path on a small detector
#   make test   sets up and passes the tests
PYTHON ?= python3
VENV   ?= .venv
# One torch for everybody who runs the tests; any torch >= 2.9 works: make test TORCH='torch==2.14.1 torchvision==0.29.1'
TORCH  ?= torch==2.13.0
BIN     = $(VENV)/bin
# The tests run a part with the oldest Ultralytics that is supported, which lies beside the environment's packages.
OLDEST  = ultralytics==$(shell sed -n 's/.*"ultralytics>=\([0-9.]*\)".*/\1/p' pyproject.toml)
READY   = $(VENV)/.ready
# pip: one call resolves once, and what is never imported need not be compiled; a third of the time less.

.PHONY: demo test lint table scaling zoo random clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile $(TORCH) -e '.[dev,rtx,ultralytics,openvino,ray,lightning]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --upgrade --target $(VENV)/oldest-ultralytics $(OLDEST)
	touch $@

demo: $(READY)
	$(BIN)/python -m examples.digits_demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint --failure-threshold warning docker/*.Dockerfile

# The tables of the README; they need real weights (CHANNELCUT_ASSETS) and about half an hour.
table: $(READY)
	$(BIN)/python -m benchmarks.table

scaling: $(READY)
	$(BIN)/python -m benchmarks.scaling

# What can be cut of Ultralytics, torchvision, timm and transformers; resumes where it stopped; hours in all.
zoo: $(READY)
	$(BIN)/python -m pip install --quiet $(TORCH) -e '.[zoo]'
	$(BIN)/python -m benchmarks.zoo

# Two thousand random networks: proven or refused, never wrong. About a quarter of an hour; goes on where it stopped.
random: $(READY)
	$(BIN)/python -m benchmarks.random_networks --count 2000

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
