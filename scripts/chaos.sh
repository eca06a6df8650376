#!/usr/bin/env bash
# Kills services, brokers and the database in mid-work, ROUNDS times with new moments each (MOMENTS
# for the producer over files); SEED repeats a round, FAULTS is how often those behind HTTP are
# killed in one; then a week of another's topic, WEEK_ROWS records, and a year of drawn queries. Ends
# at the first round that loses or doubles anything, and prints its seed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/stack-for-tests.sh

trap stack_down EXIT
target/release/caudal stack up
eval "$(target/release/caudal stack env)"
for round in $(seq 1 "${ROUNDS:-3}"); do
  for test in kills second_instances zombie_sink brokers http_faults; do
    echo "== round $round: $test"
    CAUDAL_SEED=${SEED:-$RANDOM} CAUDAL_FAULTS=${FAULTS:-4} cargo test --release --locked --workspace --quiet --test "$test" -- --nocapture
  done
  echo "== round $round: interrupted"
  CAUDAL_SEED=${SEED:-$RANDOM} CAUDAL_MOMENTS=${MOMENTS:-20} CAUDAL_TEST_BOOTSTRAP=$BOOTSTRAP_SERVERS \
    cargo test --release --locked --workspace --quiet --test interrupted -- --test-threads=1 --nocapture
done
echo "== a week in a minute, ${WEEK_ROWS:-5000000} records"
CAUDAL_WEEK_ROWS=${WEEK_ROWS:-5000000} cargo test --release --locked --workspace --quiet --test week -- --nocapture
echo "== a year of six statements that a seed draws"
DRAWN=6 cargo test --release --locked --workspace --quiet --test year -- --test-threads=1 --nocapture
echo "chaos: ${ROUNDS:-3} rounds, nothing lost, nothing doubled"
