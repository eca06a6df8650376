-- A tombstone of a query's topic takes a row back: counted beside what was stored.

ALTER TABLE sink_offsets ADD COLUMN deleted bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN sink_offsets.deleted IS 'tombstones: records that took the row of their key back; records read so far are rows + duplicates + conflicts + dead + deleted';
