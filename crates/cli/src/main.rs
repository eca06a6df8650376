//! caudal
fn main() {}
