# `make` lists the targets: each line that begins with "name: ## text" is one, and "##@ text" begins a group.

CARGO ?= cargo
# Set by `make CARGO_FLAGS=--offline ...`; the lock file is always followed.
CARGO_FLAGS ?=
LOCKED := --locked $(CARGO_FLAGS)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help build run clean test lint fix doc deny interleavings sim audit resize changes mend gossip crash powercut flip memory bench picture scale sweep bench-storage profile

##@ Start

help: ## list the targets
	@echo "dynakv: make TARGET"
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-13s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## build everything, optimised
	$(CARGO) build --workspace --release $(LOCKED)

run: ## start a cluster of three nodes on this machine; Ctrl-C ends it
	$(CARGO) build --workspace --release --bin dynakv $(LOCKED)
	$(TARGET_DIR)/release/dynakv dev

clean: ## remove what was built (data directories stay)
	$(CARGO) clean

##@ Before a change lands

# Tests note there what they leave out.
SKIPPED_FILE := $(abspath $(TARGET_DIR))/skipped

# Tests of clusters wait more than they work.
TEST_THREADS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

# Building and running are two commands, so that a wait for the compiler is not taken for a slow test.
test: ## run all tests (those marked "ignore" name a target of their own)
	@echo "==> building the tests"
	$(CARGO) test --workspace $(LOCKED) --no-run
	@echo "==> running the tests"
	@rm -f $(SKIPPED_FILE) && touch $(SKIPPED_FILE)
	SKIPPED_FILE=$(SKIPPED_FILE) RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --workspace $(LOCKED)
	@echo "==> skipped for want of something on this machine: $$(wc -l < $(SKIPPED_FILE))"
	@sed 's/^/    /' $(SKIPPED_FILE)

lint: ## check the formatting and the lints, as CI does
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets $(LOCKED) -- -D warnings

fix: ## format, and mend what the linter can mend
	$(CARGO) clippy --workspace --all-targets $(LOCKED) --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

# With what is private: the tables of rooms lead there.
doc: ## build the documentation of the crates, private parts too; warnings are errors
	RUSTDOCFLAGS="--cfg dynakv_internals -D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --workspace --no-deps --document-private-items $(LOCKED)

deny: ## check licences, sources and advisories of the dependencies (needs cargo-deny)
	$(CARGO) deny check

##@ Look for faults, longer

SEEDS ?= 200
FROM ?= 1
TEST ?=

sim: ## simulate whole clusters: SEEDS=200 seeds (FROM=1 on), or replay SEED=17; TEST=name: only tests of that name
	$(CARGO) test --profile sim $(LOCKED) --test sim --no-run
	$(if $(SEED),DYNAKV_SIM_SEED=$(SEED),DYNAKV_SIM_FROM=$(FROM) DYNAKV_SIM_SEEDS=$(SEEDS)) $(CARGO) test --profile sim $(LOCKED) --test sim $(TEST) -- --nocapture $(if $(SEED),--test-threads=1)

# In a folder of its own: these are other crates of the same names.
interleavings: ## run the threads of the store's table in very many orders
	RUSTFLAGS="--cfg dynakv_interleavings" CARGO_TARGET_DIR=$(TARGET_DIR)/interleavings $(CARGO) test -p dynakv-storage --lib $(LOCKED) table::interleavings

DURATION ?= 40s

audit: ## kill nodes of a real cluster for DURATION=40s and prove that no acknowledged write is lost
	$(CARGO) build --workspace --release --bin dynakv --bin dynakv-bench $(LOCKED)
	$(TARGET_DIR)/release/dynakv-bench audit --nodes 3 --kill-every 3s --duration $(DURATION)

resize: ## grow a cluster of three to six nodes and shrink it to four under an audit; prints what moved and how long requests took
	$(CARGO) build --workspace --release --bin dynakv --bin dynakv-bench $(LOCKED)
	$(TARGET_DIR)/release/dynakv-bench audit --nodes 3 --resize 6,4 --keys 200000 --clients 32 --duration $(DURATION)

changes: ## all tests of a changing ring on real processes, also the long ones that "make test" leaves out (minutes)
	$(CARGO) test $(LOCKED) -p dynakv --test cluster --no-run
	$(CARGO) test $(LOCKED) -p dynakv --test cluster -- --include-ignored growth:: leaving:: changing::

