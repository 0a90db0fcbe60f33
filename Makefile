# A script runner: `make help` lists what a person does often.

PINNED := 2.6.8
DENO_VERSION ?= $(PINNED)
TOOLS := $(CURDIR)/.tools
# Deno comes from npm into an ignored folder; `make DENO=deno` takes one that is installed.
DENO ?= $(TOOLS)/deno-$(DENO_VERSION)/node_modules/deno/deno

# The executables are made with the pinned version, whichever runs the tests.
COMPILER := $(if $(filter-out $(PINNED),$(DENO_VERSION)),$(TOOLS)/deno-$(PINNED)/node_modules/deno/deno,$(DENO))
# What is ours to install: nothing, if DENO is the user's.
DENO_FILE = $(filter $(TOOLS)/%,$(DENO))
COMPILER_FILE = $(filter $(TOOLS)/%,$(COMPILER))
SOURCES := deno.json $(wildcard *.ts lib/*/*.ts lib/*/*/*.ts lib/daemon/http/page/*)

# With what engines the daemon is made: auto, all that there are for the platform, or datagram, without FFI.
# What the last build had stays until the next one is told otherwise, so that `make install` changes nothing.
BUILT := $(shell cat dist/.engine 2>/dev/null)
override ENGINE := $(or $(ENGINE),$(BUILT),auto)

export DENO_DIR ?= $(TOOLS)/cache
# npm's certificates may be signed by a proxy that only the system's store knows.
export DENO_TLS_CA_STORE ?= mozilla,system
export DENO_NO_UPDATE_CHECK = 1
export DENO_NO_PROMPT = 1

# `make && make install` is what many type.
.DEFAULT_GOAL := build

.PHONY: run build test test-clients test-page test-cluster soak check bench bench-compare bench-gc install uninstall dist deb image clean help FORCE

# The packages that only benches need: whoever tests or builds does not fetch what is in deno.lock in vain.
BENCH_LOCK := --lock=bench/deno.lock

run: | $(DENO_FILE) ## start the daemon; ARGS="--memory 4GiB" adds options
	@$(DENO) run -q -P=daemon main.ts $(ARGS)

build: dist/mallocd dist/mallocd-client dist/man ## make the executables; ENGINE=datagram for a daemon without FFI, ENGINE=auto undoes it

test: build .tools/empty | $(DENO_FILE) ## run all tests; DENO_VERSION=2.9.6 tries another Deno
	$(DENO) test -q -P
	$(DENO) test -q -P=programs tests/programs/

# What the tests of clients/ want: compilers, what reads and writes a disk, and programs that don't know of
# mallocd. They build what they test.
CLIENTS_WANT := binutils gcc libc6-dev make python3 mount util-linux \
	nbdkit nbdkit-plugin-dev libnbd-bin fuse3 qemu-utils e2fsprogs clang lld wabt \
	sqlite3 xz-utils

test-clients: build | $(DENO_FILE) ## test clients/; as root on Debian it installs what that takes
	@tools/packages.sh $(CLIENTS_WANT)
	@tools/asc.sh $(TOOLS)
	$(DENO) test -q -P=programs tests/clients/

test-page: | $(DENO_FILE) ## look at the page of --http in Chromium; as root on Debian it installs that
	@tools/packages.sh chromium
	$(DENO) run -q $(BENCH_LOCK) -P=bench bench/browser.ts --smoke

test-cluster: build | $(DENO_FILE) ## test daemons in a Redis Cluster of the tests' own; as root on Debian it installs that
	@tools/packages.sh redis-server redis-tools openssl
	$(DENO) test -P=programs tests/cluster/

soak: build | $(DENO_FILE) ## kill daemons over a heap file for some minutes
	$(DENO) test -q -P=programs tests/soak/

check: | $(DENO_FILE) ## check format, lint, types, and what would be published
	$(DENO) fmt --check
	$(DENO) lint
	$(DENO) check main.ts client.ts examples lib tests tools
	$(DENO) check $(BENCH_LOCK) bench
	$(DENO) doc --lint lib/client/remote.ts lib/protocol/mod.ts >/dev/null
	$(DENO) publish -q --dry-run --allow-dirty

bench: build .tools/empty | $(DENO_FILE) ## measure
	@for name in buddy copy huge_pages service roundtrip pipeline pace procedure quic heap_file nbd preload cluster startup; do \
		echo "bench/$$name.ts" && $(DENO) run -q $(BENCH_LOCK) -P=bench bench/$$name.ts || exit 1; done

# Both at once, and anew if ENGINE has changed.
dist/mallocd: $(SOURCES) deno.lock tools/build.sh dist/.engine | $(COMPILER_FILE)
	@echo "Compiling dist/mallocd and dist/mallocd-client, ENGINE=$(ENGINE)" >&2
	@tools/build.sh $(COMPILER) $(TOOLS) dist $(ENGINE)
	@touch $@

dist/mallocd-client: dist/mallocd ;

dist/.engine: $(if $(filter-out $(BUILT),$(ENGINE)),FORCE)
	@case "$(ENGINE)" in auto | datagram) ;; \
	*) echo "ENGINE cannot be $(ENGINE): use ENGINE=auto or ENGINE=datagram" >&2; exit 1 ;; esac
	@mkdir -p dist
	@echo "$(ENGINE)" >$@

# What bench/startup.ts compares the client with: the same without a program.
.tools/empty: tools/denort.sh deno.json | $(COMPILER_FILE)
	@: >$@.js
	@stub=$$(tools/denort.sh $(COMPILER) $(TOOLS)) && env $${stub:+DENORT_BIN="$$stub"} \
		$(COMPILER) compile -q --no-check --no-prompt --no-code-cache -P=client -o $@ $@.js
	@touch $@

bench-compare: | $(DENO_FILE) ## compare with C, Redis and memcached; writes docs/benchmarks.md
	@$(DENO) run -q $(BENCH_LOCK) -P=bench bench/compare/main.ts

bench-gc: | $(DENO_FILE) ## count the garbage collections of ten million requests
	@$(DENO) run -q $(BENCH_LOCK) -P=bench bench/gc.ts

# The manual pages and the completions are made of the tables that --help is made of.
dist/man: $(SOURCES) $(wildcard tools/*.ts) | $(DENO_FILE)
	@mkdir -p dist
	@$(DENO) run -q --allow-write=dist tools/generate.ts dist
	@touch $@

# As they were typed: a $ in them is no variable of make, and blanks divide nothing.
PREFIX ?= /usr/local
override PREFIX := $(value PREFIX)
override DESTDIR := $(value DESTDIR)
export PREFIX DESTDIR

install: build ## install below PREFIX, /usr/local unless given; a package is made below DESTDIR
	@tools/install.sh install dist

uninstall: ## remove what install has put there
	@tools/install.sh uninstall dist

dist: dist/man | $(COMPILER_FILE) ## pack the library for npm, and the executables for every platform that Deno compiles for
	@tools/dist.sh $(COMPILER) $(TOOLS) dist

deb: build ## pack two packages for Debian, dist/*.deb; DEBFULLNAME and DEBEMAIL name the maintainer
	@tools/deb.sh dist

image: build ## make an OCI image of the daemon, the layout dist/image
	@tools/image.sh dist

clean: ## remove what was built and downloaded
	rm -rf dist $(TOOLS) clients/*/build

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 15

# The package's own installer, run by hand: npm may be set not to run it.
$(TOOLS)/deno-%/node_modules/deno/deno:
	@echo "Installing deno@$* from npm into .tools/" >&2
	@npm install --loglevel=error --no-audit --no-fund --ignore-scripts --fetch-retries=1 \
		--prefix $(TOOLS)/deno-$* deno@$* >/dev/null || \
		{ echo "Cannot install Deno from npm. Try: make DENO=deno, with a Deno that you have" >&2; exit 1; }
	@node -e 'require("$(TOOLS)/deno-$*/node_modules/deno/install_api.cjs").runInstall()'
	@touch $@
