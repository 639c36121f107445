//! `bench`: measures the release binary.
fn main() {}
