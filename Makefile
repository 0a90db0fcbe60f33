# A script runner: `make help` lists what a person does often.

PINNED := 2.6.8
DENO_VERSION ?= $(PINNED)
TOOLS := $(CURDIR)/.tools
# Deno comes from npm into an ignored folder; `make DENO=deno` takes one that is installed.
DENO ?= $(TOOLS)/deno-$(DENO_VERSION)/node_modules/deno/deno

# The executables are made with the pinned version, whichever runs the tests.
COMPILER := $(if $(filter-out $(PINNED),$(DENO_VERSION)),$(TOOLS)/deno-$(PINNED)/node_modules/deno/deno,$(DENO))
SOURCES := deno.json $(wildcard *.ts lib/*.ts lib/*/*.ts)

export DENO_DIR ?= $(TOOLS)/cache
# npm's certificates may be signed by a proxy that only the system's store knows.
export DENO_TLS_CA_STORE ?= mozilla,system
export DENO_NO_UPDATE_CHECK = 1
export DENO_NO_PROMPT = 1

.PHONY: run build test check bench clean help

run: | $(DENO) ## start the daemon; ARGS="--memory 4GiB" adds options
	@$(DENO) run -q -P=daemon --allow-read=lib main.ts $(ARGS)

build: dist/mallocd dist/mallocd-client ## make the executables; ENGINE=datagram makes a daemon without FFI

test: build | $(DENO) ## run all tests; DENO_VERSION=2.9.6 tries another Deno
	$(DENO) test -q -P=test --ignore=tests/system tests/
	$(DENO) test -q -P=system tests/system/

check: | $(DENO) ## check format, lint and types
	$(DENO) fmt --check
	$(DENO) lint
	$(DENO) check main.ts client.ts lib tests bench

bench: build | $(DENO) ## measure
	for file in bench/*.ts; do $(DENO) run -q -P=bench $$file || exit 1; done

# deno.lock is for development: with it, `deno compile` would embed the packages of the benches, too.
COMPILE = stub=$$(contrib/denort.sh $(COMPILER) $(TOOLS)) && \
	env $${stub:+DENORT_BIN=$$stub} $(COMPILER) compile -q --no-lock

dist/mallocd: $(SOURCES) | $(COMPILER)
	@echo "Compiling $@" >&2
ifeq ($(ENGINE),datagram)
	@$(COMPILE) -P=daemon-without-ffi -o $@ main.ts
else
	@$(COMPILE) -P=daemon --include lib/engines/syscall_worker.ts -o $@ main.ts
endif

dist/mallocd-client: $(SOURCES) | $(COMPILER)
	@echo "Compiling $@" >&2
	@$(COMPILE) -P=client -o $@ client.ts

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
