//! The smoke command line.
fn main() {}
