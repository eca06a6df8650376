#!/usr/bin/env bash
# Fetches Kafka, its tools, the JMX exporter and PostgreSQL (crates/stack/pom.xml) with Maven
# into .caudal/jars, once. Later runs compare a checksum of the pom and the platform and return
# at once.
#
#   CAUDAL_JARS               where the jars go                  (default <repository>/.caudal/jars)
#   CAUDAL_POSTGRES_PLATFORM  linux-amd64, linux-arm64v8, darwin-amd64, darwin-arm64v8, or none to
#                             use the system's PostgreSQL        (default: this machine's)
#   MAVEN_ARGS_EXTRA          passed to mvn, for instance "-s my-settings.xml" or "-o"
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pom=$repo/crates/stack/pom.xml
jars=${CAUDAL_JARS:-$repo/.caudal/jars}
plugin=org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
attempts=3

say() { printf 'fetch-jars: %s\n' "$*"; }
fail() { printf 'fetch-jars: %s\n' "$*" >&2; exit 1; }

platform() {
  local system machine
  system=$(uname -s) machine=$(uname -m)
  case $system/$machine in
    Linux/x86_64) echo linux-amd64 ;;
    Linux/aarch64 | Linux/arm64) echo linux-arm64v8 ;;
    Darwin/x86_64) echo darwin-amd64 ;;
    Darwin/arm64) echo darwin-arm64v8 ;;
    *) echo none ;;
  esac
}

checksum() { cksum <"$1" | tr ' \t' '--'; }

# True when every jar listed at the end of the last whole fetch is still there.
complete() {
  local name
  [[ -s $jars/.list ]] || return 1
  while IFS= read -r name; do
    [[ -s $jars/$name ]] || return 1
  done <"$jars/.list"
}

explain_failure() {
  local log=$1
  printf '\nfetch-jars: mvn failed; the end of %s:\n' "$log" >&2
  grep -E 'ERROR|BUILD' "$log" | head -12 >&2 || tail -n 12 "$log" >&2
  if grep -qE 'Unknown host|Temporary failure in name|Connection refused|timed out|No route to host|offline mode|Network is unreachable' "$log"; then
    cat >&2 <<'TEXT'

There seems to be no way to the Maven repository from here. Any one of these helps:
  - behind a proxy or a mirror: describe it in ~/.m2/settings.xml (<proxies> or <mirrors>)
  - another machine with the same system: run scripts/fetch-jars.sh there and copy its .caudal/jars here
  - a filled ~/.m2 from elsewhere: MAVEN_ARGS_EXTRA=-o scripts/fetch-jars.sh
TEXT
  elif grep -q 'embedded-postgres-binaries' "$log"; then
    cat >&2 <<'TEXT'

PostgreSQL's binaries could not be had for this platform. Install PostgreSQL 15 or newer from the
system (or set CAUDAL_PG_BIN to its bin folder), then run:
  CAUDAL_POSTGRES_PLATFORM=none scripts/fetch-jars.sh
TEXT
  fi
}

postgres=${CAUDAL_POSTGRES_PLATFORM:-$(platform)}
[[ -z ${CAUDAL_PG_BIN:-} || -n ${CAUDAL_POSTGRES_PLATFORM:-} ]] || postgres=none
stamp="$(checksum "$pom")$postgres"

if [[ -f $jars/.stamp && $(<"$jars/.stamp") == "$stamp" ]] && complete; then
  say "up to date: $(wc -l <"$jars/.list" | tr -d ' ') jars in $jars"
  exit 0
fi

command -v mvn >/dev/null || fail "mvn (Maven) is not installed; scripts/doctor.sh prints the line that installs it"
mkdir -p "$jars" || fail "cannot create $jars; set CAUDAL_JARS to a folder you may write"

# The new set is complete before it replaces the old one, so an interrupted fetch breaks nothing.
fresh=$jars/.fresh
log=$jars/fetch.log
rm -rf "$fresh"
mkdir -p "$fresh"
options=(-B -ntp -f "$pom" "$plugin" "-DoutputDirectory=$fresh" -DincludeScope=runtime -Dmdep.overWriteReleases=false)
if [[ $postgres == none ]]; then
  say "no PostgreSQL from Maven for this platform: the system's will be used"
else
  options+=("-Dpostgres.platform=$postgres")
fi
read -r -a extra <<<"${MAVEN_ARGS_EXTRA:-}" || true

say "fetching Kafka, its tools, the JMX exporter and PostgreSQL ($postgres) with Maven; about 90 MB the first time"
for ((attempt = 1; ; attempt++)); do
  mvn ${extra[@]+"${extra[@]}"} "${options[@]}" >"$log" 2>&1 &
  mvn_pid=$!
  trap 'kill "$mvn_pid" 2>/dev/null || true' EXIT
  last=0
  while kill -0 "$mvn_pid" 2>/dev/null; do
    sleep 1
    if ((SECONDS - last >= 5)); then
      last=$SECONDS
      say "$SECONDS s, $(grep -c '^\[INFO\] Copying' "$log" || true) jars copied"
    fi
  done
  status=0
  wait "$mvn_pid" || status=$?
  trap - EXIT
  ((status != 0)) || break
  if ((attempt >= attempts)); then
    explain_failure "$log"
    exit 1
  fi
  say "attempt $attempt of $attempts failed after $SECONDS s; trying again in $((attempt * 5)) s (log: $log)"
  sleep $((attempt * 5))
done

shopt -s nullglob
found=("$fresh"/*.jar)
((${#found[@]} > 20)) || fail "mvn succeeded but left only ${#found[@]} jars in $fresh; see $log"
rm -f "$jars"/*.jar "$jars/.stamp" "$jars/.list"
mv "$fresh"/*.jar "$jars/"
rm -rf "$fresh"
(cd "$jars" && printf '%s\n' *.jar) >"$jars/.list"
printf '%s' "$stamp" >"$jars/.stamp"
say "done in $SECONDS s: ${#found[@]} jars, $(du -sh "$jars" | cut -f1 | tr -d ' ') in $jars"
