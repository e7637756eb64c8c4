//! Tokenizers between `tokenizer.json` and the keys of GGUF files: byte-level byte-pair encodings, and those of
//! SentencePiece.
//!
//! A tokenizer of another kind does not keep a model from being converted. It is left out, and a note says so.

mod from_gguf;
mod pieces;
mod to_gguf;
mod words;

pub(crate) use from_gguf::from_gguf;
pub(crate) use to_gguf::to_gguf;

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The sign that SentencePiece writes for a space.
const SPACE_SIGN: &str = "▁";
