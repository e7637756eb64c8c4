//! A convolutional network with residual connections and batch norm.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d, Relu};
use burn::tensor::{Device, Tensor};
use smoke_burn::{AttachError, DeviceKind, Stream, StreamOptions};

use super::{Convention, Unsettle, check, save, values};

const CHANNELS: usize = 48;
const SIDE: usize = 8;

#[derive(Module, Debug)]
pub(super) struct ImageClassifier {
    stem: Convolution,
    blocks: Vec<Convolution>,
    pool: MaxPool2d,
    hidden: Linear,
    act: Relu,
    pub(super) head: Linear,
}

#[derive(Module, Debug)]
struct Convolution {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Convolution {
    fn new(from: usize, device: &Device) -> Self {
        let conv = Conv2dConfig::new([from, CHANNELS], [3, 3]).with_padding(PaddingConfig2d::Same);
        Self { conv: conv.init(device), norm: BatchNormConfig::new(CHANNELS).init(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }
}

impl ImageClassifier {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            stem: Convolution::new(3, device),
            blocks: (0..4).map(|_| Convolution::new(CHANNELS, device)).collect(),
            pool: MaxPool2dConfig::new([4, 4]).with_strides([4, 4]).init(),
            hidden: LinearConfig::new(CHANNELS * 4, CHANNELS * 4).init(device),
            act: Relu::new(),
            head: LinearConfig::new(CHANNELS * 4, 10).with_bias(false).init(device),
        }
    }

    /// Logits `[batch, class]` of images `[batch, colour, row, column]`.
    pub(super) fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = self.act.forward(self.stem.forward(images));
        for block in &self.blocks {
            x = self.act.forward(block.forward(x.clone()) + x);
        }
        let x = self.pool.forward(x).flatten(1, 3);
        self.head.forward(self.act.forward(self.hidden.forward(x)))
    }
}

/// Two images of values between -1 and 1.
pub(super) fn images(device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..2 * 3 * SIDE * SIDE).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    Tensor::<1>::from_floats(values.as_slice(), device).reshape([2, 3, SIDE, SIDE])
}

#[test]
fn a_convolutional_network_streams_on_the_processor() {
    let device = DeviceKind::Cpu.open().unwrap();
    check(&device, ImageClassifier::new, |model| model.forward(images(&device)), Convention::PyTorch);
}

#[cfg(feature = "wgpu")]
#[test]
fn a_convolutional_network_streams_on_wgpu() {
    let device = DeviceKind::Wgpu.open().unwrap();
    check(&device, ImageClassifier::new, |model| model.forward(images(&device)), Convention::PyTorch);
}

#[test]
fn running_statistics_are_loaded_charged_and_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let device = DeviceKind::Cpu.open().unwrap();
    let plain = ImageClassifier::new(&device).map(&mut Unsettle(&device));
    save(&plain, Convention::PyTorch, &path);
    let streamed = ImageClassifier::new(&device).stream(StreamOptions::new(&path)).unwrap();
    let (ours, theirs) = (&streamed.blocks[2].norm, &plain.blocks[2].norm);
    assert_eq!(values(ours.running_mean.value()), values(theirs.running_mean.value()));
    assert_eq!(values(ours.running_var.value()), values(theirs.running_var.value()));
    let budget = streamed.weights().streamer().budget().clone();
    assert!(budget.used_bytes() >= (5 * 2 * CHANNELS * size_of::<f32>()) as u64, "{budget:?}");
    drop(streamed);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn statistics_that_the_checkpoint_lacks_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let device = DeviceKind::Cpu.open().unwrap();
    save(&ImageClassifier::new(&device), Convention::PyTorch, &path);
    let options = StreamOptions::new(&path).rename("running_var", "variance");
    let error = ImageClassifier::new(&device).stream(options).unwrap_err();
    assert!(matches!(&error, AttachError::NoTensor { path, .. } if path == "stem.norm.running_var"), "{error}");
}
