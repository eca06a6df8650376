#!/bin/sh
# Runs one broker from config/kafka/server.properties, the file that the native stack runs from.
#
# The image's own way, KAFKA_* variables, would drop all of its defaults at the first variable and
# would be a second set of settings to keep. Only what a container changes is changed here: names,
# ports and the data folder.
#
#   entrypoint.sh          render, format once, run
#   entrypoint.sh render   print the properties
#
# NODE_ID and CLIENT_PORT are the node's own; the rest has defaults.
set -eu

: "${NODE_ID:?}" "${CLIENT_PORT:?}"
template=${TEMPLATE:-/etc/caudal/server.properties}
data=${DATA_DIR:-/var/lib/kafka/data}
host=${NODE_HOST:-broker-$NODE_ID}
voters=${VOTERS:-1@broker-1:9093,2@broker-2:9093,3@broker-3:9093}
inside=PLAINTEXT://$host:19092
controller=CONTROLLER://$host:9093

# Brokers and services use PLAINTEXT, by the containers' names; the host's clients use HOST, by
# localhost and the port that compose publishes.
render() {
  sed \
    -e '/^#/!s|@ROLES@|broker,controller|' \
    -e "/^#/!s|@NODE_ID@|$NODE_ID|" \
    -e "/^#/!s|@VOTERS@|$voters|" \
    -e "/^#/!s|@DATA_DIR@|$data|" \
    -e "/^#/!s|@SESSION_TIMEOUT_MS@|${SESSION_TIMEOUT_MS:-9000}|" \
    -e "/^#/!s|@HEARTBEAT_INTERVAL_MS@|${HEARTBEAT_INTERVAL_MS:-2000}|" \
    -e "s|^listeners=.*|listeners=$inside,HOST://0.0.0.0:$CLIENT_PORT,$controller|" \
    -e "s|^advertised.listeners=.*|advertised.listeners=$inside,HOST://localhost:$CLIENT_PORT,$controller|" \
    -e '/^listener.security.protocol.map=/s|$|,HOST:PLAINTEXT|' \
    "$template"
}

if [ "${1:-}" = render ]; then
  render
  exit
fi

properties=/tmp/server.properties
render >"$properties"
if grep -v '^#' "$properties" | grep '@[A-Z_]*@'; then
  echo "entrypoint: the words above are not filled in" >&2
  exit 1
fi
/opt/kafka/bin/kafka-storage.sh format --ignore-formatted \
  --cluster-id "${CLUSTER_ID:?}" --config "$properties"

# For this process alone: in the container's environment it would also start in every tool that is
# run beside it, and fail because the port is taken.
export KAFKA_OPTS="-javaagent:/opt/jmx/jmx_prometheus_javaagent.jar=9404:/etc/caudal/jmx.yml"
exec /opt/kafka/bin/kafka-server-start.sh "$properties"
