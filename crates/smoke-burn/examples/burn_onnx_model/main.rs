//! Streams a Burn model that burn-onnx generated from an ONNX file.
//!
//! `cargo run -p smoke-burn --example burn_onnx_model [-- cpu|wgpu]`

mod digits;

use std::path::Path;

use burn::tensor::Tensor;
use smoke_burn::{DeviceKind, Stream, StreamOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kind: DeviceKind = std::env::args().nth(1).map_or(Ok(DeviceKind::Cpu), |kind| kind.parse())?;
    let device = kind.open()?;
    // What burn-onnx wrote as burnpack, saved again as safetensors; `tests/assets/README.md` says how.
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets/onnx/digits.safetensors");

    let model = digits::Model::new(&device).stream(StreamOptions::new(weights).memory("36KiB".parse()?))?;
    let image = Tensor::arange(-32..32, &device).float().div_scalar(32.0).reshape([1, 1, 8, 8]);
    let logits = model.run(|model| model.forward(image))?;

    let budget = model.weights().streamer().budget();
    println!("logits {:.3?}", logits.into_data().try_to_vec::<f32>()?);
    println!("read {} bytes of weights; held {} at most", model.stats().bytes_read, budget.peak_bytes());
    Ok(())
}
