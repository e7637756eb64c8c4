//! Streams the parameters of a Burn module that knows nothing of it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::{Bool, Device, Int, Shape, Tensor};
use regex::Regex;
use smoke_cache::{Budget, EvictionPolicy};
use smoke_core::ByteSize;
use smoke_predict::CyclicPredictor;
use smoke_prefetch::{StreamError, StreamStats, Streamer};
use smoke_storage::{Checkpoint, OpenError, ReaderKind, WeightSource};

use crate::layout::{Cut, Layout, LayoutError, PlacedTensor};
use crate::mapping::{Mapping, is_transposed};
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
    /// The tensor has another shape than the parameter.
    #[error("parameter `{path}` has shape {expected:?}, but tensor `{name}` of {found:?} becomes {effective:?}")]
    Shape {
        /// The parameter's path in the module.
        path: String,
        /// The tensor's name.
        name: String,
        /// The parameter's shape.
        expected: Vec<usize>,
        /// The tensor's shape in the checkpoint.
        found: Vec<usize>,
        /// The tensor's shape after PyTorch's conventions are applied.
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
    /// parameter's shape stays true; its values read other than by [`Param::val`] are NaN.
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

        let mut survey = Survey {
            mapping: Mapping::new(checkpoint.index(), &renames),
            layout: Layout::new(checkpoint.index(), checkpoint.alignment(), Layout::unit_bytes_for(total)),
            keep: &keep,
            checkpoint: &options.path,
            path: Vec::new(),
            containers: Vec::new(),
            parameters: HashMap::new(),
            device: None,
            error: None,
        };
        self.visit(&mut survey);
        if let Some(error) = survey.error {
            return Err(error);
        }
        let Survey { layout, parameters, device, .. } = survey;
        let (units, schedule) = layout.finish();
        let mut builder = Streamer::builder(checkpoint, units).budget(budget).predictor(CyclicPredictor::new(schedule));
        if let Some(policy) = options.policy {
            builder = builder.policy(policy);
        }
        let weights = Weights::new(builder.build()?, device.unwrap_or_default());
        let module = self.apply_reparameterization(Attach { parameters, weights: weights.clone() });
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

/// A parameter that was found in the checkpoint.
struct Found {
    placed: Arc<PlacedTensor>,
    transposed: bool,
    shape: Vec<usize>,
}

/// First pass: finds every parameter's tensor, in the module's order.
struct Survey<'a> {
    mapping: Mapping,
    layout: Layout<'a>,
    keep: &'a [Regex],
    checkpoint: &'a Path,
    path: Vec<String>,
    containers: Vec<String>,
    parameters: HashMap<String, Found>,
    device: Option<Device>,
    error: Option<AttachError>,
}

impl Survey<'_> {
    /// The type of the innermost module, past the vectors and options that hold it.
    fn container(&self) -> &str {
        let named = |container: &&String| container.starts_with("Struct:") || container.starts_with("Enum:");
        self.containers.iter().rev().find(named).map_or("", String::as_str)
    }

    fn is_kept(&self, path: &str) -> bool {
        self.keep.iter().any(|pattern| pattern.is_match(path))
    }

    fn find<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<(), AttachError> {
        let path = self.path.join(".");
        if self.is_kept(&path) {
            return Ok(());
        }
        let container = self.container().to_owned();
        let Some(name) = self.mapping.find(&path, &container).map(str::to_owned) else {
            return Err(AttachError::NoTensor { path, checkpoint: self.checkpoint.to_owned() });
        };
        let stored = self.layout.index().get(&name).map(|info| info.shape.as_slice()).unwrap_or_default();
        let stored: Vec<usize> = stored.iter().map(|&n| n as usize).collect();
        let transposed = is_transposed(&path, &container, stored.len());
        let mut shape = stored.clone();
        if transposed {
            shape.reverse();
        }
        let expected = effective_shape(param);
        if expected != shape {
            return Err(AttachError::Shape { path, name, expected, found: stored, effective: shape });
        }
        let placed = self.layout.place(&name, &stored, Cut::Whole)?;
        self.device.get_or_insert_with(|| param.lazy_device());
        self.parameters.insert(path, Found { placed, transposed, shape });
        Ok(())
    }

    fn refuse(&mut self) {
        let path = self.path.join(".");
        if !self.is_kept(&path) && self.mapping.find(&path, self.container()).is_some() {
            self.error.get_or_insert(AttachError::NotFloat { path });
        }
    }
}

/// The shape that the module sees. A linear layer of column layout keeps its matrix transposed until it is loaded, which
/// only its load mapper knows: a stand-in of four bytes is sent through it.
fn effective_shape<const D: usize>(param: &Param<Tensor<D>>) -> Vec<usize> {
    let shape = param.lazy_shape();
    let stand_in = Tensor::<1>::zeros([1], &param.lazy_device()).reshape([1; D]).expand(shape);
    param.clone().transform_for_load(stand_in, param.id).lazy_shape().to_vec()
}

impl ModuleVisitor for Survey<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.error.is_none() {
            self.error = self.find(param).err();
        }
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        self.refuse();
    }

    fn visit_bool<const D: usize>(&mut self, _param: &Param<Tensor<D, Bool>>) {
        self.refuse();
    }
}

/// Second pass: replaces each parameter that was found.
struct Attach {
    parameters: HashMap<String, Found>,
    weights: Weights,
}

impl Reparameterizer for Attach {
    type Reparam = StreamedParameter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<StreamedParameter>) {
        let Some(found) = self.parameters.get(path) else {
            return (param, None);
        };
        let placeholder = placeholder(param.id, &found.shape, param.lazy_device());
        let source =
            Source { placed: Arc::clone(&found.placed), transposed: found.transposed, weights: self.weights.clone() };
        (placeholder, Some(StreamedParameter { source }))
    }
}

/// A parameter of the true shape that holds one number, not a number: whoever computes with it by mistake notices.
fn placeholder<const D: usize>(id: ParamId, shape: &[usize], device: Device) -> Param<Tensor<D>> {
    let shape = Shape::from(shape.to_vec());
    let expanded = shape.clone();
    let init = move |device: &Device, _require_grad: bool| Tensor::<D>::full([1; D], f32::NAN, device).expand(expanded);
    Param::uninitialized(id, init, device, false, shape)
}

/// Replaces a parameter's value by its tensor in the checkpoint whenever it is used.
#[derive(Module, Debug)]
pub struct StreamedParameter {
    #[module(skip)]
    source: Source,
}

#[derive(Clone)]
struct Source {
    placed: Arc<PlacedTensor>,
    transposed: bool,
    weights: Weights,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.placed.name)
    }
}

impl Reparameterization for StreamedParameter {
    const NAME: &'static str = "streamed";

    fn apply<const D: usize>(&self, _base: Tensor<D>) -> Tensor<D> {
        let source = &self.source;
        match source.weights.tensor::<D>(&source.placed) {
            Ok(value) if source.transposed => value.swap_dims(D - 2, D - 1),
            Ok(value) => value,
            // The hook cannot return an error; `Streamed::run` catches this one.
            Err(error) => resume_unwind(Box::new(error)),
        }
    }
}
