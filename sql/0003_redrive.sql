-- Dead letters that are tried again (`caudal dlq redrive`).

ALTER TABLE dead_letters
    ADD COLUMN replay_count integer NOT NULL DEFAULT 0,
    ADD COLUMN redrive bigint,
    ADD COLUMN redriven_at timestamptz;
COMMENT ON COLUMN dead_letters.replay_count IS 'how often it was tried again; of a record that was sent again and rejected again, counted on';
COMMENT ON COLUMN dead_letters.redrive IS 'number of the Kafka transaction that sends it again; caudal_progreso says which was committed last';
COMMENT ON COLUMN dead_letters.redriven_at IS 'when it became a row, or was sent again';
