#!/usr/bin/env bash
# Benchmarks on a stack of its own. Arguments: commit, drain, latency or all (these three); or
# processor, and of it the parts drain, queries, restart, rate, latency (RECORDS=2000000 RUNS=5);
# producer, and of it send, http (RECORDS=1000000 RUNS=5 HTTP_SECONDS=10); or sink (ROWS=100000
# RUNS=5).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/stack-for-tests.sh

scripts/build.sh
trap stack_down EXIT
if [[ ${1:-} == sink ]]; then
  # Without brokers, which would take a part of the machine.
  target/release/caudal stack start postgres
else
  target/release/caudal stack up
fi
target/release/caudal-bench "${@:-all}"
