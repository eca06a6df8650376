//! caudal-service
