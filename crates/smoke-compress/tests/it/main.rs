//! The codecs and the tier, seen from outside.

mod codecs;
mod tier;
