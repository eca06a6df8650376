#!/usr/bin/env bash
# check, then every test on a real stack of its own, beside a user's: other ports, other folder.
# Prints seconds per suite, skipped tests last, and ends with one line of counts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/stack-for-tests.sh

suites=() skipped=() passed=0 failed=0
logs=target/test-logs
mkdir -p "$logs"

suite() { # name command...
  local name=$1 begun=$SECONDS log verdict=passed
  log=$logs/${1// /-}.log
  shift
  echo "== $name"
  if "$@" 2>&1 | tee "$log"; then
    passed=$((passed + 1))
  else
    verdict=FAILED
    failed=$((failed + 1))
  fi
  suites+=("$(printf '%5d s  %-7s %s' $((SECONDS - begun)) "$verdict" "$name")")
  while IFS= read -r line; do skipped+=("$name: $line"); done < <(grep -ho 'skipped: .*' "$log" | sort -u)
}

finish() {
  [[ ! -x target/release/caudal ]] || stack_down
  echo
  echo "seconds per suite (logs in $logs):"
  printf '  %s\n' "${suites[@]}"
  if ((${#skipped[@]})); then printf '  %s\n' "${skipped[@]}"; fi
  echo "$passed passed, $failed failed, ${#skipped[@]} skipped"
  ((failed == 0))
}

suite "build" cargo build --release --locked --workspace --all-targets --quiet
if ((failed)); then finish; exit; fi
suite "check" scripts/check.sh
if ((failed)); then finish; exit; fi

# First: in CI it installs Prometheus, which the stack then runs too.
suite "alert rules" scripts/promtool-test.sh
suite "stack up" target/release/caudal stack up
if ((failed)); then finish; exit; fi
grep -hoE 'PostgreSQL\) [0-9.]+' "$logs/stack-up.log" | head -1 | sed 's/^PostgreSQL) /PostgreSQL version /' || true
grep -hoE 'Kafka version: [0-9.]+' "$CAUDAL_TEST_HOME"/logs/broker-1* | head -1 || true
eval "$(target/release/caudal stack env)"
export CAUDAL_TEST_DATABASE_URL=$DATABASE_URL CAUDAL_TEST_BOOTSTRAP=$BOOTSTRAP_SERVERS

run() { cargo test --release --locked --workspace --quiet --test "$1" -- --test-threads=1 --nocapture; }

# A second instance and brokers that die have suites of their own in `make chaos`; rolling_restart
# and http_faults are their samples here.
for test in txn state_log groups rolling_restart migrate queries_change user_queries streams topics_change year course week database any_topic query_rows redrive faults_of_rows faults_that_pass faults_that_stop doubtful_commit \
  cluster interrupted own_file http http_faults dead_letters verify retention kills retail services dashboard docker runbook; do
  suite "${test//_/ }" run "$test"
done
finish
