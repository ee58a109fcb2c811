# Every target installs by apt what it needs and the machine lacks (as root; otherwise it names it).
#
#   make demo    a switch, two containers and a host port, shown at work
#   make test    every check and test
#   make bench   side by side with the Linux bridge, docker0, Open vSwitch, OVS-DPDK and others

SHELL := /bin/bash
CARGO ?= $(shell command -v cargo || echo $(HOME)/.cargo/bin/cargo)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
export TRUNKLINE_BIN := $(TARGET_DIR)/debug/trunkline

# Every crate whose tests need no namespaces.
UNIT := --workspace --exclude trunkline-tests
# Test threads of the end-to-end tests: they wait more than they compute, but share the machine.
E2E_THREADS ?= 2
# A pattern to run some of the end-to-end tests: make test-e2e E2E=vlan
E2E ?=

.PHONY: help demo test bench clean build release deps-test deps-demo deps-bench \
	test-fmt test-layers test-clippy test-unit test-doc test-instructions test-e2e

help:
	@sed -n 's/^#   //p' Makefile

demo: deps-demo release
	@scripts/demo $(TARGET_DIR)/release/trunkline

# In this order: the cheap checks first. The end-to-end tests come last, and so do their closing lines.
test: deps-test test-fmt test-layers test-clippy test-unit test-doc test-instructions test-e2e

deps-demo:
	@scripts/install-deps demo

deps-test:
	@scripts/install-deps test

deps-bench:
	@scripts/install-deps bench

build:
	$(CARGO) build --locked -p trunkline

release:
	$(CARGO) build --locked --release -p trunkline

test-fmt:
	$(CARGO) fmt --all --check

test-layers:
	@PATH="$(dir $(CARGO)):$$PATH" python3 scripts/check-layers

test-clippy:
	$(CARGO) clippy --locked --workspace --all-targets --quiet -- -D warnings

# Unit tests, property tests with their reference models, and the fuzz targets over their corpora.
test-unit:
	$(CARGO) test --locked --quiet --no-fail-fast $(UNIT)

test-doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

# Instructions per packet on the engine's paths: exact on a noisy machine, held against committed limits.
test-instructions:
	$(CARGO) build --locked --release -p trunkline-bench --bin path
	bench/instructions/check --binary $(TARGET_DIR)/release/path

# Cargo builds here, outside; only the test programs run in a sandbox, each in its own.
test-e2e: build
	$(CARGO) test --locked -p trunkline-tests --test '*' --no-fail-fast \
		--config "target.'cfg(target_os=\"linux\")'.runner='$(CURDIR)/scripts/sandbox'" \
		-- --test-threads=$(E2E_THREADS) $(E2E)

# Side by side, interleaved, in namespaces of its own, with all that is found. BENCH="engine containers --quick" to
# choose; docs/benchmarks.md.
BENCH ?=
bench: deps-bench
	$(CARGO) build --locked --release -p trunkline -p trunkline-bench --bins
	@bench/run --binary $(TARGET_DIR)/release/trunkline $(BENCH)

clean:
	$(CARGO) clean
