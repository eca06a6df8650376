//! caudal-sink
