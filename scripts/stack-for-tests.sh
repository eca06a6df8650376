# Sourced: the environment of a stack for tests, beside a user's own: other ports, other folder.
export RUST_BACKTRACE=0
export CAUDAL_TEST_HOME=${CAUDAL_TEST_HOME:-$PWD/target/test-stack}
export CAUDAL_PORT_OFFSET=${CAUDAL_TEST_PORT_OFFSET:-10000}
export CAUDAL_HOME=$CAUDAL_TEST_HOME CAUDAL_JARS=${CAUDAL_JARS:-$PWD/.caudal/jars}
unset BOOTSTRAP_SERVERS DATABASE_URL CAUDAL_METRICS_LISTEN

stack_down() { target/release/caudal stack down --wipe >target/test-stack-down.log 2>&1 || true; }
