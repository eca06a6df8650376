//! caudal-producer
