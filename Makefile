# The project's targets; `make` alone lists them. Kept to what GNU make 3.81 understands, since that is what macOS has.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# PYTHON=... names the one to use. 3.13 first: it is what runs in Lambda.
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3.14 python3)

# Each names a finished installation, and is repeated only when its lock has changed.
RUN := $(VENV)/run.installed
INFRA := $(VENV)/infra.installed
DEV := $(VENV)/dev.installed
CDK_CLI := infra/cdk-cli/node_modules/.package-lock.json
THIRD_PARTY_CLIENTS := tests/third_party_clients/node_modules/.package-lock.json
CLIENT_TESTS := tests/client/node_modules/.package-lock.json
PEERS := bench/peers/node_modules/.package-lock.json
# In its own environment: its pins must not affect ours.
MINISTACK := .venv-ministack/ministack.installed

# Node.js and npm come with the infra lock: the same everywhere, and none that CDK no longer supports.
WITH_NODE := PATH="$(CURDIR)/$(BIN):$$PATH"
CDK := $(WITH_NODE) infra/cdk-cli/node_modules/.bin/cdk

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-emit-index-url --custom-compile-command 'make lock' $(ARGS)

.PHONY: help setup run test quick simulate chromium schemas pictures bench check fmt lock clean bootstrap synth diff deploy destroy

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(RUN) ## install what `make run` needs into .venv (PYTHON=... chooses the interpreter)

run: $(RUN) ## run the service on this machine (ARGS="--help" lists its options)
	@exec $(BIN)/presence run $(ARGS)

test: chromium $(DEV) $(THIRD_PARTY_CLIENTS) $(CLIENT_TESTS) $(CDK_CLI) $(MINISTACK) ## run all tests (ARGS="tests/shared -x" runs some)
	@$(WITH_NODE) $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

quick: $(DEV) $(CLIENT_TESTS) ## run the tests that concern what has changed since `main` (ARGS="-x" stops at a failure)
	@$(WITH_NODE) $(BIN)/python -m tools.changed_tests $(ARGS)

simulate: $(DEV) ## play SEEDS=300 random histories from FIRST=1 on, under virtual time; SEED=7 plays and shrinks one
	@$(WITH_NODE) $(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(FIRST),--first $(FIRST)) $(ARGS)

# Before anything is installed or run: a browser belongs to the system, and `make` cannot install it.
chromium: | $(BIN)/python
	@$(BIN)/python tests/support/chromium.py

schemas: $(DEV) ## write what is generated: the schemas of both APIs, and docs/commands.md
	@$(BIN)/python -m tools.schemas

pictures: chromium $(DEV) ## take new screenshots of the demo page and the operator's view for docs/images
	@$(BIN)/python -m tests.browser.pictures

bench: $(DEV) $(PEERS) ## measure costs side by side (ARGS="--quick fan_out" chooses); writes docs/benchmarks.md
	@$(WITH_NODE) $(BIN)/python -m bench $(ARGS)

bootstrap: $(INFRA) $(CDK_CLI) ## once for an AWS account and region: create the bucket that CDK uploads to
	@$(BIN)/presence account
	@$(CDK) bootstrap $(ARGS)

synth: $(INFRA) $(CDK_CLI) ## write the CloudFormation template into cdk.out (ARGS="-c cache=vpc" chooses)
	@$(CDK) synth --quiet $(ARGS)

diff: $(INFRA) $(CDK_CLI) ## show what a deployment would change; ARGS as for it
	@$(BIN)/presence account
	@$(CDK) diff $(ARGS)

deploy: $(INFRA) $(CDK_CLI) ## deploy to AWS (docs/deploy.md); ARGS as for synth
	@$(BIN)/presence account
	@$(CDK) deploy $(ARGS)

destroy: $(INFRA) $(CDK_CLI) ## remove what was deployed; a final snapshot of the cache stays
	@$(BIN)/presence account
	@$(CDK) destroy $(ARGS)

check: $(DEV) ## lint, formatting, types, Lua, import contracts, and the repository's own rules
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.lua check
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest --quiet tests/test_repository.py

