#!/usr/bin/env bash
# Deterministic simulation of the processor's engine, no broker needed (docs/simulation.md).
# SEEDS=10000 plays that many schedules, shared by the cores; SEED=n replays one and says what
# happens. FROM=n begins at another seed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build() {
  cargo test --release --locked --workspace --lib --no-run --message-format=json --quiet |
    grep '"name":"caudal_processor"' | grep -o '"executable":"[^"]*"' | cut -d'"' -f4 | tail -1
}

test=simulation::every_schedule_equals_the_reference
binary=$(build)
if [[ -n ${SEED:-} ]]; then
  SIM_SEED=$SEED "$binary" --exact "$test" --nocapture
  exit
fi

seeds=${SEEDS:-10000} from=${FROM:-0} workers=$(nproc)
share=$(((seeds + workers - 1) / workers))
logs=target/sim
mkdir -p "$logs"
pids=()
for ((worker = 0; worker < workers; worker++)); do
  SIM_FROM=$((from + worker * share)) SIM_SEEDS=$share \
    "$binary" --exact "$test" --nocapture >"$logs/$worker.log" 2>&1 &
  pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
grep -hE '^(seed|  replay|  expected|  found|simulation)' "$logs"/*.log || true
((failed == 0)) || { echo "sim: FAILED (logs in $logs)" >&2; exit 1; }
echo "sim: $((share * workers)) schedules, no difference from the reference"
