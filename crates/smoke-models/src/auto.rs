//! From a checkpoint to its model.

use std::collections::BTreeMap;

use smoke_burn::Layout;
use smoke_storage::{Checkpoint, Format};

use crate::bert::Bert;
use crate::config::Config;
use crate::encoder::TextEncoder;
use crate::error::ModelError;
use crate::gpt2::Gpt2;
use crate::llama::Llama;
use crate::model::{CausalLm, LmConfig};
use crate::seq2seq::Seq2Seq;
use crate::t5::T5;

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

impl Default for AutoModel {
    fn default() -> Self {
        let llama: Place = |checkpoint, layout| Ok(Model::Decoder(Box::new(Llama::place(checkpoint, layout)?)));
        let gpt2: Place = |checkpoint, layout| Ok(Model::Decoder(Box::new(Gpt2::place(checkpoint, layout)?)));
        let bert: Place = |checkpoint, layout| Ok(Model::Encoder(Box::new(Bert::place(checkpoint, layout)?)));
        let t5: Place = |checkpoint, layout| Ok(Model::EncoderDecoder(Box::new(T5::place(checkpoint, layout)?)));
        let none = Self { architectures: BTreeMap::new() };
        none.with(Format::Safetensors, "llama", llama)
            .with(Format::Gguf, "llama", llama)
            .with(Format::Safetensors, "gpt2", gpt2)
            .with(Format::Safetensors, "bert", bert)
            .with(Format::Safetensors, "t5", t5)
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