mend: ## kill one of five nodes every 3 s for two minutes, and again with sloppy writes: do all copies become the same without a read?
	$(CARGO) build --workspace --release --bin dynakv $(LOCKED)
	$(CARGO) test --workspace --release --test mend $(LOCKED) -- --ignored --nocapture --test-threads 1

gossip: ## gossip of 100 members for a simulated day of losses (tens of minutes)
	$(CARGO) test --release $(LOCKED) -p dynakv --lib --no-run
	$(CARGO) test --release $(LOCKED) -p dynakv --lib engine::membership::simulation -- --ignored --nocapture

ROUNDS ?= 100

crash: ## kill a writing store again and again and look for losses: ROUNDS=100 rounds
	$(CARGO) test $(LOCKED) -p dynakv-storage --test kill --test opening --no-run
	DYNAKV_CRASH_ROUNDS=$(ROUNDS) $(CARGO) test $(LOCKED) -p dynakv-storage --test kill --test opening -- --nocapture

CUTS ?= 60

powercut: ## cut the power of a writing store's disk again and again: CUTS=60 cuts (needs root)
	$(CARGO) test $(LOCKED) -p dynakv-storage --test powercut --no-run
	DYNAKV_POWERCUTS=$(CUTS) $(CARGO) test $(LOCKED) -p dynakv-storage --test powercut -- --nocapture

flip: ## flip each byte of a small store in turn and look for wrong answers
	$(CARGO) test $(LOCKED) -p dynakv-storage --test flip --no-run
	DYNAKV_FLIPS=all $(CARGO) test $(LOCKED) -p dynakv-storage --test flip -- --nocapture

memory: ## overwrite a store millions of times, and look at its memory and disk (minutes, some GB of disk)
	$(CARGO) test $(LOCKED) --release -p dynakv-storage --test memory -- --ignored --nocapture

##@ Measure

BENCH ?= --workload write --keys 100000 --duration 10s

bench: ## measure a short run on a cluster of its own; other options with BENCH="--workload a"
	$(CARGO) build --workspace --release --bin dynakv --bin dynakv-bench $(LOCKED)
	$(TARGET_DIR)/release/dynakv-bench local $(BENCH)

picture: ## draw docs/one-node-killed.svg anew, from a run in which a node is killed under load
	$(CARGO) build --workspace --release --bin dynakv --bin dynakv-bench $(LOCKED)
	$(TARGET_DIR)/release/dynakv-bench local --workload a --rate 20000 --keys 20000 --duration 30s \
		--kill-at 10s --restart-after 10s --svg docs/one-node-killed.svg

SCALE ?= --picture docs/more-nodes.svg

scale: ## measure clusters of 3, 6, 10 and 20 nodes (3 minutes), and draw docs/more-nodes.svg; others with SCALE="--nodes 2,4"
	$(CARGO) build --workspace --release --bin dynakv --bin dynakv-bench $(LOCKED)
	$(TARGET_DIR)/release/dynakv-bench scale $(SCALE)

SWEEP ?= --keys 100000 --picture $(TARGET_DIR)/sweep.svg

sweep: ## find how much a cluster does before its latencies rise (a minute), and draw it; otherwise with SWEEP="--workload read --p99-below 10ms"
	$(CARGO) build --workspace --release --bin dynakv --bin dynakv-bench $(LOCKED)
	$(TARGET_DIR)/release/dynakv-bench sweep $(SWEEP)

# With the features of the whole workspace, so that what `make build` has built is used again.
bench-storage: ## measure the store alone: processor time per operation, beside sled (minutes)
	$(CARGO) bench --workspace --bench store $(LOCKED)

PROFILE ?= --workload write --keys 100000 --duration 10s

profile: ## record with perf what a node does under load; other load with PROFILE="--workload read"
	@command -v perf >/dev/null || { echo "skipped: perf is not installed (Debian: apt-get install linux-perf)"; exit 0; }; \
	$(CARGO) build --workspace --release --bin dynakv --bin dynakv-bench $(LOCKED) && \
	bench/profile $(TARGET_DIR)/release $(TARGET_DIR)/profile $(PROFILE)
