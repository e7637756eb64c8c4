//! A checkpoint as the architectures see it: options and tensors by the names that Transformers gives them.

use serde_json::Value;
use smoke_burn::layers::{Embedding, Linear};
use smoke_burn::{Layout, LayoutError};
use smoke_storage::Checkpoint;

use crate::config::Config;
use crate::error::ModelError;
use crate::parts::{LayerNorm, RmsNorm};

/// A checkpoint's configuration, and the layout that its tensors are placed in, for code that builds an architecture.
///
/// Names are Transformers', without the prefix that a checkpoint puts before them; those of GGUF files are translated.
#[derive(Debug)]
pub struct Blueprint<'a, 'i> {
    checkpoint: &'a Checkpoint,
    config: Config,
    layout: &'a mut Layout<'i>,
    names: Names,
    unit_norms: bool,
}

/// Whether a linear layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// It has one.
    Added,
    /// It has none.
    Absent,
}

impl Bias {
    /// What an option of the configuration says.
    pub fn when(added: bool) -> Self {
        if added { Self::Added } else { Self::Absent }
    }
}

#[derive(Debug)]
enum Names {
    Transformers { prefix: String },
    Gguf { architecture: String },
}

impl Names {
    fn in_file(&self, name: &str) -> String {
        match self {
            Self::Transformers { prefix } => format!("{prefix}{name}"),
            Self::Gguf { architecture } => crate::gguf::module(name, architecture).unwrap_or_else(|| name.to_owned()),
        }
    }
}

impl<'a, 'i> Blueprint<'a, 'i> {
    /// Reads the configuration, and finds out which of `prefixes` stands before names: that under which `last_norm` is
    /// there, which every checkpoint has, or none where the bare decoder was saved.
    ///
    /// # Errors
    /// [`ModelError`] if the configuration is absent or invalid.
    pub fn open(
        checkpoint: &'a Checkpoint,
        layout: &'a mut Layout<'i>,
        last_norm: &str,
        prefixes: &[&str],
    ) -> Result<Self, ModelError> {
        let config = Config::of(checkpoint)?;
        // Models that also see pictures keep the options of their language part apart.
        let config = config.section("text_config")?.unwrap_or(config);
        let names = if config.is_gguf() {
            Names::Gguf { architecture: config.required("general.architecture")? }
        } else {
            let there = |prefix: &&&str| layout.index().get(&format!("{prefix}{last_norm}.weight")).is_some();
            Names::Transformers { prefix: prefixes.iter().find(there).map_or("", |prefix| prefix).to_owned() }
        };
        Ok(Self { checkpoint, config, layout, names, unit_norms: false })
    }

    /// Adds what Transformers assumes where a `config.json` is silent; see [`Config::assume`].
    pub fn assume<const N: usize>(self, defaults: [(&str, Value); N]) -> Self {
        Self { config: self.config.assume(defaults), ..self }
    }

    /// Root mean square norms have one added to their stored scales, as Gemma's; in GGUF files it has been added.
    pub fn with_unit_norms(self) -> Self {
        Self { unit_norms: !self.config.is_gguf(), ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.checkpoint
    }

    /// The layout, for weights that have no method here.
    pub fn layout(&mut self) -> &mut Layout<'i> {
        self.layout
    }

    /// What the checkpoint calls a module or tensor.
    pub fn name(&self, name: &str) -> String {
        self.names.in_file(name)
    }

    /// Finds the table `name.weight`, a row for each token or position.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn embedding(&self, name: &str, rows: usize, columns: usize) -> Result<Embedding, LayoutError> {
        Embedding::find(self.layout, &format!("{}.weight", self.name(name)), rows, columns)
    }

    /// Places a linear layer whose matrix is `[outputs, inputs]`.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensors.
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Linear, LayoutError> {
        let linear = Linear::place(self.layout, &self.name(name), inputs, outputs)?;
        if bias == Bias::Added { linear.with_bias(self.layout) } else { Ok(linear) }
    }

    /// Places a norm of `len` elements; its epsilon is the key `rms_norm_eps`.
    ///
    /// # Errors
    /// [`ModelError`] if the checkpoint has no such tensor.
    pub fn rms_norm(&mut self, name: &str, len: usize) -> Result<RmsNorm, ModelError> {
        let epsilon = self.config.or("rms_norm_eps", 1e-6)?;
        let norm = RmsNorm::place(self.layout, &self.name(name), len, epsilon)?;
        Ok(if self.unit_norms { norm.with_unit_offset() } else { norm })
    }

    /// Places a norm of `len` elements with scale and bias.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensors.
    pub fn layer_norm(&mut self, name: &str, len: usize, epsilon: f64) -> Result<LayerNorm, LayoutError> {
        LayerNorm::place(self.layout, &self.name(name), len, epsilon)
    }

    /// Finds the table of tokens and places the output head, which comes last.
    ///
    /// As in Transformers: where embeddings are tied, one table serves both unless the checkpoint has two; where they are
    /// not, both must be there.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint lacks what it needs.
    pub fn embedding_and_head(
        &mut self,
        [embedding, head]: [&str; 2],
        [vocabulary, hidden]: [usize; 2],
        bias: Bias,
    ) -> Result<(Embedding, Linear), ModelError> {
        let tied = self.config.or("tie_word_embeddings", false)?;
        let (table, head) = (self.name(embedding), self.head(head));
        let has = |module: &str| self.layout.index().get(&format!("{module}.weight")).is_some();
        let (table, head) = match (tied, has(&table), has(&head)) {
            (true, true, false) => (table.clone(), table),
            (true, false, true) => (head.clone(), head),
            _ => (table, head),
        };
        let embedding = Embedding::find(self.layout, &format!("{table}.weight"), vocabulary, hidden)?;
        let head = Linear::place(self.layout, &head, hidden, vocabulary)?;
        let head = if bias == Bias::Added { head.with_bias(self.layout)? } else { head };
        Ok((embedding.shared_with(&head), head))
    }

    /// The head stands beside the decoder, not inside it.
    fn head(&self, name: &str) -> String {
        match &self.names {
            Names::Gguf { .. } => self.name(name),
            Names::Transformers { prefix } => {
                let outer = if prefix.starts_with("language_model.") { "language_model." } else { "" };
                format!("{outer}{name}")
            }
        }
    }
}
