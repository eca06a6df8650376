#!/usr/bin/env bash
# Checks a machine before anything is downloaded: programs, memory, disk, ports, known traps.
# Exit code 0: ready; 1: something is missing, and the lines that install it are printed.
#
#   scripts/doctor.sh             look only
#   scripts/doctor.sh --install   as root with CI=true also installs missing packages by apt-get;
#                                 everywhere else it only names them (never sudo)
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=${CAUDAL_HOME:-$repo/.caudal}
offset=${CAUDAL_PORT_OFFSET:-0}
stack=${CAUDAL_STACK_CONFIG:-$repo/config/stack.toml}
least_rust=1.95
least_java=17

good="ok" bad="MISSING" warning="warn"
case "${LC_ALL:-${LC_CTYPE:-${LANG:-}}}" in
  *[Uu][Tt][Ff]8* | *[Uu][Tt][Ff]-8*) [[ ! -t 1 ]] || good="✔" bad="✘" warning="!" ;;
esac

faults=0
apt=() dnf=() brew=()
notes=()

row() { printf '  %-8s %-22s %s\n' "$1" "$2" "$3"; }
pass() { row "$good" "$1" "$2"; }
warn() { row "$warning" "$1" "$2"; }
miss() {
  row "$bad" "$1" "$2"
  faults=$((faults + 1))
}
packages() { # apt, dnf and brew names; "-" where there is none
  [[ $1 == - ]] || apt+=("$1")
  [[ $2 == - ]] || dnf+=("$2")
  [[ $3 == - ]] || brew+=("$3")
}

