#!/usr/bin/env bash
# First figures on a stack of its own. Arguments: commit, drain, latency or all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/stack-for-tests.sh

scripts/build.sh
trap stack_down EXIT
target/release/caudal stack up
target/release/caudal-bench "${1:-all}"
