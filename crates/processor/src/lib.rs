//! caudal-processor
