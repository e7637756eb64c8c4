//! Checkpoints in other encodings while they are read, and in other formats on the disk.
#![forbid(unsafe_code)]

mod dtype;
mod error;
mod recode;
mod source;

pub use dtype::{DTYPES, DtypeRule, DtypeRules, ParseDtypeError};
pub use error::ConvertError;
pub use source::Converted;
