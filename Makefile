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
export ENGINE

.PHONY: run build test check bench bench-compare bench-gc install uninstall dist clean help FORCE

run: | $(DENO) ## start the daemon; ARGS="--memory 4GiB" adds options
	@$(DENO) run -q -P=daemon --allow-read=lib main.ts $(ARGS)

build: dist/mallocd dist/mallocd-client ## make the executables; ENGINE=datagram makes a daemon without FFI

test: build | $(DENO) ## run all tests; DENO_VERSION=2.9.6 tries another Deno
	$(DENO) test -q -P=test --ignore=tests/system tests/
	$(DENO) test -q -P=system tests/system/

check: | $(DENO) ## check format, lint and types
	$(DENO) fmt --check
	$(DENO) lint
	$(DENO) check main.ts client.ts bench contrib examples lib tests

bench: build | $(DENO) ## measure
	for file in bench/*.ts; do $(DENO) run -q -P=bench $$file || exit 1; done

# Both at once. What ENGINE was the last time is kept in a file, so that another one makes them anew.
dist/mallocd: $(SOURCES) deno.lock contrib/build.sh dist/.engine | $(COMPILER)
	@echo "Compiling dist/mallocd and dist/mallocd-client" >&2
	@contrib/build.sh $(COMPILER) $(TOOLS) dist
	@touch $@

dist/mallocd-client: dist/mallocd ;

dist/.engine: FORCE
	@mkdir -p dist
	@echo "$(ENGINE)" | cmp -s - $@ || echo "$(ENGINE)" >$@

bench-compare: | $(DENO) ## compare with C, Redis and memcached; writes docs/benchmarks.md
	@$(DENO) run -q -P=bench bench/compare/main.ts

bench-gc: | $(DENO) ## count the garbage collections of ten million requests
	@$(DENO) run -q -P=bench bench/gc.ts

# The manual pages and the completions are made of the tables that --help is made of.
dist/man: $(SOURCES) $(wildcard contrib/*.ts) | $(DENO)
	@mkdir -p dist
	@$(DENO) run -q --allow-write=dist contrib/generate.ts dist
	@touch $@

PREFIX ?= /usr/local
ROOT = $(DESTDIR)$(PREFIX)
INSTALLED := $(addprefix bin/,mallocd mallocd-client) \
	$(addprefix share/man/,man1/mallocd-client.1 man8/mallocd.8) \
	$(addprefix share/bash-completion/completions/,mallocd mallocd-client) \
	$(addprefix share/zsh/site-functions/,_mallocd _mallocd-client) \
	$(addprefix share/fish/vendor_completions.d/,mallocd.fish mallocd-client.fish) \
	lib/systemd/system/mallocd.service

install: build dist/man ## install below PREFIX, /usr/local unless given; a package is made below DESTDIR
	sed 's|/usr/local/|$(PREFIX)/|' contrib/mallocd.service >dist/mallocd.service
	install -d $(sort $(dir $(addprefix $(ROOT)/,$(INSTALLED))))
	install -m 755 dist/mallocd dist/mallocd-client $(ROOT)/bin
	install -m 644 dist/man/*.1 $(ROOT)/share/man/man1
	install -m 644 dist/man/*.8 $(ROOT)/share/man/man8
	install -m 644 dist/completions/bash/* $(ROOT)/share/bash-completion/completions
	install -m 644 dist/completions/zsh/* $(ROOT)/share/zsh/site-functions
	install -m 644 dist/completions/fish/* $(ROOT)/share/fish/vendor_completions.d
	install -m 644 dist/mallocd.service $(ROOT)/lib/systemd/system

uninstall: ## remove what install has put there
	rm -f $(addprefix $(ROOT)/,$(INSTALLED))

dist: dist/man | $(COMPILER) ## pack the executables for every platform that Deno compiles for
	@contrib/dist.sh $(COMPILER) $(TOOLS) dist

clean: ## remove what was built and downloaded
	rm -rf dist $(TOOLS)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 15

# The package's own installer, run by hand: npm may be set not to run it.
$(TOOLS)/deno-%/node_modules/deno/deno:
	@echo "Installing deno@$* from npm into .tools/" >&2
	@npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(TOOLS)/deno-$* deno@$*
	@node -e 'require("$(TOOLS)/deno-$*/node_modules/deno/install_api.cjs").runInstall()'
	@touch $@
