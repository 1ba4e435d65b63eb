# Entry points, thin: each target is the commands one would type. Rust 1.95 and Node 20.19 (or 22.12) are taken for
# granted; whatever else a target needs is installed when make runs as root on Debian, and named in a sentence otherwise.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

DATA ?= data
SEEDS ?= 10000
CYCLES ?= 20
CASES ?= 20000
BENCH_SECONDS ?= 10
AUTOBAHN ?=
CONNECTIONS ?= 20000
TRANSPORT ?= binary
# `make upgrade` has both kinds of connections unless told otherwise.
UPGRADE_TRANSPORT = $(if $(filter command line environment,$(origin TRANSPORT)),$(TRANSPORT),mixed)
TICKETS ?= hs256
JSON ?=
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?=
# What `make test` fuzzes: what a stranger can send, and what a disk can do.
FUZZ_SLICE := frame message json websocket upgrade proxy ticket shard record carry log
JOBS ?= $(shell nproc)

# --locked: a lock file that does not match is an error, not a silent upgrade.
CARGO ?= cargo
LOCKED ?= --locked
TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release

WEB := tools/web
WEB_MODULES := $(WEB)/node_modules/.package-lock.json
WEB_DIST := $(WEB)/dist/index.html
WEB_SOURCES := $(shell find $(WEB)/src $(WEB)/public -type f 2>/dev/null) \
	$(wildcard $(WEB)/*.html $(WEB)/*.ts $(WEB)/*.js $(WEB)/package.json)

# $(call need,COMMAND,DEBIAN PACKAGE): the command, installed if possible, or one sentence that says what is missing.
need = command -v $(1) >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2); } \
	|| { echo "$(1) is missing: install it (Debian and Ubuntu: apt-get install $(2))." >&2; exit 1; }
# Toolchains are not in a distribution's packages in the version needed.
need_toolchain = command -v $(1) >/dev/null || { echo "$(1) is missing: $(2)" >&2; exit 1; }

.PHONY: help run test check fmt clippy tidy web web-test browser-test build bench autobahn hold storm stalled slowloris limit upgrade crash sim long \
	torture-log loom fuzz miri deny package clean tools log-writes glommio

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

tools:
	@$(call need_toolchain,cargo,install Rust 1.95 (https://rustup.rs).)
	@$(call need_toolchain,npm,install Node 20.19 or 22.12 and later (https://nodejs.org).)
	@$(call need,cc,gcc libc6-dev)

run: build ## build everything and serve on this machine; prints two links (DATA=data)
	exec $(RELEASE)/ringdeskd --data $(DATA)

# Cheap and telling first. One cargo invocation runs all Rust tests, so that each runner's closing line is printed.
test: tools check web web-test ## everything a change has to pass
	$(CARGO) test $(LOCKED) --workspace
	$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=60 JOBS=2 FUZZ_TARGETS="$(FUZZ_SLICE)"
	$(MAKE) --no-print-directory browser-test
	$(MAKE) --no-print-directory hold
	$(MAKE) --no-print-directory hold TRANSPORT=websocket

check: fmt tidy clippy ## format, tree checks, lints: no tests

fmt:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check

clippy:
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --manifest-path fuzz/Cargo.toml --target-dir $(TARGET)/fuzz-check --all-targets -- -D warnings

tidy: ## dependencies between crates, names, lengths, unfinished places, documents
	$(CARGO) run --quiet $(LOCKED) -p ringdesk-tidy

build: tools web
	$(CARGO) build $(LOCKED) --release -p ringdesk-server -p ringdesk-cli

web: $(WEB_DIST) ## build the pages when their sources are newer

$(WEB_MODULES): $(WEB)/package.json $(WEB)/package-lock.json
	cd $(WEB) && npm ci --no-progress
	touch $@

$(WEB_DIST): $(WEB_MODULES) $(WEB_SOURCES)
	cd $(WEB) && npm run build
	touch $@

web-test: $(WEB_MODULES)
	cd $(WEB) && npm test

browser-test: build ## a conversation in Chromium against the release server, with kill -9 in the middle
	@$(call need,chromium,chromium)
	cd $(WEB) && RINGDESKD="$(abspath $(RELEASE))/ringdeskd" CHROMIUM="$$(command -v chromium)" npm run test:browser

bench: build ## measure this machine: 1,000 visitors, 50 agents (writes target/bench.json)
	$(CARGO) build $(LOCKED) --release -p ringdesk-bench
	rm -rf $(TARGET)/bench-data $(TARGET)/bench.stdout $(TARGET)/bench.stderr
	$(RELEASE)/ringdeskd --data $(TARGET)/bench-data >$(TARGET)/bench.stdout 2>$(TARGET)/bench.stderr & server=$$!; \
	trap 'kill $$server 2>/dev/null; wait $$server || true' EXIT; \
	for _ in {1..100}; do \
		grep -q '^ready' $(TARGET)/bench.stdout && break; \
		kill -0 $$server 2>/dev/null || { cat $(TARGET)/bench.stderr >&2; exit 1; }; sleep 0.1; \
	done; \
	$(RELEASE)/ringbench run chat --visitors 1000 --agents 50 --seconds $(BENCH_SECONDS) --json $(TARGET)/bench.json

hold: build ## CONNECTIONS=20000 idle connections: connect rate, a message each, memory of one (JSON=FILE, TRANSPORT=, TICKETS=)
	$(CARGO) build $(LOCKED) --release -p ringdesk-bench
	$(RELEASE)/ringbench hold --server $(RELEASE)/ringdeskd --connections $(CONNECTIONS) --transport $(TRANSPORT) --tickets $(TICKETS) \
		$(if $(JSON),--json $(JSON))

storm: build ## CONNECTIONS=20000 clients dropped at once reconnect and resume (JSON=FILE, TRANSPORT=)
	$(CARGO) build $(LOCKED) --release -p ringdesk-bench
	$(RELEASE)/ringbench storm --server $(RELEASE)/ringdeskd --connections $(CONNECTIONS) --transport $(TRANSPORT) \
		$(if $(JSON),--json $(JSON))

stalled: build ## clients that never read: the server's memory against their caps, and what others notice (JSON=FILE)
	$(CARGO) build $(LOCKED) --release -p ringdesk-bench
	$(RELEASE)/ringbench stalled --server $(RELEASE)/ringdeskd $(if $(JSON),--json $(JSON))

slowloris: build ## 10,000 connections at one byte in ten seconds: what others notice (JSON=FILE)
	$(CARGO) build $(LOCKED) --release -p ringdesk-bench
	$(RELEASE)/ringbench slowloris --server $(RELEASE)/ringdeskd $(if $(JSON),--json $(JSON))

limit: build ## the engine as a share of a raw relay in the same run (JSON=FILE)
	$(CARGO) build $(LOCKED) --release -p ringdesk-bench
	$(RELEASE)/ringbench limit --server $(RELEASE)/ringdeskd $(if $(JSON),--json $(JSON))

upgrade: build ## a new process takes over from the running one under load, CONNECTIONS=20000 (JSON=FILE, TRANSPORT=mixed)
	$(CARGO) build $(LOCKED) --release -p ringdesk-bench
	$(RELEASE)/ringbench upgrade --server $(RELEASE)/ringdeskd --connections $(CONNECTIONS) --transport $(UPGRADE_TRANSPORT) \
		$(if $(JSON),--json $(JSON))

# The suite's cases as patterns, by default the 301 core ones; AUTOBAHN='*' adds the 216 of permessage-deflate.
autobahn: tools ## Autobahn|Testsuite against the WebSocket echo (AUTOBAHN='*'; writes docs/AUTOBAHN.md)
	@$(call need,python3,python3)
	$(CARGO) build $(LOCKED) --release -p ringdesk-uring --example websocket_echo
	tools/autobahn/run.py $(RELEASE)/examples/websocket_echo $(TARGET)/autobahn docs/AUTOBAHN.md \
		$(foreach case,$(AUTOBAHN),'$(case)')

crash: build ## kill -9 under load, CYCLES=20 times, against a ledger kept outside the server
	$(CARGO) build $(LOCKED) --release -p ringdesk-bench
	rm -rf $(TARGET)/crash-data
	$(RELEASE)/ringbench crash --server $(RELEASE)/ringdeskd --data $(TARGET)/crash-data --cycles $(CYCLES)

sim: tools ## SEEDS=10000 simulated runs under faults
	$(CARGO) run $(LOCKED) --release -p ringdesk-sim -- --seeds $(SEEDS) --jobs $(JOBS)

long: tools ## the property tests of log and desk with many cases (CASES=20000) and long cuts
	PERSIST_LONG=1 PERSIST_CASES=$(CASES) $(CARGO) test $(LOCKED) --release -p ringdesk-persist
	RINGDESK_DESK_CASES=$(CASES) $(CARGO) test $(LOCKED) --release -p ringdesk-desk

# Two scans of each case, on all cores.
torture-log: tools ## every truncation, flipped bit, swapped and misdirected sector of a 64 KiB log: nothing wrong is read
	PERSIST_LONG=1 $(CARGO) test $(LOCKED) --release -p ringdesk-persist --test torture

loom: tools ## every interleaving of lanes, sleep and wake, in a build of its own
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(TARGET)/loom $(CARGO) test $(LOCKED) --release -p ringdesk-ring --test loom

fuzz: tools ## every decoder under libFuzzer, FUZZ_SECONDS=600 each (FUZZ_TARGETS="json log" for some, JOBS at a time)
	@$(call need,c++,g++)
	FUZZ_SECONDS=$(FUZZ_SECONDS) JOBS=$(JOBS) fuzz/run $(FUZZ_TARGETS)

.PHONY: asan tsan

# $(call sanitize,NAME,FOLDER): ring and uring with a sanitizer in them, in a build of its own. The standard library is
# built with it too, else ThreadSanitizer takes what that library orders for races. Stable Rust: RUSTC_BOOTSTRAP lets it
# take the flags. --target keeps them away from build scripts and procedural macros.
sanitize = test -d "$$(rustc --print sysroot)/lib/rustlib/src/rust/library" \
	|| { echo "The source of the standard library is missing: rustup component add rust-src." >&2; exit 1; }; \
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$(1)" CARGO_TARGET_DIR=$(TARGET)/$(2) $(CARGO) test $(LOCKED) \
		-Zbuild-std --target $(HOST) -p ringdesk-ring -p ringdesk-uring --tests

asan: tools ## ring and uring under AddressSanitizer: memory errors, leaks (rust-src)
	@$(call sanitize,address,asan)

# Fences are beyond ThreadSanitizer: sleep and wake is for loom and Miri.
tsan: tools ## ring and uring under ThreadSanitizer: data races (rust-src)
	@$(call sanitize,thread,tsan)

# $(call need_nightly,COMPONENT,WHAT): a component of nightly Rust, or one sentence that says what is missing.
need_nightly = rustup +nightly component list --installed 2>/dev/null | grep -q '^$(1)' \
	|| { echo "$(2) is missing: rustup toolchain install nightly --component $(1)." >&2; exit 1; }
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

# Without the feature sys, which calls the kernel: the table and its buffers are pure.
miri: tools ## lanes and operation table under Miri: undefined behaviour, leaks, weak memory (nightly Rust)
	@$(call need_nightly,miri,Miri)
	@$(call need_nightly,rust-src,The source of the standard library)
	MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=$(TARGET)/miri cargo +nightly miri test $(LOCKED) \
		-p ringdesk-uring --no-default-features --lib -- table:: buffers::
	MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=$(TARGET)/miri cargo +nightly miri test $(LOCKED) \
		-p ringdesk-ring --test lane

# In a folder of its own, so that what is shipped is never built with it.
glommio: tools web ## the comparison driver: the suites over it, and a server that takes backend = "glommio"
	$(CARGO) test $(LOCKED) --target-dir $(TARGET)/glommio -p ringdesk-portable --features glommio --test glommio
	$(CARGO) test $(LOCKED) --target-dir $(TARGET)/glommio -p ringdesk-server --features glommio --test boot
	$(CARGO) build $(LOCKED) --target-dir $(TARGET)/glommio --release -p ringdesk-server --features glommio
	@echo "the server is $(TARGET)/glommio/release/ringdeskd"

log-writes: tools ## the log's writes out of registered memory against ordinary ones, in one run (DATA=data)
	$(CARGO) run $(LOCKED) --release -p ringdesk-uring --example log_writes -- $(DATA)/log-writes
	rm -rf $(DATA)/log-writes

deny: tools ## licences, sources and advisories of the dependencies
	@$(call need_toolchain,cargo-deny,cargo install --locked cargo-deny.)
	$(CARGO) deny check

package: build ## a .deb with the systemd unit, in target/
	@$(call need,dpkg-deb,dpkg)
	@$(call need,systemd-analyze,systemd)
	tools/packaging/build-deb $(RELEASE) $(TARGET)

clean: ## remove what was built; data folders stay
	$(CARGO) clean
	rm -rf $(WEB)/dist $(WEB)/.unit $(WEB)/node_modules
