//! Models as others write them: modules of `burn::nn` in plain Burn style, which know nothing of streaming.

#[cfg(feature = "autodiff")]
mod autodiff;
mod convnet;
mod encoder;
mod onnx;

use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Distribution, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use smoke_burn::{Stream, StreamOptions, Streamed};

/// Moves every float of a module, running statistics too, away from where it starts, and keeps variances positive.
struct Unsettle<'a>(&'a Device);

impl ModuleMapper for Unsettle<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let noise = Distribution::Uniform(0.02, 0.12);
        param.map(|value| {
            let trained = value.is_require_grad();
            let noise = Tensor::random(value.dims(), noise, self.0);
            (value * 0.75 + noise).detach().set_require_grad(trained)
        })
    }
}

/// How a checkpoint holds a module.
#[derive(Clone, Copy, PartialEq)]
enum Convention {
    /// Matrices of linear layers as `[out, in]`, norms with `weight` and `bias`.
    PyTorch,
    /// As the module has it.
    Burn,
}

/// The module's floats by name, as a checkpoint has them.
struct Collect {
    convention: Convention,
    path: Vec<String>,
    containers: Vec<String>,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let container = self.containers.iter().rev().find(|container| container.starts_with("Struct:")).unwrap();
        let mut name = self.path.join(".");
        let mut value = param.val();
        if self.convention == Convention::PyTorch {
            if container == "Struct:Linear" && D == 2 {
                value = value.transpose();
            }
            if container.ends_with("Norm") {
                name = name.replace("gamma", "weight").replace("beta", "bias");
            }
        }
        let shape = value.dims().to_vec();
        let values: Vec<f32> = value.into_data().try_to_vec().unwrap();
        self.tensors.push((name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()));
    }
}

/// Writes the module's floats to `path`; the bytes of all of them.
fn save<M: Module>(module: &M, convention: Convention, path: &Path) -> u64 {
    let mut all = Collect { convention, path: Vec::new(), containers: Vec::new(), tensors: Vec::new() };
    module.visit(&mut all);
    let views = all
        .tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
    all.tensors.iter().map(|(_, _, bytes)| bytes.len() as u64).sum()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// Fails unless `ours` is `expected` up to the order of sums.
fn assert_close(ours: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    assert!(scale > 1e-3, "an output of nothing but zeros shows nothing");
    for (i, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert!((ours - expected).abs() <= tolerance * scale, "value {i}: {ours} and not {expected}");
    }
}

/// Runs `forward` on a module that `new` makes with weights of its own, and on another one that streams those weights
/// under a budget of half of them, three times over.
fn check<M: Module, const D: usize>(
    device: &Device,
    new: impl Fn(&Device) -> M,
    forward: impl Fn(&M) -> Tensor<D>,
    convention: Convention,
) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let plain = new(device).map(&mut Unsettle(device));
    let total = save(&plain, convention, &path);
    let expected = values(forward(&plain));

    let options = StreamOptions::new(&path).memory((total / 2).to_string().parse().unwrap());
    let options = if convention == Convention::Burn { options.burn_layout() } else { options };
    let streamed = new(device).stream(options).unwrap();
    check_passes(&streamed, forward, &expected, total);
}

fn check_passes<M: Module, const D: usize>(
    streamed: &Streamed<M>,
    forward: impl Fn(&M) -> Tensor<D>,
    expected: &[f32],
    total: u64,
) {
    for _ in 0..3 {
        assert_close(&values(streamed.run(&forward).unwrap()), expected, 1e-5);
    }
    let budget = streamed.weights().streamer().budget();
    assert!(budget.limit_bytes() <= total / 2 && budget.peak_bytes() <= budget.limit_bytes(), "{budget:?}");
    let stats = streamed.stats();
    assert!(stats.bytes_read > total * 3 / 2, "three passes in half of the memory: {stats:?}");
}
