# `make demo` and `make test` do all the set-up. The second time they start at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLD := python 3.11 or newer is needed; this is %s: make PYTHON=python3.12 $(MAKECMDGOALS)
CHECK = import sys; sys.exit(sys.version_info < (3, 11) and "$(OLD)" % sys.version.split()[0])
# glibc keeps freed memory: without this, each large tensor is mapped and cleared anew.
FEWER_PAGE_FAULTS = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296
PYTEST = $(FEWER_PAGE_FAULTS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
QUICK = tests/test_house_style.py tests/test_rng.py tests/test_config.py tests/test_views.py \
	tests/test_model.py tests/test_classification.py tests/tasks tests/weighting tests/augment \
	tests/training/test_optim.py tests/data/test_open_data.py tests/data/test_csv.py \
	tests/data/test_folder.py tests/data/test_image_cache.py tests/properties/test_splits.py \
	tests/faces/test_head_pose.py tests/faces/test_fer2013.py tests/faces/test_emotion.py
IMAGES = real images: MTLCORE_TEST_DATA=$${MTLCORE_TEST_DATA:-../shared/data}

.PHONY: demo quick test test-all floor docs lint clean

demo: $(READY)
	@echo "== supervised against hybrid training on rendered faces: mtl demo"
	@$(BIN)/mtl demo
	@echo "== to use mtl in this shell: source $(BIN)/activate"

quick: $(READY)
	@echo "== the tests of single parts, under a minute"
	@$(PYTEST) -m "not slow" $(QUICK)

test: $(READY)
	@echo "== all tests but the slow ones ($(IMAGES))"
	@$(PYTEST) -m "not slow"

test-all: $(READY)
	@echo "== all tests ($(IMAGES))"
	@$(PYTEST)
	@$(MAKE) floor
	@$(MAKE) docs

floor: $(READY)
	@echo "== the tests against the oldest versions that pyproject.toml allows, in $(VENV)-floor/"
	@$(BIN)/python -m venv $(VENV)-floor
	@$(BIN)/uv pip install --quiet --python $(VENV)-floor/bin/python --compile-bytecode \
		--resolution lowest-direct -e ".[dev]"
	@OMP_NUM_THREADS=1 $(VENV)-floor/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

docs: $(READY)
	@echo "== the site: build/site/index.html; a warning is an error"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[docs]"
	@$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d build/doctrees docs build/site

lint: $(READY)
	@echo "== style, types, and the import contracts"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# An environment without pip is a failed set-up: it is made anew.
# uv resolves torch and torchvision as a pair. Bytecode is compiled here, once: importing torch from
# source takes three times as long.
$(READY): pyproject.toml
	@echo "== set-up: a virtual environment in $(VENV)/ with everything in it (once; a minute or two)"
	@$(BIN)/python -c 'import pip, sys; assert sys.version_info >= (3, 11)' >/dev/null 2>&1 || \
		{ $(PYTHON) -c '$(CHECK)' && $(PYTHON) -m venv --clear $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-floor build runs .pytest_cache .mypy_cache .ruff_cache
