# Each target sets up .venv on first use. `make demo` is a first look, `make frontier` the experiment; everything else serves it.
#
#   make demo       a first look: half the context, one codec, a few layers: results/demo/report
#   make frontier   fetch, capture, sketch, sweep, report: results/frontier and results/report
#   make results    all stages: certificates, calibration, peers, memory model, and the model itself under elimination
#   make long       Gemma 3 270M to 32,768 tokens, under its own terms, and the default model to 8,192 beside it (docs/long.md)
#   make report     the report alone, and Snakemake's own self-contained one: results/report/snakemake.html
#   make test       the whole test suite
#   make kills      kill a small run at 50 random moments, and see that each is resumed: docs/reliability.md
#   make damages    damage every artefact of a small run, and see that no job reads it unseen: docs/reliability.md
#   make cluster    the tiny workflow on a Slurm of one node, from Debian's packages: docs/cluster.md
#   make survey     tiny models of every architecture through the lab: docs/architectures.md
#   make vllm       survivors inside vLLM, in an environment of its own that takes 3 GB: integrations/vllm
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

# Snakemake does not quote the path of the Python that its jobs run with.
ODD := ' " ` $$ & ; ( )
ifneq ($(strip $(word 2,$(CURDIR)) $(foreach odd,$(ODD),$(findstring $(odd),$(CURDIR)))),)
$(error The path of this clone has a space or a quote, which Snakemake does not run jobs from: $(CURDIR). Move it to a path without)
endif

BIN := .venv/bin
READY := .venv/.ready
VLLM := integrations/vllm/.venv
# Jobs state their memory; together they may take nine tenths of what is installed.
MEMORY_MB = $(shell $(BIN)/python -c "import psutil; print(int(psutil.virtual_memory().total * 0.9) >> 20)")
SNAKEMAKE = $(BIN)/snakemake --quiet host --cores $(CORES) --resources mem_mb=$(MEMORY_MB) $(ARGS)

# Modules are compiled on first import and the result is kept, also where the environment forbids that (as container images do):
# without it every job compiles torch and transformers again, three seconds in four of its start.
export PYTHONDONTWRITEBYTECODE :=
# Snakemake keeps a cache in the home folder, which containers may not let it write.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
ifneq ($(shell mkdir -p "$(CACHE)" 2> /dev/null && test -w "$(CACHE)" && echo usable),usable)
export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
endif

.PHONY: demo frontier results long report test kills damages cluster survey vllm lint clean

demo: $(READY)
	@$(SNAKEMAKE) -- demo

frontier: $(READY)
	@$(SNAKEMAKE) -- frontier

results: $(READY)
	@$(SNAKEMAKE) -- results

# Experiments beside the first one, each in a folder of its own, where the fetched models and texts are the same ones.
LONG = mkdir -p results/$(1) && ln -sfn ../../resources results/$(1)/resources && \
  $(SNAKEMAKE) --directory results/$(1) --configfile resources/configs/$(1).yaml -- frontier certificates calibrated

# The second page shows the first run beside its own.
long: $(READY)
	@$(call LONG,long) retrieval speed
	@$(call LONG,long_8k)
	@echo "Gemma 3 270M: $(CURDIR)/results/long/results/report/report.html"

report: $(READY)
	@$(SNAKEMAKE) -- report
	@$(SNAKEMAKE) --report results/report/snakemake.html -- report

test: $(READY)
	@$(BIN)/python -m pytest $(PYTEST)

kills: $(READY)
	@$(BIN)/python -m tests.workflow.kills $(KILLS)

damages: $(READY)
	@$(BIN)/python -m tests.workflow.damages

cluster: $(READY)
	@tests/cluster/run

survey: $(READY)
	@$(BIN)/python -m tests.survey

vllm: $(VLLM)/.ready
	@$(VLLM)/bin/python -m pytest -q -s integrations/vllm/tests

lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/snakemake --lint

clean:
	@find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	@rm -rf .snakemake

# torch comes first: pip then finds the build that fits the machine before anything else asks for one. Byte code is left to the
# first import, which compiles what is used and not the 20,000 modules that are not. torch's is made while pip brings the others.
# Versions are those that the tests passed with: what a package changed yesterday breaks nobody's first run.
# A set-up that was interrupted is begun anew.
$(READY): pyproject.toml resources/constraints.txt
	@echo "Setting up .venv (about a minute)"
	@test ! -e .venv/.begun || rm -rf .venv
	@mkdir -p .venv && touch .venv/.begun
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check $(TORCH)
	@$(BIN)/python -c "import torch" > /dev/null 2>&1 & \
	  $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --constraint resources/constraints.txt \
	  --editable '.[dev]' && wait
	@rm .venv/.begun && touch $@

# What vLLM wants is not what the lab wants, so the lab comes in without what it requires. Builds of
# torchvision for CUDA cannot be imported beside torch's for a CPU.
$(VLLM)/.ready: integrations/vllm/pyproject.toml
	@echo "Setting up $(VLLM) (some minutes)"
	@rm -rf $(VLLM)
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install -qq --no-compile --disable-pip-version-check $(TORCH)
	@$(VLLM)/bin/python -m pip install -qq --no-compile --disable-pip-version-check --editable 'integrations/vllm[dev]'
	@$(VLLM)/bin/python -m pip install -qq --no-compile --disable-pip-version-check --no-deps --editable .
	@$(VLLM)/bin/python -m pip uninstall -qq --yes torchaudio torchcodec torchvision
	@touch $@
