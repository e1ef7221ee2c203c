# What a person or CI does with this tree. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Further arguments of `mhc up`, as in: make run ARGS='--http 127.0.0.1:9000'
ARGS ?=
# The scenario that `make bench` or `make testnet` is to run, as in: make bench ONLY=a RUNS=9, make testnet ONLY=lan
ONLY ?= all
RUNS ?= 5
# The store engines that are only built for comparison are tested with the rest.
FEATURES := mhc-storage/engine-fjall,mhc-storage/engine-sled

.PHONY: help run build test unit lint fmt deny fuzz fuzz-smoke soak testnet bench bench-memory setup-test setup-bench clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

run: build ## Build the release and start a node
	@exec target/release/mhc up $(ARGS)

build: ## Build the release
	@scripts/check-toolchain.sh
	$(CARGO) build --release --locked -p mhc-cli

test: setup-test ## Install what the tests need and run all of them
	@$(MAKE) --no-print-directory unit fuzz-smoke

unit: ## Run the tests without installing anything
	$(CARGO) test --workspace --locked --no-fail-fast --features $(FEATURES)

lint: ## Formatting, clippy, licences and sources of dependencies
	@scripts/check-toolchain.sh
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --locked --features $(FEATURES) -- -D warnings
	@scripts/deny.sh

fmt: ## Format everything
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

fuzz: ## Run each fuzz target for a minute (FUZZ_S seconds)
	@scripts/fuzz.sh "$${FUZZ_S:-60}"

fuzz-smoke: ## Run each fuzz target for some seconds
	@scripts/fuzz.sh "$${FUZZ_S:-10}"

soak: setup-test ## 1,000 simulated networks, kill -9 at 100 random moments; MHC_SEED=N repeats a run
	MHC_SEEDS=1000 $(CARGO) test --release --locked -p mhc-testnet --test sim -- --nocapture
	MHC_SOAK=1 $(CARGO) test --locked -p mhc-cli --test e2e -- --test-threads=1 kill9

testnet: setup-test ## Real nodes over long wires, NATs and Yggdrasil, in network namespaces; needs root; ONLY=lan runs one
	$(CARGO) build --locked -p mhc-cli -p mhc-testnet
	@target/debug/mhc-testnet run $(ONLY)

bench: build setup-bench ## Measure beside sendme, rqbit, nginx and others; writes docs/performance.md
	$(CARGO) build --release --locked -p mhc-bench
	@target/release/mhc-bench $(ONLY) --runs $(RUNS) --write

bench-memory: build ## Measure memory; prints the table of docs/performance.md
	@scripts/measure-memory.sh

setup-test: ## Install what the tests need
	@scripts/setup-test.sh

setup-bench: ## Install what is measured beside us
	@scripts/setup-bench.sh

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf fuzz/target testnet/browser/node_modules
