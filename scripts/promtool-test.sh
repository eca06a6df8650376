#!/usr/bin/env bash
# Checks the alert rules with promtool: their syntax, their unit tests, and that the tests would
# notice a rule that was broken (each mutant below must make them fail).
#
# Without promtool: as root with CI=true it is installed from the system's packages; otherwise the
# script says how to install it, and ends well.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
config=$repo/config/prometheus

say() { printf 'promtool-test: %s\n' "$*"; }

# Debian's package starts a server at once, on a port that may be in use; only the tool is wanted.
install_promtool() {
  local policy=/usr/sbin/policy-rc.d made=
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=yes
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends prometheus >/dev/null || say 'apt-get could not install prometheus'
  if [[ -n $made ]]; then rm -f "$policy"; fi
  # A policy of the machine's own may have let it start, or will at the next boot.
  if command -v systemctl >/dev/null; then
    systemctl disable prometheus >/dev/null 2>&1 || :
    systemctl stop prometheus >/dev/null 2>&1 || :
  fi
}

if ! command -v promtool >/dev/null && [[ ${CI:-} == true && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  install_promtool
fi
if ! command -v promtool >/dev/null; then
  echo 'skipped: promtool is not installed (apt-get install prometheus, dnf install golang-github-prometheus, brew install prometheus)'
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

promtool check rules "$config"/rules/*.yml
promtool test rules "$config"/tests/*_test.yml

# A mutant is a copy of the rules with one thing broken by sed: a pattern, and a rule file.
mutate() {
  local name=$1 edit=$2 file=$3
  rm -rf "$work/mutant"
  mkdir "$work/mutant"
  cp -R "$config/rules" "$config/tests" "$work/mutant/"
  sed "$edit" "$config/rules/$file" >"$work/mutant/rules/$file"
  if cmp -s "$config/rules/$file" "$work/mutant/rules/$file"; then
    say "the mutant \"$name\" changes nothing in $file: bring this script up to date" >&2
    exit 1
  fi
  if promtool test rules "$work"/mutant/tests/*_test.yml >"$work/output" 2>&1; then
    say "the tests pass although $name in $file" >&2
    exit 1
  fi
  # The tests must fail because an alert differs, not because the mutant cannot be read.
  if ! grep -q 'exp:' "$work/output"; then
    cat "$work/output" >&2
    say "the mutant \"$name\" is not a valid rule" >&2
    exit 1
  fi
  say "noticed: $name"
}

mutate 'the comparator is turned round' '/expr:/s/== 0/!= 0/' caudal.yml
mutate 'the threshold is another' '/expr:/s/== 0/== 1/' caudal.yml
mutate 'the selector takes every job' '/expr:/s/{job="kafka"}//' caudal.yml
mutate 'the wait is dropped' '/^ *for: /d' caudal.yml
mutate 'the wait is ten times as long' 's/for: 1m/for: 10m/' caudal.yml
mutate 'the severity is another' 's/severity: page/severity: ticket/' caudal.yml
mutate 'the runbook is another' 's/broker-down.md/other.md/' caudal.yml
say 'rules, tests and mutants are as they should be'
