//! caudal-stack
