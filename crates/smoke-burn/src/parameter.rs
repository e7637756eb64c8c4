//! Parameters whose values come from a checkpoint.

use std::collections::HashMap;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::{Device, Shape, Tensor};

use crate::layout::PlacedTensor;
use crate::survey::Found;
use crate::weights::{WeightError, Weights};

/// Second pass: replaces each parameter that was found.
pub(crate) struct Attach<'a> {
    parameters: &'a HashMap<String, Found>,
    weights: &'a Weights,
}

impl<'a> Attach<'a> {
    /// Replaces `parameters`, which stand by their paths, by hooks that take values from `weights`.
    pub(crate) fn new(parameters: &'a HashMap<String, Found>, weights: &'a Weights) -> Self {
        Self { parameters, weights }
    }
}

impl Reparameterizer for Attach<'_> {
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
        let placed = Arc::clone(&found.placed);
        let source = Source { placed, transposed: found.transposed, weights: self.weights.clone() };
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

/// Third pass: loads what the module keeps by value.
///
/// A running state shows itself to visitors as a parameter and keeps only the value of what it gets back: of the second
/// pass, the placeholder's.
pub(crate) struct Load<'a> {
    parameters: &'a HashMap<String, Found>,
    weights: &'a Weights,
    path: Vec<String>,
    error: Option<WeightError>,
}

impl<'a> Load<'a> {
    /// Loads those of `parameters` that are no hooks after the second pass.
    pub(crate) fn new(parameters: &'a HashMap<String, Found>, weights: &'a Weights) -> Self {
        Self { parameters, weights, path: Vec::new(), error: None }
    }

    /// The module with its values.
    ///
    /// # Errors
    /// [`WeightError`] if one cannot be loaded.
    pub(crate) fn run<M: Module>(mut self, module: M) -> Result<M, WeightError> {
        let module = module.map(&mut self);
        self.weights.release();
        self.error.map_or(Ok(module), Err)
    }
}

impl ModuleMapper for Load<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // A placeholder in its hook has no value yet.
        if self.error.is_some() || !param.is_initialized() {
            return param;
        }
        let Some(found) = self.parameters.get(&self.path.join(".")) else {
            return param;
        };
        match self.weights.resident(&found.placed) {
            Ok(value) => Param::initialized(param.id, value),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