fmt: $(DEV) ## format, and fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(DEV) ## update the locks after a change to requirements/*.in (ARGS=--upgrade takes newer releases)
	$(COMPILE) requirements/lambda.in --output-file requirements/lambda.txt
	$(COMPILE) requirements/lambda.in requirements/run.in --constraint requirements/lambda.txt \
		--output-file requirements/run.txt
	$(COMPILE) requirements/lambda.in requirements/run.in requirements/infra.in --constraint requirements/run.txt \
		--output-file requirements/infra.txt
	$(COMPILE) requirements/lambda.in requirements/run.in requirements/infra.in requirements/dev.in \
		--constraint requirements/infra.txt --output-file requirements/dev.txt
	$(COMPILE) requirements/ministack.in --output-file requirements/ministack.txt

clean: ## remove everything that these targets have created
	rm -rf $(VENV) $(dir $(MINISTACK)) infra/cdk-cli/node_modules tests/client/node_modules \
		tests/third_party_clients/node_modules bench/peers/node_modules build cdk.out \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

# An interpreter counts only if it runs: pyenv leaves shims on PATH for versions that are not selected. Debian ships Python
# without ensurepip; there, a pip outside the virtual environment installs one into it.
$(BIN)/python:
	@for python in $(PYTHONS) none; do \
		"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && break; \
	done; \
	if [ "$$python" = none ]; then \
		echo "setup: needs Python 3.11, 3.12, 3.13 or 3.14, and none of these is one: $(PYTHONS)" >&2; exit 1; \
	fi; \
	echo "$(VENV): $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV) >/dev/null 2>&1 || { \
		"$$python" -m pip --version >/dev/null 2>&1 && \
		"$$python" -m venv --clear --without-pip $(VENV) && \
		"$$python" -m pip -qq --disable-pip-version-check --python $(BIN)/python install pip; \
	} || { \
		rm -rf $(VENV); echo "setup: $$python has neither venv nor pip; on Debian: apt-get install python3-venv" >&2; exit 1; \
	}

$(RUN): requirements/run.txt requirements/lambda.in requirements/run.in pyproject.toml | $(BIN)/python
	@echo "$(VENV): installing requirements/run.txt"
	@$(PIP) install --require-hashes --requirement requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(INFRA): requirements/infra.txt $(RUN)
	@echo "$(VENV): installing requirements/infra.txt"
	@$(PIP) install --require-hashes --requirement requirements/infra.txt
	@touch $@

$(DEV): requirements/dev.txt $(INFRA)
	@echo "$(VENV): installing requirements/dev.txt"
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

$(THIRD_PARTY_CLIENTS): tests/third_party_clients/package.json tests/third_party_clients/package-lock.json \
		tests/third_party_clients/.npmrc | $(DEV)
	@cd tests/third_party_clients && $(WITH_NODE) npm ci --loglevel=error
	@touch $@

$(CLIENT_TESTS): tests/client/package.json tests/client/package-lock.json tests/client/.npmrc | $(DEV)
	@cd tests/client && $(WITH_NODE) npm ci --loglevel=error
	@touch $@

$(PEERS): bench/peers/package.json bench/peers/package-lock.json bench/peers/.npmrc | $(DEV)
	@cd bench/peers && $(WITH_NODE) npm ci --loglevel=error
	@touch $@

$(CDK_CLI): infra/cdk-cli/package.json infra/cdk-cli/package-lock.json infra/cdk-cli/.npmrc | $(INFRA)
	@cd infra/cdk-cli && $(WITH_NODE) npm ci --loglevel=error
	@touch $@

# Without its own pip, which Debian's Python could not install.
$(MINISTACK): requirements/ministack.txt | $(DEV)
	@echo "$(@D): installing requirements/ministack.txt"
	@$(BIN)/python -m venv --clear --without-pip $(@D)
	@$(PIP) --python $(@D)/bin/python install --require-hashes --requirement requirements/ministack.txt
	@touch $@
