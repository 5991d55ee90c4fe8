# The two commands a newcomer needs are `make demo` and `make test`; both set up their environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= --configfile config/miniature.yaml

.PHONY: demo test lint format plan status regrade lock

# The environment is made anew when the lock changes; a half-made one is not taken for finished.
$(VENV)/complete: envs/cpu.lock
	@echo "Setting up $(VENV) from envs/cpu.lock: some minutes, once"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/cpu.lock
	@touch $@

demo: $(VENV)/complete  ## set up, then run the miniature study to its page
	$(BIN)/snakemake --profile profiles/local

test: $(VENV)/complete  ## set up, then run the tests
	$(BIN)/python -m pytest tests

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

plan: $(VENV)/complete  ## what would run: make plan STUDY="--configfile config/one-gpu.yaml"
	$(BIN)/snakemake --profile profiles/local $(STUDY) --dry-run --quiet rules

status: $(VENV)/complete  ## the state of every cell
	$(BIN)/python scripts/status.py $(STUDY)

regrade: $(VENV)/complete  ## grade and score every stored response again, nothing else
	$(BIN)/snakemake --profile profiles/local $(STUDY) --forcerun grade --allowed-rules grade score regrade -- regrade

lock:  ## resolve envs/*.in into locks and conda environments
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) envs/lock.py
