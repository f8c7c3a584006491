# Everything a developer or a new user calls. Each target does the set-up it needs; a second time that is instant.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

# Set in many containers. Without compiled files each process that starts takes 2.5 times the CPU time.
unexport PYTHONDONTWRITEBYTECODE

# A checkout keeps its models to itself; the installed command uses the user's cache.
export WARMROUTE_CACHE_DIR ?= $(CURDIR)/.warmroute

.DEFAULT_GOAL := help
.PHONY: help setup serve bench test test-fast test-long lint format check clean clean-all

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  Flags for the command behind a target: make serve ARGS="--replicas 3"'
	@echo '  Another Python than python3:           make serve PYTHON=python3.12'

setup: ## create .venv from the lock file, nothing else
	@$(PYTHON) infra/setup.py --with redis

serve: setup ## start Redis, Ray, the engines and the router; Ctrl-C stops them all
	@exec $(BIN)/warmroute serve $(ARGS)

bench: setup ## what routing costs: this router, and others where ARGS=install has installed them (minutes)
	@exec $(BIN)/python -m loadtest.bench $(ARGS)

test: setup ## all tests, with real Redis, real Ray Serve, real vLLM and a real browser (minutes)
	@$(PYTHON) infra/setup.py --with chromium --with nginx
	@exec $(BIN)/python -m pytest -n 3 --dist loadfile -m "not clients" $(ARGS)

test-fast: setup ## the tests that need no other process (seconds)
	@exec $(BIN)/python -m pytest -n 2 --dist loadfile -m "not vllm and not integration and not chaos and not clients" $(ARGS)

test-long: setup ## new random examples, chaos, every hostile client and fault, other people's clients (half an hour)
	@$(BIN)/python -m pytest -m "not vllm and not integration and not chaos and not clients" --hypothesis-profile long $(ARGS)
	@$(BIN)/python -m tests.chaos --minutes 10
	@$(BIN)/python -m tests.hostile
	@$(BIN)/python -m tests.clients.install
	@$(BIN)/python -m pytest tests/clients

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy infra/setup.py

format: setup ## let ruff correct what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint test ## what CI runs

clean: ## remove caches and build products; keeps .venv and the models in .warmroute
	@rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . \( -name .venv -o -name .git -o -name .warmroute \) -prune -o -name __pycache__ -type d -exec rm -rf {} +

clean-all: clean ## also remove .venv and .warmroute
	@rm -rf .venv .warmroute
