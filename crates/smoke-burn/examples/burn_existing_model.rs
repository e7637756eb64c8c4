//! Streams a Burn model that knows nothing of Smoke, from a checkpoint larger than the memory it gets.
//!
//! `cargo run -p smoke-burn --example burn_existing_model [-- cpu|wgpu]`

use burn::module::{Initializer, Module};
use burn::nn::{Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use smoke_burn::{DeviceKind, Stream, StreamOptions};

/// A user's model in plain Burn style.
#[derive(Module, Debug)]
struct Mixer {
    blocks: Vec<Block>,
    head: Linear,
}

#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    up: Linear,
    act: Gelu,
    down: Linear,
}

impl Mixer {
    fn new(device: &Device) -> Self {
        // Nothing is initialised before it is used, and streamed parameters never are.
        let linear = |from, to| LinearConfig::new(from, to).with_initializer(Initializer::Zeros).init(device);
        let block = || Block {
            norm: LayerNormConfig::new(WIDTH).init(device),
            up: linear(WIDTH, 4 * WIDTH),
            act: Gelu::new(),
            down: linear(4 * WIDTH, WIDTH),
        };
        Self { blocks: (0..BLOCKS).map(|_| block()).collect(), head: linear(WIDTH, 10) }
    }

    fn forward(&self, mut x: Tensor<2>) -> Tensor<2> {
        for block in &self.blocks {
            let inner = block.act.forward(block.up.forward(block.norm.forward(x.clone())));
            x = x + block.down.forward(inner);
        }
        self.head.forward(x)
    }
}

const WIDTH: usize = 256;
const BLOCKS: usize = 12;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let checkpoint = directory.path().join("mixer.safetensors");
    write_checkpoint(&checkpoint)?;

    let device = std::env::args().nth(1).map_or(Ok(DeviceKind::Cpu), |name| name.parse())?.open()?;
    let model = Mixer::new(&device).stream(StreamOptions::new(&checkpoint).memory("8MB".parse()?))?;
    for pass in 0..3 {
        let y = model.run(|model| model.forward(Tensor::ones([1, WIDTH], &device)))?;
        println!("pass {pass}: {:?}", y.into_data().try_to_vec::<f32>()?);
    }
    let (budget, stats) = (model.weights().streamer().budget(), model.stats());
    println!("25 MB of weights ran in {} of {} bytes", budget.peak_bytes(), budget.limit_bytes());
    println!("{:.1} % of bytes hit, {} read", 100.0 * stats.cache.byte_hit_rate(), stats.bytes_read);
    Ok(())
}

/// What PyTorch would have saved for this model: its names, and matrices as `[out, in]`.
fn write_checkpoint(path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blocks.{block}.{part}");
        tensors.push((name("norm.weight"), vec![WIDTH]));
        tensors.push((name("norm.bias"), vec![WIDTH]));
        tensors.push((name("up.weight"), vec![4 * WIDTH, WIDTH]));
        tensors.push((name("up.bias"), vec![4 * WIDTH]));
        tensors.push((name("down.weight"), vec![WIDTH, 4 * WIDTH]));
        tensors.push((name("down.bias"), vec![WIDTH]));
    }
    tensors.push(("head.weight".into(), vec![10, WIDTH]));
    tensors.push(("head.bias".into(), vec![10]));
    let values = |len: usize| (0..len).flat_map(|i| (((i * 37 % 101) as f32 - 50.0) / 1000.0).to_le_bytes());
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| values(shape.iter().product()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        view.map(|view| (name.clone(), view))
    });
    safetensors::serialize_to_file(views.collect::<Result<Vec<_>, _>>()?, None, path)?;
    Ok(())
}
