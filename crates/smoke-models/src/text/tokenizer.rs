use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smoke_storage::{Checkpoint, GgufMetadata, Metadata};
use tokenizers::{DecoderWrapper, PostProcessor, TruncationDirection};

use super::chat::ChatTemplate;
use super::{gguf_tokenizer, tokenizer_files};

/// Whether encoding puts the special tokens around a text that the model expects there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    /// As for a text by itself.
    Yes,
    /// As for a part of a text, or a chat prompt that has them already.
    No,
}

/// What decoding makes of special tokens, such as those that begin and end a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They are written out.
    Keep,
    /// They are left away.
    Skip,
}

/// Why there is no tokenizer, or it cannot convert.
///
/// Cloning is cheap, so that whoever opens a model may keep the reason for the day when a tokenizer is needed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// There is no tokenizer where one was looked for.
    #[error("no tokenizer: looked for {}; {remedy}", looked_for.display())]
    Missing {
        /// The file that was looked for.
        looked_for: PathBuf,
        /// How to get one.
        remedy: &'static str,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: Arc<io::Error>,
    },
    /// A file is not what its name says.
    #[error("{} is damaged or of an unknown kind; obtain it again from where the model came from", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: Arc<dyn StdError + Send + Sync>,
    },
    /// A GGUF file holds no tokenizer.
    #[error(
        "no tokenizer: the GGUF metadata has no `{key}`; put the model's tokenizer.json beside the file, or give token \
         ids instead of text"
    )]
    MissingField {
        /// The metadata key that was looked for.
        key: &'static str,
    },
    /// A GGUF file's tokenizer contradicts itself.
    #[error("the tokenizer in the GGUF metadata is damaged: {problem}")]
    Damaged {
        /// What is wrong.
        problem: String,
    },
    /// A GGUF file's tokenizer is of a kind that is not known. Guessing would give wrong tokens without notice.
    #[error(
        "the GGUF metadata asks for {key} = {found:?}, and only {known} are known; put the model's tokenizer.json beside \
         the file, or give token ids instead of text"
    )]
    Unknown {
        /// The metadata key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The values that are known.
        known: String,
    },
    /// The text could not be split into tokens.
    #[error("the tokenizer cannot encode this text")]
    Encode {
        /// The tokenizer's reason.
        #[source]
        cause: Arc<dyn StdError + Send + Sync>,
    },
    /// The tokens could not be joined to a text.
    #[error("the tokenizer cannot decode these tokens")]
    Decode {
        /// The tokenizer's reason.
        #[source]
        cause: Arc<dyn StdError + Send + Sync>,
    },
}

/// A model's tokenizer with what belongs to it: special tokens, the ids that end a text, the chat template.
///
/// ```no_run
/// use smoke_models::text::{AddSpecial, SpecialTokens, Tokenizer};
///
/// let tokenizer = Tokenizer::open("models/smollm2".as_ref())?;
/// let ids = tokenizer.encode("Hello world!", AddSpecial::Yes)?;
/// let text = tokenizer.decode(&ids, SpecialTokens::Skip)?;
/// # Ok::<(), smoke_models::text::TokenizerError>(())
/// ```
pub struct Tokenizer {
    parts: Parts,
}

/// What the two ways of opening find out.
pub(super) struct Parts {
    pub(super) tokenizer: tokenizers::Tokenizer,
    pub(super) framing: Framing,
    pub(super) bos: Option<u32>,
    pub(super) pad: Option<u32>,
    /// Without repeats, the tokenizer's own first.
    pub(super) eos: Vec<u32>,
    pub(super) chat_template: Option<ChatTemplate>,
}

/// How special tokens come around an encoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As the tokenizer's post-processor does it.
    PostProcessor,
    /// These tokens, whatever the post-processor says.
    Tokens { before: Option<u32>, after: Option<u32> },
}

impl Tokenizer {
    /// The tokenizer that came with a checkpoint: the one in the metadata of a GGUF file, else the directory's.
    ///
    /// # Errors
    /// If there is none, or it is damaged or of an unknown kind.
    pub fn beside(checkpoint: &Checkpoint) -> Result<Self, TokenizerError> {
        let Metadata { directory, gguf, .. } = checkpoint.metadata();
        let Some(gguf) = gguf else { return Self::open(directory) };
        Self::from_gguf(gguf).or_else(|error| match error {
            TokenizerError::MissingField { .. } | TokenizerError::Unknown { .. } => match Self::open(directory) {
                Err(TokenizerError::Missing { .. }) => Err(error),
                result => result,
            },
            _ => Err(error),
        })
    }

    /// Reads `tokenizer.json` of a Hugging Face directory, and beside it, where they exist, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`, `generation_config.json` and `config.json`.
    ///
    /// # Errors
    /// If `tokenizer.json` is missing, or a file is damaged or cannot be read.
    pub fn open(directory: &Path) -> Result<Self, TokenizerError> {
        Ok(Self::new(tokenizer_files::read(directory)?))
    }

