# Two commands on a fresh machine: `make demo` and `make test`. Each builds .venv from pinned versions when needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTED := train,eval,web,serve,onnx,dev
# a worker takes whole files; those with slow tests first (tests/conftest.py), or one worker ends alone with them
SIDE_BY_SIDE := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all test-fast test-portable test-lowest test-newest test-ray train-toy lint style types bench docs results cost clean

demo: $(VENV)/.ready
	$(BIN)/lipsep demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not exhaustive"

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

# as on a processor without AVX-512, and without compiled kernels: no outcome may turn on rounding
test-portable: $(VENV)/.installed
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest $(SIDE_BY_SIDE)
	LIPSEP_NATIVE=0 $(BIN)/python -m pytest $(SIDE_BY_SIDE)

# the fast tests with the lowest versions that pyproject.toml declares, and with the newest that there are; torch stays as pinned
test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest:
	$(PYTHON) -m venv $(VENV)-$@
	$(VENV)-$@/bin/python -m pip install --quiet uv "$$(grep '^torch==' constraints.txt)"
	$(VENV)-$@/bin/uv pip install --quiet --python $(VENV)-$@/bin/python --resolution $(RESOLUTION) \
		"$$(grep '^torch==' constraints.txt)" --editable '.[$(TESTED)]'
	$(VENV)-$@/bin/python -m pytest -m "not slow"

# Ray takes 410 MB, therefore it is not part of `make test`
test-ray: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/python -m pytest tests/services/batch/test_ray.py

train-toy: $(VENV)/.installed
	$(BIN)/lipsep train --restart recipes/toy/dolphin_toy.yaml

lint: style types

style: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/dolphin_speed.py

# the site, in site/, without a network
docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

results: $(VENV)/.installed
	$(BIN)/python scripts/make_results.py docs/results

# what docs/results/cost.md says of every model, measured anew on a machine that does nothing else, then its pages
cost: $(VENV)/.installed
	$(BIN)/lipsep profile --all --runs 3 -o docs/results/data
	$(BIN)/lipsep profile bin_8 bin_12 bin_16 --seconds 2 --runs 3 -o $(VENV)/profile_2s
	cp $(VENV)/profile_2s/profile.csv docs/results/data/profile_2s.csv
	$(BIN)/python scripts/count_recipes.py
	$(BIN)/python scripts/make_results.py docs/results

# what separating needs: wheels only, no compiler
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "lipsep needs Python 3.10 or newer, found " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# what training, scoring and testing need besides; pesq, of the extra `eval`, is compiled
$(VENV)/.installed: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(TESTED)]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