# True when version $1 is at least $2, compared number by number.
at_least() {
  local IFS=. i
  local -a have=($1) want=($2)
  for ((i = 0; i < ${#want[@]}; i++)); do
    ((10#${have[i]:-0} > 10#${want[i]})) && return 0
    ((10#${have[i]:-0} < 10#${want[i]})) && return 1
  done
  return 0
}

program() { # name, its packages for apt, dnf and brew
  local path
  if path=$(command -v "$1"); then
    pass "$1" "$path"
  else
    miss "$1" "not on the PATH"
    packages "$2" "$3" "$4"
  fi
}

check_rust() {
  local name version
  for name in cargo rustc; do
    if ! command -v "$name" >/dev/null; then
      miss "$name" "not on the PATH; https://rustup.rs installs it, no root needed"
      notes+=("Rust:  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh")
      continue
    fi
    version=$("$name" --version 2>/dev/null | awk '{ print $2 }') || version=
    version=${version%%-*}
    if [[ -z $version ]]; then
      miss "$name" "does not run: $("$name" --version 2>&1 | head -n 1)"
    elif at_least "$version" "$least_rust"; then
      pass "$name" "$version"
    else
      miss "$name" "$version is older than $least_rust"
      notes+=("Rust:  rustup update stable")
    fi
  done
}

check_compiler() {
  if command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null; then
    pass "C compiler" "$(command -v cc || command -v gcc || command -v clang)"
  else
    miss "C compiler" "no cc, gcc or clang"
    packages gcc gcc -
    [[ $(uname -s) != Darwin ]] || notes+=("C and C++:  xcode-select --install")
  fi
  if command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null; then
    pass "C++ compiler" "$(command -v c++ || command -v g++ || command -v clang++)"
  else
    miss "C++ compiler" "no c++, g++ or clang++"
    packages g++ gcc-c++ -
  fi
}

check_java() {
  local java=java bin="" release name absent=0
  [[ -z ${JAVA_HOME:-} ]] || bin=$JAVA_HOME/bin/ java=$JAVA_HOME/bin/java
  release=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\)\.*\([0-9]*\).*/\1 \2/p' | head -n 1) || release=
  [[ $release != "1 "* ]] || release=${release#1 }
  release=${release%% *}
  if [[ -z $release ]]; then
    miss "java" "$java does not run"
    absent=1
  elif ((release < least_java)); then
    miss "java" "$java is release $release; Kafka needs $least_java or newer (JAVA_HOME chooses one)"
    absent=1
  else
    pass "java" "release $release ($(command -v "$java"))"
  fi
  for name in javac jar; do
    if [[ -x $bin$name ]] || command -v "$bin$name" >/dev/null; then
      pass "$name" "$(command -v "$bin$name")"
    else
      miss "$name" "the JDK is incomplete (a JRE?)"
      absent=1
    fi
  done
  ((absent == 0)) || packages openjdk-17-jdk-headless java-17-openjdk-devel openjdk@17
}

check_programs() {
  program git git git git
  program make make make make
  program perl perl perl perl
  check_rust
  check_compiler
  check_java
  program mvn maven maven maven
  program tar tar tar gnu-tar
  # macOS's tar reads xz by itself.
  [[ $(uname -s) == Darwin ]] || program xz xz-utils xz xz
}

check_memory() {
  local mib=
  if [[ -r /proc/meminfo ]]; then
    mib=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
    # A container's own limit may be lower than what the machine has.
    local limit used
    if [[ -r /sys/fs/cgroup/memory.max ]] && limit=$(</sys/fs/cgroup/memory.max) && [[ $limit != max ]]; then
      used=$(cat /sys/fs/cgroup/memory.current 2>/dev/null || echo 0)
      limit=$(((limit - used) / 1048576))
      ((limit >= mib)) || mib=$limit
    fi
  elif command -v vm_stat >/dev/null; then
    mib=$(vm_stat | awk '/page size of/ { size = $8 }
      /Pages (free|inactive|speculative|purgeable)/ { gsub(/\./, "", $NF); pages += $NF }
      END { print int(pages * size / 1048576) }')
  fi
  if [[ -z $mib ]]; then
    warn memory "cannot be measured here; 2.5 GiB must be free"
  elif ((mib < 2560)); then
    miss memory "$mib MiB available; 2560 MiB (2.5 GiB) are needed: close something"
  elif ((mib < 4096)); then
    warn memory "$mib MiB available: enough, but building beside the stack may be slow"
  else
    pass memory "$mib MiB available"
  fi
}

check_disk() {
  local folder=$home mib
  while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
  mib=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1024) }')
  if ((mib < 10000)); then
    miss disk "$mib MB free in $folder; 10 GB are needed (CAUDAL_HOME and CARGO_TARGET_DIR choose other disks)"
  else
    pass disk "$((mib / 1000)) GB free in $folder"
  fi
}

# Words for the process that listens on a port, empty when the port is free.
holder() {
  local port=$1 line pid=
  if command -v ss >/dev/null; then
    line=$(ss -Hltnp "sport = :$port" 2>/dev/null | head -n 1) || line=
    [[ -n $line ]] || return 0
    pid=$(sed -n 's/.*pid=\([0-9]*\).*/\1/p' <<<"$line")
  elif command -v lsof >/dev/null; then
    pid=$(lsof -nP -t "-iTCP:$port" -sTCP:LISTEN 2>/dev/null | head -n 1) || pid=
    [[ -n $pid ]] || return 0
  elif [[ -r /proc/net/tcp ]]; then
    # State 0A is listening; the process behind the inode has it among its open files.
    local inode link
    inode=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
      awk -v port="$(printf ':%04X' "$port")" '$4 == "0A" && substr($2, length($2) - 4) == port { print $10; exit }')
    [[ -n $inode ]] || return 0
    for link in /proc/[0-9]*/fd/*; do
      if [[ $(readlink "$link" 2>/dev/null) == "socket:[$inode]" ]]; then
        pid=${link#/proc/} pid=${pid%%/*}
        break
      fi
    done
  elif ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    return 0
  fi
  echo "${pid:-unknown}"
}

# Pids of this home's own stack, one a line.
own_pids() {
  local file
  for file in "$home"/run/*.pid; do
    [[ ! -r $file ]] || head -n 1 "$file"
  done
}

check_ports() {
  local own name port pid taken=0 ours=0 count=0
  own=" $(own_pids | tr '\n' ' ') "
  while read -r name port; do
    port=$((port + offset))
    count=$((count + 1))
    pid=$(holder "$port")
    [[ -n $pid ]] || continue
    if [[ $own == *" $pid "* ]]; then
      ours=$((ours + 1))
    else
      taken=$((taken + 1))
      local words=
      [[ $pid == unknown ]] || words=": $(ps -o args= -p "$pid" 2>/dev/null | cut -c 1-60)"
      miss "port $port ($name)" "held by pid $pid$words"
    fi
    ((port < 32768)) || warn "port $port ($name)" "Linux may lend it to an outgoing connection; stay under 32768"
  done < <(ports)
  if ((taken > 0)); then
    notes+=("Ports: CAUDAL_PORT_OFFSET=1000 (any number) moves all of them; config/stack.toml names each")
  elif ((ours > 0)); then
    pass ports "$((count - ours)) of $count free, $ours held by caudal's own running stack"
  else
    pass ports "all $count free"
  fi
}

# Owner and port of every port line in the topology.
ports() {
  awk '
    /^\[/ { section = $0; gsub(/[][ ]/, "", section); name = section }
    /^name *=/ { split($0, part, "\""); name = part[2] }
    section == "services" && /^[a-z][a-z-]* *= *[0-9]+/ { print $1, $3; next }
    /^([a-z]+_)?port *= *[0-9]+/ { print name, $3 }' "$stack"
}

check_traps() {
  if [[ -r /proc/version ]] && grep -qi microsoft /proc/version; then
    case "$repo" in
      /mnt/[a-z]/* | /mnt/[a-z]) miss "clone on $(cut -d/ -f1-3 <<<"$repo")" "Windows disks are slow and lack Unix modes under WSL: clone below \$HOME" ;;
      *) pass WSL "the clone is on Linux's own disk" ;;
    esac
  fi
  if [[ $(id -u) == 0 ]]; then
    local folder=$repo
    while [[ $folder != / ]]; do
      # The last digit's lowest bit: others may enter.
      if [[ $(ls -ld "$folder") != ?????????[xt]* ]]; then
        warn "root" "PostgreSQL refuses root, and $folder is closed to other users: its data will go to /var/tmp"
        break
      fi
      folder=$(dirname "$folder")
    done
  fi
}

install_packages() {
  ((${#apt[@]} > 0)) || return 0
  if [[ $(id -u) != 0 || ${CI:-} != true ]]; then
    printf '\n--install works as root with CI=true only; run the line above yourself.\n'
  elif ! command -v apt-get >/dev/null; then
    printf '\n--install knows apt-get only; run the line above yourself.\n'
  else
    printf '\ninstalling: %s\n' "${apt[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${apt[@]}"
    exec "$0"
  fi
}

install=0
case "${1:-}" in
  "") ;;
  --install) install=1 ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

echo "caudal doctor: $(uname -s) $(uname -m), $(getconf _NPROCESSORS_ONLN) cores"
check_programs
check_memory
check_disk
check_ports
check_traps

if ((faults == 0)); then
  echo "Ready."
  exit 0
fi
printf '\n%s to mend.\n' "$faults"
((${#apt[@]} == 0)) || printf '  apt:   apt-get install -y %s\n' "${apt[*]}"
((${#dnf[@]} == 0)) || printf '  dnf:   dnf install -y %s\n' "${dnf[*]}"
((${#brew[@]} == 0)) || printf '  brew:  brew install %s\n' "${brew[*]}"
((${#notes[@]} == 0)) || printf '  %s\n' "${notes[@]}" | awk '!seen[$0]++'
((install == 0)) || install_packages
exit 1