    /// Builds the tokenizer that a GGUF file carries in its metadata. Nothing of the metadata is kept, so it may be
    /// dropped afterwards.
    ///
    /// # Errors
    /// If there is none, it contradicts itself, or it is of an unknown kind.
    pub fn from_gguf(metadata: &GgufMetadata) -> Result<Self, TokenizerError> {
        Ok(Self::new(gguf_tokenizer::read(metadata)?))
    }

    pub(super) fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// The tokens of a text. Special tokens that stand in the text are recognised, which a chat prompt relies on.
    ///
    /// # Errors
    /// If the tokenizer fails on this text.
    pub fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<u32>, TokenizerError> {
        self.encode_at_most(text, special, usize::MAX)
    }

    /// The same, but where there are more than `limit` tokens, special ones included, the text's last ones are left out.
    ///
    /// # Errors
    /// If the tokenizer fails on this text.
    pub fn encode_at_most(&self, text: &str, special: AddSpecial, limit: usize) -> Result<Vec<u32>, TokenizerError> {
        let Parts { tokenizer, framing, .. } = &self.parts;
        let failed = |cause: tokenizers::Error| TokenizerError::Encode { cause: cause.into() };
        let mut encoding = tokenizer.encode_fast(text, false).map_err(failed)?;
        let mut cut = |added: usize| encoding.truncate(limit.saturating_sub(added), 0, TruncationDirection::Right);
        match framing {
            _ if special == AddSpecial::No => cut(0),
            Framing::Tokens { before, after } => {
                cut(before.iter().chain(after).count());
                return Ok(before.iter().chain(encoding.get_ids()).chain(after).copied().collect());
            }
            Framing::PostProcessor => {
                cut(tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false)));
                encoding = tokenizer.post_process(encoding, None, true).map_err(failed)?;
            }
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of some tokens. Ids outside the vocabulary, which a padded output head may yield, write nothing. To
    /// decode tokens as they come, use a [`StreamDecoder`](super::StreamDecoder).
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], special: SpecialTokens) -> Result<String, TokenizerError> {
        self.parts
            .tokenizer
            .decode(ids, special == SpecialTokens::Skip)
            .map_err(|cause| TokenizerError::Decode { cause: cause.into() })
    }

    /// How many tokens there are, added ones included. The model's output may be wider.
    pub fn vocab_size(&self) -> usize {
        self.parts.tokenizer.get_vocab_size(true)
    }

    /// The token that begins a text, if the model knows one. Whether encoding adds it is another question.
    pub fn bos_id(&self) -> Option<u32> {
        self.parts.bos
    }

    /// The tokens that end an answer, the tokenizer's own end of sequence first; empty if the model knows none.
    pub fn end_ids(&self) -> &[u32] {
        &self.parts.eos
    }

    /// The token that fills up shorter texts of a batch, if the model knows one.
    pub fn pad_id(&self) -> Option<u32> {
        self.parts.pad
    }

    /// The id of a token, written as in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.parts.tokenizer.token_to_id(token)
    }

    /// A token as written in the vocabulary, where a space may be another sign.
    pub fn token(&self, id: u32) -> Option<String> {
        self.parts.tokenizer.id_to_token(id)
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.parts.chat_template.as_ref()
    }

    /// Whether decoding writes this token at all.
    pub(super) fn shows(&self, id: u32, special: SpecialTokens) -> bool {
        self.token(id).is_some_and(|token| {
            special == SpecialTokens::Keep || !self.parts.tokenizer.get_added_vocabulary().is_special_token(&token)
        })
    }

    /// Whether this token is a single byte that decoding joins with its neighbours.
    pub(super) fn is_byte(&self, id: u32) -> bool {
        joins_bytes(self.parts.tokenizer.get_decoder()) && self.token(id).is_some_and(|token| is_byte_token(&token))
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos_id", &self.parts.bos)
            .field("end_ids", &self.parts.eos)
            .field("pad_id", &self.parts.pad)
            .field("framing", &self.parts.framing)
            .field("chat_template", &self.parts.chat_template)
            .finish()
    }
}

fn joins_bytes(decoder: Option<&DecoderWrapper>) -> bool {
    match decoder {
        Some(DecoderWrapper::ByteFallback(_)) => true,
        Some(DecoderWrapper::Sequence(sequence)) => {
            sequence.get_decoders().iter().any(|decoder| joins_bytes(Some(decoder)))
        }
        _ => false,
    }
}

/// `<0xE2>`
fn is_byte_token(token: &str) -> bool {
    token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The tokens of several sources in order, each once.
pub(super) fn without_repeats(ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut unique = Vec::new();
    for id in ids {
        if !unique.contains(&id) {
            unique.push(id);
        }
    }
    unique
}
