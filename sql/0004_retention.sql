-- What `caudal retention` has deleted, so that the books still balance (docs/retention.md).

-- Written in the same transaction as the deletion: rows in a table and rows here are together what
-- sink_offsets counts.
CREATE TABLE retired (
    table_name text NOT NULL,
    topic text NOT NULL,
    currency text NOT NULL,
    rows bigint NOT NULL,
    total numeric NOT NULL,
    keys numeric NOT NULL,
    through timestamptz NOT NULL,
    retired_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name, topic, currency)
) WITH (fillfactor = 50);
COMMENT ON COLUMN retired.currency IS 'empty where a table''s rows are no money of their own';
COMMENT ON COLUMN retired.total IS 'money of the rows, in units of the currency';
COMMENT ON COLUMN retired.keys IS 'sum of the first 64 bits of the SHA-256 of each row''s key: which rows they were';
COMMENT ON COLUMN retired.through IS 'only rows of an earlier time were deleted';

-- A dead letter stands for a record that is no row. What remains of one that was deleted.
CREATE TABLE retired_letters (
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
);
