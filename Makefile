# The only door: people and CI call the same targets. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
DATA ?=
CARGO := cargo
# Cargo may not download a toolchain where the installed one will do.
export RUSTUP_AUTO_INSTALL ?= 0

.PHONY: help doctor install jars build demo test check sim chaos fuzz bench bench-commit bench-producer bench-processor bench-sink down wipe clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

doctor: ## Check this machine before anything is downloaded: tools, memory, disk, ports
	@scripts/doctor.sh

# As root in CI missing system packages are installed; elsewhere they are only named.
install:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ]; then scripts/doctor.sh --install; else scripts/doctor.sh; fi

jars: ## Fetch Kafka, PostgreSQL and the JMX exporter with Maven into .caudal/jars, once
	@scripts/fetch-jars.sh

build: ## Build the five binaries into target/release
	@scripts/build.sh

demo: install jars build ## Everything, from nothing to a balanced ledger (DATA=path sends your files)
	@target/release/caudal demo $(if $(DATA),--data $(DATA))

check: ## Format, clippy with warnings as errors, unit tests, dependency rules, licences
	@scripts/check.sh

test: install jars ## check, then every test on a real stack of its own; prints seconds per suite
	@scripts/test.sh

chaos: install jars build ## Kill services, brokers and the database again and again (ROUNDS=3 SEED=…)
	@scripts/chaos.sh

fuzz: ## Damaged files of every shape through their mappings (CASES=20000)
	@CAUDAL_CASES=$${CASES:-20000} $(CARGO) test --release --locked --workspace --test mutations -- --nocapture

sim: ## Deterministic simulation of the engine, no broker (SEEDS=10000; SEED=n replays one)
	@scripts/sim.sh

bench: bench-commit bench-producer bench-processor bench-sink ## All benchmarks

bench-commit: install jars build ## Latency of a Kafka commit with 1,000 records, and first end-to-end figures
	@scripts/bench.sh

bench-producer: install jars build ## The producer against kafka-producer-perf-test (RECORDS=1000000 RUNS=5 PART="send http")
	@scripts/bench.sh producer $(PART)

bench-processor: install jars build ## The processor against a bare loop (RECORDS=2000000 RUNS=5 PART="drain queries restart rate latency")
	@scripts/bench.sh processor $(PART)

bench-sink: install jars build ## The sink against raw server-side COPY BINARY (ROWS=100000 RUNS=5)
	@scripts/bench.sh sink

down: ## Stop the services, the brokers and PostgreSQL; data stays
	@if [ -x target/release/caudal ]; then target/release/caudal services down && target/release/caudal stack down; else echo "nothing was built here, so nothing of it runs"; fi

wipe: ## Stop everything and remove the stack's data; jars and builds stay, and it says how large they are
	@if [ -x target/release/caudal ]; then target/release/caudal services down && target/release/caudal stack down --wipe; fi
	@du -sh .caudal/jars target 2>/dev/null | sed 's/^/stays: /' || true

clean: wipe ## wipe, and remove builds and jars; the caches of cargo and Maven stay
	@rm -rf target .caudal
	@echo "removed: target, .caudal"
	@du -sh "$${CARGO_HOME:-$$HOME/.cargo}/registry" "$$HOME/.m2/repository" 2>/dev/null | sed 's/^/stays (shared caches): /' || true
