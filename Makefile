# Every target makes the environment it needs. Only Python (3.11 or newer, with venv), make and a network are required.
#
#   make demo    from simulated micrographs to a sharpened map and its report, in demo_output/
#   make demo-sta  from simulated tilt series, by way of binning 4 and recentring, to a map and report at binning 2
#   make test    run the tests
#   make test-gpu  run those that need a GPU; CUDA=cuda13 where its driver is that new, WHEELS=folder without a network,
#                  GPU_PYTHON=python3 with the packages of that Python, nothing being installed
#   make check-gpu  the same, and benchmarks/gpu.py: rates and a whole refinement
#   make screenshots  make the pictures of docs/images in a window on a virtual screen (Debian: xvfb)
#   make lint    ruff, mypy, import contracts
#   make env     only make the environment
#   make clean   remove the environment and everything made

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUTPUT ?= demo_output
DEMO_STA_OUTPUT ?= demo_sta_output
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: env dev demo demo-sta test test-gpu check-gpu screenshots lint format clean
.DEFAULT_GOAL := test

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "No Python >= 3.11 with venv found; installing Debian's python3-venv."; \
	    apt-get update -q && apt-get install -y -q python3-venv; \
	  else echo "Python 3.11 or newer with its venv module is needed (Debian: apt-get install python3-venv)."; exit 1; fi; }
	$(if $(PYTHON),$(PYTHON),python3) -m venv $(VENV)
	$(PIP) install -q --upgrade pip

# The stamps make an unchanged environment cost nothing.
$(VENV)/.installed: pyproject.toml hatch_build.py | $(BIN)/python
	$(PIP) install -q --only-binary=:all: --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q --only-binary=:all: --group dev
	@touch $@

env: $(VENV)/.installed
dev: $(VENV)/.installed-dev

demo: env
	MPLBACKEND=Agg $(BIN)/autorefine demo --o $(DEMO_OUTPUT) --overwrite

demo-sta: env
	MPLBACKEND=Agg $(BIN)/autorefine demo_sta --o $(DEMO_STA_OUTPUT) --overwrite

# Tests with a window run under Xvfb where it is installed, else they are skipped with what to install. A Qt that lacks
# libraries of the system would stop pytest before the first test, so its plugin stays out then.
XVFB = $(if $(shell command -v xvfb-run),xvfb-run -a -s "-screen 0 1280x1024x24")
NO_QT = $(shell $(BIN)/python -c 'import PyQt6.QtWidgets' 2>/dev/null || echo "-p no:pytest-qt")

# Windows have processes of their own: what a thousand other tests leave behind does not meet Qt and OpenGL.
PYTEST = MPLBACKEND=Agg $(XVFB) $(BIN)/python -m pytest $(NO_QT) -n 2

test: dev
ifeq ($(strip $(ARGS)),)
	$(PYTEST) --ignore=tests/ui
	$(PYTEST) tests/ui
else
	$(PYTEST) $(ARGS)
endif

# GPUs are often in machines without a network or a screen: what runs there needs little, and that from wheels if asked.
CUDA ?= cuda12
WHEELS ?=
GPU_VENV := .venv-gpu
GPU_PYTHON ?= $(GPU_VENV)/bin/python
GPU_RUN = PYTHONPATH=src:$(PYTHONPATH) MPLBACKEND=Agg $(GPU_PYTHON)
GPU_STAMP := $(GPU_VENV)/.installed-$(CUDA)
GPU_NEEDS = $(if $(filter $(GPU_VENV)/bin/python,$(GPU_PYTHON)),$(GPU_STAMP))
GPU_PACKAGES = $$($(GPU_VENV)/bin/python -c "import tomllib; file = tomllib.load(open('pyproject.toml', 'rb')); \
	print(*file['dependency-groups']['gpu'], *file['project']['optional-dependencies']['$(CUDA)'])")

$(GPU_STAMP): pyproject.toml
	$(if $(PYTHON),$(PYTHON),python3) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip --disable-pip-version-check install -q --only-binary=:all: \
	  $(if $(WHEELS),--no-index --find-links $(WHEELS)) $(GPU_PACKAGES)
	@touch $@

test-gpu: $(GPU_NEEDS)
	@$(GPU_RUN) -c "import sys; from napari_autorefine.xp import gpu_count, has_cupy; gpu_count() or sys.exit( \
	  'No GPU can be used here: ' + ('CuPy finds none.' if has_cupy() else 'CuPy is not installed.'))"
	$(GPU_RUN) -m pytest -m gpu -W default -p no:cacheprovider tests/kernels tests/engine $(ARGS)

check-gpu: $(GPU_NEEDS)
	@status=0; $(MAKE) test-gpu || status=$$?; $(GPU_RUN) benchmarks/gpu.py $(CHECK_ARGS) || status=$$?; exit $$status

screenshots: dev
	@command -v xvfb-run >/dev/null || { echo "xvfb-run is needed (Debian: apt-get install xvfb xauth)."; exit 1; }
	xvfb-run -a -s "-screen 0 1600x1000x24" $(BIN)/python docs/make_screenshots.py

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(GPU_VENV) $(DEMO_OUTPUT) $(DEMO_STA_OUTPUT) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
