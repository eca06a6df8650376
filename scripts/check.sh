#!/usr/bin/env bash
# What must pass before every commit: format, clippy, unit tests, dependency rules, licences.
# One profile, release, and the whole workspace each time: OpenSSL and librdkafka are then compiled
# once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
  local name=$1 begun=$SECONDS
  shift
  "$@" || { echo "check: $name FAILED" >&2; exit 1; }
  echo "check: $name, $((SECONDS - begun)) s"
}

step format cargo fmt --all --check
step clippy cargo clippy --release --locked --workspace --all-targets --quiet -- -D warnings
step "unit tests" cargo test --release --locked --workspace --quiet --lib --bins --test golden --test golden_aggregates --test golden_docs --test golden_sql --test golden_wrong --test shape --test mapping --test mapping_docs --test lines --test samples --test follow --test mutations --test generator --test http_body
if command -v cargo-deny >/dev/null; then
  step licences cargo deny check bans licenses sources
else
  echo "check: licences skipped: cargo-deny is not installed (cargo install cargo-deny --locked)"
fi
