//! The `aber` binary.
fn main() {}
