//! Text in, tokens out and back: tokenizers, chat templates, sampling and streamed decoding.
//!
//! Nothing here knows a tensor. A [`Tokenizer`] is read from a Hugging Face directory or from the metadata of a GGUF
//! file, a [`ChatTemplate`] turns messages into the prompt the model was trained on, a [`Sampler`] picks a token from
//! logits, and a [`StreamDecoder`] turns tokens into text that is safe to print as they come.

mod chat;
mod gguf_tokenizer;
mod pre_tokenizers;
mod python_json;
mod sampling;
mod stream_decoder;
mod strftime;
mod tokenizer;
mod tokenizer_files;

pub use chat::{ChatError, ChatTemplate, GenerationPrompt, Message};
pub use sampling::{SampleError, Sampler, Sampling};
pub use stream_decoder::StreamDecoder;
pub use tokenizer::{AddSpecial, SpecialTokens, Tokenizer, TokenizerError};
