-- Which topic a position belongs to: one that was deleted and created again has the same name.

ALTER TABLE sink_offsets ADD COLUMN topic_id text;
COMMENT ON COLUMN sink_offsets.topic_id IS 'id of the topic (kafka-topics.sh --describe); NULL until the sink claims the partition';
