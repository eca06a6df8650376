#!/usr/bin/env bash
# Kafka's command-line tools under the names of its scripts; written by `caudal stack`, which
# links every name to this file. A missing --bootstrap-server is supplied (BOOTSTRAP_SERVERS, else
# the stack's own brokers); everything else is passed on, and Kafka's exit code comes back.
set -uo pipefail

name=$(basename "$0" .sh)
name=${name#kafka-}
tools=org.apache.kafka.tools
# Where --bootstrap-server goes: before or after a subcommand, or nowhere; one tool has another word.
place=before
case $name in
  acls) class=$tools.AclCommand ;;
  broker-api-versions) class=$tools.BrokerApiVersionsCommand ;;
  client-metrics) class=$tools.ClientMetricsCommand ;;
  cluster) class=$tools.ClusterTool place=after ;;
  configs) class=kafka.admin.ConfigCommand ;;
  console-consumer) class=$tools.consumer.ConsoleConsumer ;;
  console-producer) class=$tools.ConsoleProducer ;;
  console-share-consumer) class=$tools.consumer.ConsoleShareConsumer ;;
  consumer-groups) class=$tools.consumer.group.ConsumerGroupCommand ;;
  consumer-perf-test) class=$tools.ConsumerPerformance ;;
  delete-records) class=$tools.DeleteRecordsCommand ;;
  dump-log) class=$tools.DumpLogSegments place=none ;;
  features) class=$tools.FeatureCommand ;;
  get-offsets) class=$tools.GetOffsetShell ;;
  groups) class=$tools.GroupsCommand ;;
  leader-election) class=$tools.LeaderElectionCommand ;;
  log-dirs) class=$tools.LogDirsCommand ;;
  metadata-quorum) class=$tools.MetadataQuorumCommand ;;
  preferred-replica-election) class=$tools.LeaderElectionCommand ;;
  producer-perf-test) class=$tools.ProducerPerformance ;;
  reassign-partitions) class=$tools.reassign.ReassignPartitionsCommand ;;
  replica-verification) class=$tools.ReplicaVerificationTool place=list ;;
  share-groups) class=$tools.consumer.group.ShareGroupCommand ;;
  storage) class=kafka.tools.StorageTool place=none ;;
  topics) class=$tools.TopicCommand ;;
  transactions) class=$tools.TransactionsCommand ;;
  *)
    echo "$(basename "$0"): unknown tool; the names are in $(dirname "$0")" >&2
    exit 2
    ;;
esac

# True when an option is among the arguments, as `--option value` or `--option=value`.
given() {
  local wanted=$1 word
  shift
  for word in "$@"; do
    [[ $word == "$wanted" || $word == "$wanted="* ]] && return 0
  done
  return 1
}

before=() after=()
if [[ $name == preferred-replica-election ]]; then
  before+=(--election-type preferred)
  given --path-to-json-file "$@" || given --topic "$@" || before+=(--all-topic-partitions)
  echo "kafka-preferred-replica-election.sh left Kafka in 3.0; running: kafka-leader-election.sh ${before[*]} $*" >&2
  set -- "${before[@]}" "$@"
  before=()
fi

# Called bare, a tool prints its usage; only this one has nothing else to be told.
[[ $# -gt 0 || $name != broker-api-versions ]] || set -- --bootstrap-server "${BOOTSTRAP_SERVERS:-@BOOTSTRAP@}"

# `--producer-props bootstrap.servers=...` is the perf tests' older way to name the brokers.
if (($# > 0)) && [[ " $*" != *" bootstrap.servers="* ]] && ! given --help "$@" && ! given -h "$@" && ! given --version "$@" &&
  ! given --bootstrap-server "$@" && ! given --bootstrap-controller "$@"; then
  brokers=${BOOTSTRAP_SERVERS:-@BOOTSTRAP@}
  case $place in
    before) before=(--bootstrap-server "$brokers") ;;
    after) after=(--bootstrap-server "$brokers") ;;
    list) given --broker-list "$@" || before=(--broker-list "$brokers") ;;
  esac
fi

run() {
  CLASSPATH=@CLASSPATH@ MALLOC_ARENA_MAX=2 @JAVA@ -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
    -XX:-UsePerfData -Xmx256m ${KAFKA_OPTS:-} -Dlog4j2.configurationFile=@LOG4J@ \
    "$class" ${before[@]+"${before[@]}"} "$@" ${after[@]+"${after[@]}"}
}

# Kafka writes "Isr:"; the summary below it makes the course's `grep ISR` find every partition.
if [[ $name == topics ]] && given --describe "$@"; then
  run "$@" | awk '
    { print; fflush() }
    /Topic: / && /Partition: / && /Isr:/ {
      topic = partition = replicas = isr = ""
      for (i = 1; i < NF; i++) {
        if ($i == "Topic:") topic = $(i + 1)
        if ($i == "Partition:") partition = $(i + 1)
        if ($i == "Replicas:") replicas = $(i + 1)
        if ($i == "Isr:" && $(i + 1) !~ /:$/) isr = $(i + 1)
      }
      live = (isr == "") ? 0 : split(isr, unused, ",")
      all = split(replicas, unused, ",")
      lines[++count] = "ISR " topic "-" partition ": " (isr == "" ? "none" : isr) \
        " (" live " of " all " in sync)"
    }
    END { for (i = 1; i <= count; i++) print lines[i] }'
  exit "${PIPESTATUS[0]}"
fi
run "$@"
