//! What a module's parameters are in a checkpoint.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor};
use regex::Regex;

use crate::attach::AttachError;
use crate::layout::{Cut, Layout, PlacedTensor};
use crate::mapping::Mapping;

/// A parameter that was found in the checkpoint.
pub(crate) struct Found {
    /// Where its bytes lie.
    pub(crate) placed: Arc<PlacedTensor>,
    /// Whether the module sees the tensor with its last two dimensions swapped.
    pub(crate) transposed: bool,
    /// The shape that the module sees.
    pub(crate) shape: Vec<usize>,
}

/// First pass: finds every parameter's tensor, in the module's order.
pub(crate) struct Survey<'a> {
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

impl<'a> Survey<'a> {
    /// Looks in `checkpoint` by `mapping` for all parameters but those whose path matches `keep`.
    pub(crate) fn new(mapping: Mapping, layout: Layout<'a>, keep: &'a [Regex], checkpoint: &'a Path) -> Self {
        Self {
            mapping,
            layout,
            keep,
            checkpoint,
            path: Vec::new(),
            containers: Vec::new(),
            parameters: HashMap::new(),
            device: None,
            error: None,
        }
    }

    /// Places the module's parameters; with them, by path, and the device that they are on.
    ///
    /// # Errors
    /// [`AttachError`] for the first parameter that cannot be streamed.
    pub(crate) fn of<M: Module>(
        mut self,
        module: &M,
    ) -> Result<(Layout<'a>, HashMap<String, Found>, Device), AttachError> {
        module.visit(&mut self);
        match self.error {
            Some(error) => Err(error),
            None => Ok((self.layout, self.parameters, self.device.unwrap_or_default())),
        }
    }

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
        let transposed = self.mapping.is_transposed(&path, &container, stored.len());
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
        let path = self.path.join(".");
        if container_type == "Reparameterization" && self.parameters.contains_key(&path) {
            self.error.get_or_insert(AttachError::Reparameterized { path });
        }
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
