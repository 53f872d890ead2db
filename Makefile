# Needs python3, pip and make. Another interpreter: make quickstart PYTHON=python3.12
# One test folder: make test TESTS=tests/test_ranks      Leave out the slow ones: make test PYTEST_ARGS='-m "not slow"'
.DEFAULT_GOAL := help
.PHONY: help quickstart quickstart-clip quickstart-recycle quickstart-generate test test-long lint clean

BOOT := $(or $(PYTHON),python3)
READY := $(BOOT) requirements/environment.py $(if $(PYTHON),--exact)
VENV_PYTHON := .venv/bin/python
TESTS ?= tests
PYTEST_ARGS ?=
WORKERS ?= 2

help:
	@echo 'make quickstart        install into .venv, then adapt a small pre-trained ViT to real handwritten digits'
	@echo 'make quickstart-clip   install into .venv, then adapt a small CLIP to letters that it has not seen'
	@echo 'make quickstart-recycle  install into .venv, then make one LoRA of many, for new letters and digits without tuning'
	@echo 'make quickstart-generate install into .venv, then generate LoRAs for new letters and digits from a few images'
	@echo 'make test              install into .venv, then run the test suite'
	@echo 'make test-long         try a million inputs on the parsers of files, beside all attacks that are known, and kill'
	@echo '                       runs of each way to train at 20 random instants'
	@echo 'make lint              check the style of the tree'
	@echo 'make clean             remove the environments and build folders (work_dirs stays)'

# Threads that wait asleep: on a busy machine, those that spin slow each other down several times over.
quickstart:
	@$(READY) lite,quickstart
	@OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 MPLBACKEND=Agg $(VENV_PYTHON) tools/quickstart.py

quickstart-clip:
	@$(READY) lite
	@OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 MPLBACKEND=Agg $(VENV_PYTHON) tools/quickstart_clip.py

quickstart-recycle:
	@$(READY) lite,quickstart
	@OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 MPLBACKEND=Agg $(VENV_PYTHON) tools/quickstart_recycle.py

quickstart-generate:
	@$(READY) lite,quickstart
	@OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 MPLBACKEND=Agg $(VENV_PYTHON) tools/quickstart_generate.py

# One thread a process: the suite runs in several processes, and small models gain nothing from more.
test:
	@$(READY) tests
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 MPLBACKEND=Agg \
	$(VENV_PYTHON) -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS) $(TESTS)

# INPUTS=10000 and KILLS=3 try fewer.
INPUTS ?= 1000000
KILLS ?= 20
test-long:
	@$(READY) tests
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 MPLBACKEND=Agg MMLORA_FUZZ=$(INPUTS) MMLORA_KILLS=$(KILLS) \
	$(VENV_PYTHON) -m pytest -q -n $(WORKERS) --dist worksteal -o timeout=0 $(PYTEST_ARGS) \
	tests/test_security tests/test_engine/test_killed_runs.py

lint:
	@$(READY) lint --venv .venv-lint
	@.venv-lint/bin/python -m ruff check .

clean:
	rm -rf .venv .venv-lint .venv.lock .venv-lint.lock build dist mmlora.egg-info mmlora/.mim
