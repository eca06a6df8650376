#!/usr/bin/env bash
# Builds the binaries in the profile that users and tests run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ! -d target/release ]]; then
  echo "build: first build; OpenSSL and librdkafka are compiled from source, 4 to 8 minutes on 2 cores"
fi
begun=$SECONDS
cargo build --release --locked -p caudal-cli -p caudal-producer -p caudal-processor -p caudal-sink
echo "build: $((SECONDS - begun)) s"
