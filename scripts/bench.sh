#!/usr/bin/env bash
# Benchmarks on a stack of its own. Arguments: commit, drain, latency or all (these three); or
# processor, and of it the parts drain, restart, rate, latency (RECORDS=2000000 RUNS=5); or producer,
# and of it send, http (RECORDS=1000000 RUNS=5 HTTP_SECONDS=10).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/stack-for-tests.sh

scripts/build.sh
trap stack_down EXIT
target/release/caudal stack up
target/release/caudal-bench "${@:-all}"
