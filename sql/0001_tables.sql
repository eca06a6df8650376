-- The tables of the shipped topics, and the positions of the sink.

CREATE TABLE transactions (
    transaction_id text PRIMARY KEY,
    account_id text NOT NULL,
    merchant_id text NOT NULL,
    amount numeric NOT NULL,
    currency text NOT NULL,
    kind text NOT NULL,
    country text,
    event_time timestamptz NOT NULL,
    description text,
    attributes jsonb,
    source text NOT NULL,
    source_seq bigint NOT NULL,
    late_for text[] NOT NULL DEFAULT '{}',
    stored_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN transactions.late_for IS 'queries whose window had closed when this arrived';
-- A few pages for the whole table; rows arrive roughly in the order of their event time.
CREATE INDEX transactions_event_time ON transactions USING brin (event_time);

-- Rows are updated in place: room in each page keeps the updates out of the index (HOT).
CREATE TABLE ventas_gold (
    merchant_id text NOT NULL,
    currency text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    ventas bigint NOT NULL,
    total numeric NOT NULL,
    minimo numeric NOT NULL,
    maximo numeric NOT NULL,
    PRIMARY KEY (merchant_id, currency, window_start)
) WITH (fillfactor = 70);

CREATE TABLE fraud_alerts (
    rule text NOT NULL,
    account_id text NOT NULL,
    currency text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    intentos bigint NOT NULL,
    total numeric NOT NULL,
    PRIMARY KEY (rule, account_id, currency, window_start)
) WITH (fillfactor = 70);

-- One row per rejected record, whoever rejected it. The key is where the sink read it, so that a
-- record can never be stored twice; source_* is where the record was when it was rejected.
CREATE TABLE dead_letters (
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    reason text NOT NULL,
    error text NOT NULL,
    key bytea,
    payload bytea,
    sha256 text,
    original_size bigint,
    headers jsonb NOT NULL,
    source_topic text,
    source_partition integer,
    source_offset bigint,
    source_timestamp timestamptz,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, "offset")
);
COMMENT ON COLUMN dead_letters.sha256 IS 'of the whole original value, in hex, even where payload holds only its beginning';
COMMENT ON COLUMN dead_letters.original_size IS 'bytes of the whole original value';

-- Where the sink stands, moved in the same transaction as the rows. records read so far are
-- rows + duplicates + conflicts + dead; sums holds the money of each, in units of the currency.
CREATE TABLE sink_offsets (
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    epoch bigint NOT NULL,
    sequences jsonb NOT NULL DEFAULT '{}',
    rows bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    conflicts bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    sums jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON COLUMN sink_offsets.epoch IS 'grows with every claim; a writer with an older one is fenced';
COMMENT ON COLUMN sink_offsets.sequences IS 'last sequence number seen of each task that writes to the topic';
