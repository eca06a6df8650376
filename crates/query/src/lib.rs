//! caudal-query
