//! caudal-e2e
