//! Streams the parameters of a Burn module that knows nothing of it.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use regex::Regex;
use smoke_cache::{Budget, EvictionPolicy};
use smoke_core::ByteSize;
use smoke_predict::CyclicPredictor;
use smoke_prefetch::{StreamError, StreamStats, Streamer};
use smoke_storage::{Checkpoint, OpenError, ReaderKind, WeightSource};

use crate::layout::{Layout, LayoutError};
use crate::mapping::Mapping;
use crate::parameter::{Attach, Load};
use crate::survey::Survey;
use crate::weights::{WeightError, Weights};

/// Where a module's weights come from and how much memory they may take.
///
/// ```no_run
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Tensor};
/// use smoke_burn::{Stream, StreamOptions};
///
/// let device = Device::flex();
/// let model: Linear = LinearConfig::new(4096, 4096).init(&device);
/// let model = model.stream(StreamOptions::new("linear.safetensors").memory("70MB".parse()?))?;
/// let y = model.run(|linear| linear.forward(Tensor::<2>::ones([1, 4096], &device)))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StreamOptions {
    path: PathBuf,
    memory: Option<ByteSize>,
    reader: ReaderKind,
    renames: Vec<(String, String)>,
    keep: Vec<String>,
    burn_layout: bool,
    policy: Option<Box<dyn EvictionPolicy>>,
}

impl StreamOptions {
    /// Weights from the checkpoint at `path`: a safetensors, GGUF or PyTorch file, or a directory with a
    /// (sharded) checkpoint.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            memory: None,
            reader: ReaderKind::Auto,
            renames: Vec::new(),
            keep: Vec::new(),
            burn_layout: false,
            policy: None,
        }
    }

    /// The most bytes that weights may take at any time; half of the checkpoint unless said.
    pub fn memory(mut self, memory: ByteSize) -> Self {
        self.memory = Some(memory);
        self
    }

    /// How files are read.
    pub fn reader(mut self, reader: ReaderKind) -> Self {
        self.reader = reader;
        self
    }

    /// Renames the checkpoint's tensors to the module's paths: every match of the regular expression `from` in a name
    /// becomes `to`, where `$1` stands for the first group. Renames apply in the order in which they are added.
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.renames.push((from.into(), to.into()));
        self
    }

    /// Leaves the parameters whose path matches the regular expression `paths` as they are in the module.
    pub fn keep(mut self, paths: impl Into<String>) -> Self {
        self.keep.push(paths.into());
        self
    }

    /// Takes matrices of linear layers as `[in, out]`, as Burn saves them unless told otherwise; else they are `[out, in]`,
    /// as PyTorch saves them. The file does not tell, and a square matrix fits either way.
    pub fn burn_layout(mut self) -> Self {
        self.burn_layout = true;
        self
    }

    /// What to evict; next-use by the module's order unless said.
    pub fn policy(mut self, policy: impl EvictionPolicy + 'static) -> Self {
        self.policy = Some(Box::new(policy));
        self
    }
}

/// Why a module cannot be streamed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A tensor does not fit its parameter.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The weights cannot be streamed within the budget.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The checkpoint lacks a parameter.
    #[error(
        "parameter `{path}` has no tensor in {checkpoint}: rename a tensor to it with `StreamOptions::rename`, or keep the module's own values with `StreamOptions::keep`"
    )]
    NoTensor {
        /// The parameter's path in the module.
        path: String,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// The parameter is not made of floats.
    #[error(
        "parameter `{path}` is not a float tensor and cannot be streamed: load it before and name it in `StreamOptions::keep`"
    )]
    NotFloat {
        /// The parameter's path in the module.
        path: String,
    },
    /// Something else already computes the parameter's value, such as an adapter of low rank.
    #[error(
        "parameter `{path}` is already reparameterized and cannot be streamed: merge that with `Module::materialize`, or name the parameter in `StreamOptions::keep`"
    )]
    Reparameterized {
        /// The parameter's path in the module.
        path: String,
    },
    /// A value that the module keeps could not be loaded.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The tensor has another shape than the parameter.
    #[error(
        "parameter `{path}` has shape {expected:?}, but tensor `{name}` of {found:?} becomes {effective:?}: the checkpoint belongs to another model, or has another layout; `StreamOptions::burn_layout` is for one in Burn's own"
    )]
    Shape {
        /// The parameter's path in the module.
        path: String,
        /// The tensor's name.
        name: String,
        /// The parameter's shape.
        expected: Vec<usize>,
        /// The tensor's shape in the checkpoint.
        found: Vec<usize>,
        /// The tensor's shape after the conventions of its layout are applied.
        effective: Vec<usize>,
    },
    /// A pattern is no regular expression.
    #[error("`{pattern}` is no regular expression: {cause}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        cause: Box<regex::Error>,
    },
}

