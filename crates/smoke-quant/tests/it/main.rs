//! Tests of the whole crate against references that are not its own.

mod encode;
mod errors;
mod goldens;
mod products;
mod weights;
