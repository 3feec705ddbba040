# Each target sets up .venv on first use. `make frontier` is the experiment; everything else serves it.
#
#   make frontier   fetch, capture, sketch, sweep, report: results/frontier and results/report
#   make results    all stages: generated tensors, anchors, store, memory model, and the model itself under elimination
#   make report     the report alone, and Snakemake's own self-contained one: results/report/snakemake.html
#   make test       the whole test suite
#   make lint       what CI checks besides the tests
#   make clean      remove what the workflow made; keeps .venv and downloads
#
# ARGS goes to snakemake:     make frontier ARGS="--configfile mine.yaml"
# CORES limits the cores:     make frontier CORES=4
# TORCH chooses the build:    make test TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(or $(shell command -v python3.11),python3)
CORES ?= all
ARGS ?=
PYTEST ?= -q -n auto --maxprocesses 4
TORCH ?= torch==2.13.0

BIN := .venv/bin
READY := .venv/.ready
# Jobs state their memory; together they may take nine tenths of what is installed.
MEMORY_MB = $(shell $(BIN)/python -c "import psutil; print(int(psutil.virtual_memory().total * 0.9) >> 20)")
SNAKEMAKE = $(BIN)/snakemake --quiet host rules reason --cores $(CORES) --resources mem_mb=$(MEMORY_MB) $(ARGS)

# Modules are compiled on first import and the result is kept, also where the environment forbids that (as container images do):
# without it every job compiles torch and transformers again, three seconds in four of its start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: frontier results report test lint clean

frontier: $(READY)
	@$(SNAKEMAKE) -- frontier

results: $(READY)
	@$(SNAKEMAKE) -- results

report: $(READY)
	@$(SNAKEMAKE) -- report
	@$(SNAKEMAKE) --report results/report/snakemake.html -- report

test: $(READY)
	@$(BIN)/python -m pytest $(PYTEST)

lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/snakemake --lint

clean:
	@find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	@rm -rf .snakemake

# torch comes first: pip then finds the build that fits the machine before anything else asks for one. Byte code is left to the
# first import, which compiles what is used and not the 20,000 modules that are not.
# Versions are those that the tests passed with: what a package changed yesterday breaks nobody's first run.
$(READY): pyproject.toml resources/constraints.txt
	@echo "Setting up .venv (about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --constraint resources/constraints.txt \
	  --editable '.[dev]'
	@touch $@
