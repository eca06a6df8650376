#!/usr/bin/env bash
# Builds the binaries in the profile that users and tests run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ! -d target/release ]]; then
  echo "build: first build; OpenSSL and librdkafka are compiled from source, 4 to 8 minutes on 2 cores"
fi
begun=$SECONDS
# Always the whole workspace: cargo unites features per selection, and another selection would
# compile OpenSSL and librdkafka again.
cargo build --release --locked --workspace
echo "build: $((SECONDS - begun)) s"
