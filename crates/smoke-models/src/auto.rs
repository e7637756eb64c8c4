//! From a checkpoint to its model.

use std::collections::BTreeMap;

use smoke_burn::Layout;
use smoke_storage::{Checkpoint, Format};

use crate::config::Config;
use crate::error::ModelError;
use crate::model::CausalLm;
use crate::{gemma, gpt_neox, gpt2, gptj, llama, mistral, mixtral, phi3, qwen, qwen3_moe};

/// Reads a checkpoint's configuration and places its weights.
pub type Place = fn(&Checkpoint, &mut Layout<'_>) -> Result<Box<dyn CausalLm>, ModelError>;

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
        let architectures: [(Format, &str, Place); 22] = [
            (Format::Safetensors, "gemma2", |checkpoint, layout| {
                Ok(Box::new(gemma::place_gemma2(checkpoint, layout)?))
            }),
            (Format::Safetensors, "gemma3", |checkpoint, layout| {
                Ok(Box::new(gemma::place_gemma3(checkpoint, layout)?))
            }),
            (Format::Safetensors, "gemma3_text", |checkpoint, layout| {
                Ok(Box::new(gemma::place_gemma3(checkpoint, layout)?))
            }),
            (Format::Safetensors, "gpt2", |checkpoint, layout| Ok(Box::new(gpt2::place(checkpoint, layout)?))),
            (Format::Safetensors, "gpt_neox", |checkpoint, layout| Ok(Box::new(gpt_neox::place(checkpoint, layout)?))),
            (Format::Safetensors, "gptj", |checkpoint, layout| Ok(Box::new(gptj::place(checkpoint, layout)?))),
            (Format::Safetensors, "llama", |checkpoint, layout| Ok(Box::new(llama::place(checkpoint, layout)?))),
            (Format::Safetensors, "mistral", |checkpoint, layout| Ok(Box::new(mistral::place(checkpoint, layout)?))),
            (Format::Safetensors, "mixtral", |checkpoint, layout| Ok(Box::new(mixtral::place(checkpoint, layout)?))),
            (Format::Safetensors, "phi3", |checkpoint, layout| Ok(Box::new(phi3::place(checkpoint, layout)?))),
            (Format::Safetensors, "qwen2", |checkpoint, layout| Ok(Box::new(qwen::place_qwen2(checkpoint, layout)?))),
            (Format::Safetensors, "qwen3", |checkpoint, layout| Ok(Box::new(qwen::place_qwen3(checkpoint, layout)?))),
            (Format::Gguf, "gemma2", |checkpoint, layout| Ok(Box::new(gemma::place_gemma2(checkpoint, layout)?))),
            (Format::Gguf, "gemma3", |checkpoint, layout| Ok(Box::new(gemma::place_gemma3(checkpoint, layout)?))),
            (Format::Gguf, "gpt2", |checkpoint, layout| Ok(Box::new(gpt2::place(checkpoint, layout)?))),
            (Format::Gguf, "gptneox", |checkpoint, layout| Ok(Box::new(gpt_neox::place(checkpoint, layout)?))),
            (Format::Gguf, "phi3", |checkpoint, layout| Ok(Box::new(phi3::place(checkpoint, layout)?))),
            (Format::Gguf, "qwen2", |checkpoint, layout| Ok(Box::new(qwen::place_qwen2(checkpoint, layout)?))),
            (Format::Gguf, "qwen3", |checkpoint, layout| Ok(Box::new(qwen::place_qwen3(checkpoint, layout)?))),
            (Format::Safetensors, "qwen3_moe", |checkpoint, layout| {
                Ok(Box::new(qwen3_moe::place(checkpoint, layout)?))
            }),
            // llama.cpp calls Mixtral a LLaMA with experts.
            (Format::Gguf, "llama", |checkpoint, layout| {
                let experts: usize = Config::of(checkpoint)?.or("num_local_experts", 0)?;
                let place = if experts > 0 { mixtral::place } else { llama::place };
                Ok(Box::new(place(checkpoint, layout)?))
            }),
            (Format::Gguf, "qwen3moe", |checkpoint, layout| Ok(Box::new(qwen3_moe::place(checkpoint, layout)?))),
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
    pub fn place(&self, checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Box<dyn CausalLm>, ModelError> {
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
