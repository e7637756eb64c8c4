//! From a checkpoint to its model.

use std::collections::BTreeMap;

use smoke_burn::Layout;
use smoke_storage::{Checkpoint, Format};

use crate::bert::Bert;
use crate::config::Config;
use crate::decoder::Decoder;
use crate::encoder::TextEncoder;
use crate::error::ModelError;
use crate::model::{CausalLm, LmConfig};
use crate::seq2seq::Seq2Seq;
use crate::t5::T5;
use crate::{gemma, gpt_neox, gpt2, gptj, llama, mistral, mixtral, phi3, qwen, qwen3_moe};

/// Reads a checkpoint's configuration and places its weights.
pub type Place = fn(&Checkpoint, &mut Layout<'_>) -> Result<Model, ModelError>;

/// What a checkpoint is.
#[derive(Debug)]
#[non_exhaustive]
pub enum Model {
    /// It goes on with a text.
    Decoder(Box<dyn CausalLm>),
    /// It turns a text into features.
    Encoder(Box<dyn TextEncoder>),
    /// It reads one text and writes another.
    EncoderDecoder(Box<dyn Seq2Seq>),
}

impl Model {
    /// The sizes that callers plan by: of an encoder–decoder model those of the decoder.
    pub fn config(&self) -> &LmConfig {
        match self {
            Self::Decoder(model) => model.config(),
            Self::Encoder(model) => model.config(),
            Self::EncoderDecoder(model) => model.decoder(),
        }
    }

    /// The model, if it is a decoder.
    ///
    /// # Errors
    /// [`ModelError::Kind`] if it is of another kind.
    pub fn decoder(&self) -> Result<&dyn CausalLm, ModelError> {
        if let Self::Decoder(model) = self { Ok(&**model) } else { Err(self.other_than("decoder-only language model")) }
    }

    /// The model, if it is an encoder.
    ///
    /// # Errors
    /// [`ModelError::Kind`] if it is of another kind.
    pub fn encoder(&self) -> Result<&dyn TextEncoder, ModelError> {
        if let Self::Encoder(model) = self { Ok(&**model) } else { Err(self.other_than("text encoder")) }
    }

    /// The model, if it is an encoder–decoder model.
    ///
    /// # Errors
    /// [`ModelError::Kind`] if it is of another kind.
    pub fn encoder_decoder(&self) -> Result<&dyn Seq2Seq, ModelError> {
        if let Self::EncoderDecoder(model) = self {
            Ok(&**model)
        } else {
            Err(self.other_than("encoder–decoder model"))
        }
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decoder(_) => "decoder-only language model",
            Self::Encoder(_) => "text encoder",
            Self::EncoderDecoder(_) => "encoder–decoder model",
        }
    }

    fn other_than(&self, wanted: &'static str) -> ModelError {
        ModelError::Kind { architecture: self.config().architecture, kind: self.kind(), wanted }
    }
}

/// The architectures by name: `model_type` in `config.json`, `general.architecture` in a GGUF file.
///
/// [`Default`] knows those of this crate; add your own with [`with`](Self::with).
#[derive(Clone, Debug)]
pub struct AutoModel {
    architectures: BTreeMap<(Description, String), Place>,
}

/// Where a checkpoint says which architecture it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Description {
    ConfigJson,
    Gguf,
}

impl From<Format> for Description {
    fn from(format: Format) -> Self {
        if format == Format::Gguf { Self::Gguf } else { Self::ConfigJson }
    }
}

/// How a decoder is placed, from the function that does it.
macro_rules! decoder {
    ($place:path) => {
        |checkpoint, layout| Ok(Model::Decoder(Box::new($place(checkpoint, layout)?)))
    };
}

/// llama.cpp calls Mixtral a LLaMA with experts.
fn llama_of_gguf(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let experts: usize = Config::of(checkpoint)?.or("num_local_experts", 0)?;
    if experts > 0 { mixtral::place(checkpoint, layout) } else { llama::place(checkpoint, layout) }
}

impl Default for AutoModel {
    fn default() -> Self {
        let bert: Place = |checkpoint, layout| Ok(Model::Encoder(Box::new(Bert::place(checkpoint, layout)?)));
        let t5: Place = |checkpoint, layout| Ok(Model::EncoderDecoder(Box::new(T5::place(checkpoint, layout)?)));
        let architectures = [
            (Format::Safetensors, "bert", bert),
            (Format::Safetensors, "gemma2", decoder!(gemma::place_gemma2)),
            (Format::Safetensors, "gemma3", decoder!(gemma::place_gemma3)),
            (Format::Safetensors, "gemma3_text", decoder!(gemma::place_gemma3)),
            (Format::Safetensors, "gpt2", decoder!(gpt2::place)),
            (Format::Safetensors, "gpt_neox", decoder!(gpt_neox::place)),
            (Format::Safetensors, "gptj", decoder!(gptj::place)),
            (Format::Safetensors, "llama", decoder!(llama::place)),
            (Format::Safetensors, "mistral", decoder!(mistral::place)),
            (Format::Safetensors, "mixtral", decoder!(mixtral::place)),
            (Format::Safetensors, "phi3", decoder!(phi3::place)),
            (Format::Safetensors, "qwen2", decoder!(qwen::place_qwen2)),
            (Format::Safetensors, "qwen3", decoder!(qwen::place_qwen3)),
            (Format::Safetensors, "qwen3_moe", decoder!(qwen3_moe::place)),
            (Format::Safetensors, "t5", t5),
            (Format::Gguf, "gemma2", decoder!(gemma::place_gemma2)),
            (Format::Gguf, "gemma3", decoder!(gemma::place_gemma3)),
            (Format::Gguf, "gpt2", decoder!(gpt2::place)),
            (Format::Gguf, "gptneox", decoder!(gpt_neox::place)),
            (Format::Gguf, "llama", decoder!(llama_of_gguf)),
            (Format::Gguf, "phi3", decoder!(phi3::place)),
            (Format::Gguf, "qwen2", decoder!(qwen::place_qwen2)),
            (Format::Gguf, "qwen3", decoder!(qwen::place_qwen3)),
            (Format::Gguf, "qwen3moe", decoder!(qwen3_moe::place)),
        ];
        let none = Self { architectures: BTreeMap::new() };
        architectures.into_iter().fold(none, |known, (format, name, place)| known.with(format, name, place))
    }
}

impl AutoModel {
    /// Adds an architecture, or replaces the one of that name. It is known in all formats that are described as `format`
    /// is: GGUF in its files, all others in `config.json`.
    pub fn with(mut self, format: Format, name: &str, place: Place) -> Self {
        self.architectures.insert((format.into(), name.to_owned()), place);
        self
    }

    /// Builds the checkpoint's model and places its weights in `layout`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] if no architecture of that name is known; else what building it says.
    pub fn place(&self, checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Model, ModelError> {
        let description = Description::from(checkpoint.metadata().format);
        let name: String = match Config::of_gguf(checkpoint) {
            Some(gguf) => gguf.required("general.architecture")?,
            None => Config::beside(checkpoint)?.required("model_type")?,
        };
        let Some(place) = self.architectures.get(&(description, name.clone())) else {
            let known = self.architectures.keys().filter(|(of, _)| *of == description).map(|(_, name)| name.as_str());
            return Err(ModelError::unsupported("architecture", &name, known.collect::<Vec<_>>().join(", ")));
        };
        place(checkpoint, layout)
    }
}
