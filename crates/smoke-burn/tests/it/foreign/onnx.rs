//! A model that burn-onnx generated, against what ONNX's reference evaluator computes with the ONNX file.

#[path = "../../../examples/burn_onnx_model/digits.rs"]
mod digits;

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use safetensors::SafeTensors;
use smoke_burn::{DeviceKind, Stream, StreamOptions};

use super::check_passes;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets/onnx").join(name)
}

/// A tensor of the goldens.
fn golden(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(asset("goldens.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn streamed_is_onnx(kind: DeviceKind) {
    let device = kind.open().unwrap();
    let path = asset("digits.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let total: usize =
        SafeTensors::deserialize(&bytes).unwrap().tensors().iter().map(|(_, tensor)| tensor.data().len()).sum();
    let options = StreamOptions::new(&path).memory((total / 2).to_string().parse().unwrap());
    let model = digits::Model::new(&device).stream(options).unwrap();
    let image = Tensor::<1>::from_floats(golden("image").as_slice(), &device).reshape([3, 1, 8, 8]);
    check_passes(&model, |model| model.forward(image.clone()), &golden("logits"), total as u64);
}

#[test]
fn a_model_from_onnx_streams_on_the_processor() {
    streamed_is_onnx(DeviceKind::Cpu);
}

#[cfg(feature = "wgpu")]
#[test]
fn a_model_from_onnx_streams_on_wgpu() {
    streamed_is_onnx(DeviceKind::Wgpu);
}
