//! caudal-kafka