/// Streams any Burn module; implemented for all of them.
pub trait Stream: Module + Sized {
    /// Puts placeholders in the place of the module's float parameters; whenever the module uses one, its values come
    /// from the checkpoint through a cache that never exceeds the budget.
    ///
    /// The module's code is not changed and its parameters take a few bytes each. What the module reads of a
    /// parameter's shape stays true; its values read other than by [`Param::val`](burn::module::Param::val) are NaN.
    ///
    /// The running statistics of a batch norm are not parameters: they are loaded now and stay, charged to the budget on
    /// the host. As with all that Burn loads, clones of the module share them.
    ///
    /// On a device that differentiates, streamed parameters are constants: gradients pass through them to inputs and to
    /// parameters that are kept. The weights which the backward pass needs stay in memory until it has run, and the
    /// budget must hold them. [`Module::train`] would load every parameter for good; call it before.
    ///
    /// # Errors
    /// [`AttachError`] if the checkpoint does not fit the module or the budget is too small.
    fn stream(self, options: StreamOptions) -> Result<Streamed<Self>, AttachError> {
        let checkpoint = Arc::new(Checkpoint::open_with(&options.path, options.reader)?);
        let total = checkpoint.index().total_bytes();
        let budget = Budget::new(options.memory.map_or(total / 2, ByteSize::bytes));
        let patterns =
            |patterns: &[String]| patterns.iter().map(|pattern| compile(pattern)).collect::<Result<Vec<_>, _>>();
        let keep = patterns(&options.keep)?;
        let renames = options.renames.iter().map(|(from, to)| Ok((compile(from)?, to.clone())));
        let renames = renames.collect::<Result<Vec<_>, AttachError>>()?;

        let mapping = Mapping::new(checkpoint.index(), &renames, options.burn_layout);
        let layout = Layout::new(checkpoint.index(), checkpoint.alignment(), Layout::unit_bytes_for(total));
        let (layout, parameters, device) = Survey::new(mapping, layout, &keep, &options.path).of(&self)?;
        let (units, schedule) = layout.finish();
        let mut builder = Streamer::builder(checkpoint, units).budget(budget).predictor(CyclicPredictor::new(schedule));
        if let Some(policy) = options.policy {
            builder = builder.policy(policy);
        }
        let weights = Weights::new(builder.build()?, device);
        let module = self.apply_reparameterization(Attach::new(&parameters, &weights));
        let module = Load::new(&parameters, &weights).run(module)?;
        Ok(Streamed { module, weights })
    }
}

impl<M: Module> Stream for M {}

fn compile(pattern: &str) -> Result<Regex, AttachError> {
    Regex::new(pattern).map_err(|cause| AttachError::Pattern { pattern: pattern.to_owned(), cause: Box::new(cause) })
}

/// A module whose weights are streamed.
///
/// It dereferences to the module, which works as before. A weight that cannot be loaded unwinds out of the forward pass;
/// [`run`](Self::run) turns that into an error.
#[derive(Clone, Debug)]
pub struct Streamed<M> {
    module: M,
    weights: Weights,
}

impl<M> Streamed<M> {
    /// Runs `forward` on the module.
    ///
    /// # Errors
    /// [`WeightError`] if a weight could not be loaded. Panics of the module itself pass through.
    pub fn run<T>(&self, forward: impl FnOnce(&M) -> T) -> Result<T, WeightError> {
        let result = catch_unwind(AssertUnwindSafe(|| forward(&self.module)));
        self.weights.release();
        result.or_else(|panic| match panic.downcast::<WeightError>() {
            Ok(error) => Err(*error),
            Err(panic) => resume_unwind(panic),
        })
    }

    /// What was read, hit and waited for so far.
    pub fn stats(&self) -> StreamStats {
        self.weights.streamer().stats()
    }

    /// Where the weights come from: budget, statistics and controls.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The module itself, which goes on streaming.
    pub fn into_inner(self) -> M {
        self.module
    }
}

impl<M> Deref for Streamed<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.module
    }
}
