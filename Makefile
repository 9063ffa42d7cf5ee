# make demo: landmarks on a photo, from nothing.   make test: all tests but the slow ones.   make test-slow: these.
# make coverage: all tests, as CI runs them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The extras that developers need.
EXTRAS := train,hub,heic,video,openvino,int8,bulk,serve
comma := ,

.PHONY: help setup lock demo test test-slow test-oldest test-checked coverage platforms check lint-imports dist docs bench web fuzz gpu-check clean

help:
	@echo "make setup | demo | check | test | test-slow | test-checked | coverage | test-oldest | platforms | dist | lock | docs | web | clean"
	@echo "make bench | bench-NAME (benchmarks/README.md has the names) | fuzz | gpu-check"

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

# What `pip install pipnet` gives: no torch.
$(VENV)/.installed: pyproject.toml | $(VENV)/pyvenv.cfg
	$(PIP) --editable .
	@touch $@

# What developers and trainers need on top.
$(VENV)/.developing: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(PIP) --upgrade 'pip>=25.1'  # the first with --group
	$(PIP) --constraint constraints.txt --editable '.[$(EXTRAS)]' --group dev
	@touch $@ $(VENV)/.installed

setup: $(VENV)/.developing

# The versions of all packages of `make setup`, with checksums, for Linux: `pip install -r requirements-dev.txt` installs them.
lock: $(VENV)/.developing
	$(PIP) uv
	$(BIN)/uv pip compile --quiet pyproject.toml --python $(BIN)/python --constraint constraints.txt \
		$(patsubst %,--extra %,$(subst $(comma), ,$(EXTRAS))) --group dev --generate-hashes --output-file requirements-dev.txt

demo: $(VENV)/.installed
	@mkdir -p out
	$(BIN)/pipnet detect examples/astronaut.jpg --json -o out > out/astronaut.json
	@echo "68 landmarks: out/astronaut.jpg (image) and out/astronaut.json"

# One thread a process: two torch processes on two cores otherwise wait for each other.
test: $(VENV)/.developing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal $(TEST_ARGS)

# Tests that make new environments or take minutes. They often wait: for pip, servers and timeouts.
test-slow: $(VENV)/.developing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 3 --dist worksteal $(TEST_ARGS)

# The tests of `make test` with every argument's type and shape checked, and which lines and branches of the package they
# run, subprocesses included; slower. `make coverage` adds the slow tests.
COVERAGE := --cov --cov-append --cov-report=
test-checked: $(VENV)/.developing
	$(BIN)/coverage erase
	$(MAKE) --no-print-directory test TEST_ARGS="--jaxtyping-packages=pipnet,typecheck.check $(COVERAGE)"
	$(BIN)/coverage report

coverage: test-checked
	$(MAKE) --no-print-directory test-slow TEST_ARGS="$(COVERAGE)"
	$(BIN)/coverage report --fail-under=95

# The oldest versions that pyproject.toml allows, on tests that need no torch.
OLDEST := .venv-oldest/bin
OLDEST_TESTS := annotations annotation_errors annotation_readers backends detectors discovery evaluation geometry \
	image_finder images landmarker results rotation scheme selection smoothing tracking video
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST)/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/uv pip install --quiet --python $(OLDEST)/python --resolution lowest-direct \
		--editable '.[hub,heic,report,onnx,data,video,bulk,openvino]' --group test
	OMP_NUM_THREADS=1 $(OLDEST)/python -m pytest -m "not slow" $(OLDEST_TESTS:%=tests/test_%.py)

check: $(VENV)/.developing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory lint-imports
	$(BIN)/codespell $$(git ls-files '*.md' '*.py' '*.yaml' '*.yml')

lint-imports:
	PYTHONPATH=benchmarks $(BIN)/lint-imports

bench: bench-shipped_weights

# make bench-heads ARGS="--runs ../runs"; a name of two folders with its question: make bench-speed-training.
bench-%: $(VENV)/.developing
	@test $(words $(wildcard benchmarks/*/$*/run.py benchmarks/$(subst -,/,$*)/run.py)) = 1 \
		|| { echo "no benchmark $*, or two of this name: see benchmarks/README.md" >&2; exit 2; }
	$(BIN)/python $(wildcard benchmarks/*/$*/run.py benchmarks/$(subst -,/,$*)/run.py) $(ARGS)

# The page of `pipnet demo` and of the documentation; needs Node.js.
web:
	cd web && npm ci --no-audit --no-fund && npm run check && npm run build

# Builds the sdist, the wheel from the sdist, checks both, and detects with the wheel in an empty environment.
dist: $(VENV)/.developing web
	rm -rf dist out/dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv out/dist
	out/dist/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd out/dist && bin/pipnet detect ../../examples/astronaut.jpg --json -o faces > faces.json
	out/dist/bin/python -c "import json; assert len(json.load(open('out/dist/faces.json'))['faces']) == 1"
	@cd dist && sha256sum *

# Whether all dependencies have wheels for systems that the tests do not run on, with the oldest and the newest Python.
# pip takes the tags of a platform as they are, without the older ones that it also runs.
DEPENDENCIES := $(BIN)/python -c "import tomllib as t; d = t.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
	print(*(one.replace(' ', '') for one in d))"
LINUX_TAGS = manylinux_2_28_$(1) manylinux_2_27_$(1) manylinux_2_17_$(1) manylinux2014_$(1)
PLATFORMS := linux-x86_64 linux-arm macos-arm windows
linux-x86_64_TAGS := $(call LINUX_TAGS,x86_64)
linux-arm_TAGS := $(call LINUX_TAGS,aarch64)
macos-arm_TAGS := macosx_14_0_arm64 macosx_13_0_arm64 macosx_12_0_arm64 macosx_11_0_arm64
windows_TAGS := win_amd64
platforms: $(PLATFORMS:%=platform-3.11-%) $(PLATFORMS:%=platform-3.14-%)
platform-%: $(VENV)/.developing
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --only-binary=:all: --dest out/$@ \
		--python-version $(firstword $(subst -, ,$*)) \
		$(patsubst %,--platform %,$($(patsubst 3.11-%,%,$(patsubst 3.14-%,%,$*))_TAGS)) $$($(DEPENDENCIES))
	@echo "$@: $$(ls out/$@ | wc -l) wheels" && rm -r out/$@

# The faces that the trainings on a GPU need, in one file that is not committed: with the tree it stays below 60 MB.
SHARED ?= ../shared
out/gpu_check.zip: | $(VENV)/.developing
	@mkdir -p out
	$(BIN)/pipnet data bundle $(SHARED)/data/300w $@ --size 116 --quality 42 \
		--subset train --subset common --subset challenging --unlabeled $(SHARED)/data/unlabelled/wider
	@test $$(wc -c < $@) -le 13500000 || { echo "$@ is larger than 13.5 MB" >&2; rm $@; exit 1; }

# At most ten minutes on one GPU.
gpu-check: out/gpu_check.zip
	$(BIN)/python benchmarks/training/gpu_check/run.py --shared $(SHARED)

# Ten minutes of changed files for every reader; 20,000 cases: make fuzz ARGS="--cases 20000 --minutes 90".
fuzz: $(VENV)/.developing
	$(BIN)/python benchmarks/robustness/fuzz/run.py $(ARGS)

# The documentation site, in site/: open site/index.html, without a web server or a network.
docs: $(VENV)/.developing
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@if [ -d web/node_modules ]; then cd web && npm run build -- ../site/app; \
	else echo "without the page in the browser, site/app: run make web first"; fi

clean:
	rm -rf $(VENV) .venv-oldest out build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
