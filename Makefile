# A script runner: `make help` lists what a person does often.

DENO_VERSION ?= 2.6.8
TOOLS := $(CURDIR)/.tools
# Deno comes from npm into an ignored folder; `make DENO=deno` takes one that is installed.
DENO ?= $(TOOLS)/deno-$(DENO_VERSION)/node_modules/deno/deno

export DENO_DIR ?= $(TOOLS)/cache
# npm's certificates may be signed by a proxy that only the system's store knows.
export DENO_TLS_CA_STORE ?= mozilla,system
export DENO_NO_UPDATE_CHECK = 1
export DENO_NO_PROMPT = 1

.PHONY: run test check bench clean help

run: $(DENO) ## start the daemon; ARGS="--memory 4GiB" adds options
	@$(DENO) run -q -P=daemon main.ts $(ARGS)

test: $(DENO) ## run all tests; DENO_VERSION=2.9.6 tries another Deno
	$(DENO) test -q -P=test tests/

check: $(DENO) ## check format, lint and types
	$(DENO) fmt --check
	$(DENO) lint
	$(DENO) check main.ts client.ts lib tests bench

bench: $(DENO) ## measure
	for file in bench/*.ts; do $(DENO) run -q -P=bench $$file || exit 1; done

clean: ## remove what was built and downloaded
	rm -rf dist $(TOOLS)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

# The package's own installer, run by hand: npm may be set not to run it.
$(TOOLS)/deno-%/node_modules/deno/deno:
	@echo "Installing deno@$* from npm into .tools/" >&2
	@npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(TOOLS)/deno-$* deno@$*
	@node -e 'require("$(TOOLS)/deno-$*/node_modules/deno/install_api.cjs").runInstall()'
	@touch $@

.SECONDARY:
