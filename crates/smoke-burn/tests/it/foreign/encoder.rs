//! A transformer encoder that classifies texts.

use burn::module::Module;
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use smoke_burn::DeviceKind;

use super::{Convention, check};

const WORDS: usize = 128;
const LENGTH: usize = 9;
const WIDTH: usize = 64;

#[derive(Module, Debug)]
pub(super) struct TextClassifier {
    pub(super) words: Embedding,
    pub(super) positions: Embedding,
    pub(super) encoder: TransformerEncoder,
    pub(super) head: Linear,
}

impl TextClassifier {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            words: EmbeddingConfig::new(WORDS, WIDTH).init(device),
            positions: EmbeddingConfig::new(LENGTH, WIDTH).init(device),
            encoder: TransformerEncoderConfig::new(WIDTH, 4 * WIDTH, 4, 4).with_dropout(0.0).init(device),
            head: LinearConfig::new(WIDTH, 5).init(device),
        }
    }

    /// Logits `[batch, class]` of words `[batch, position]`.
    pub(super) fn forward(&self, words: Tensor<2, Int>) -> Tensor<2> {
        self.classify(self.embed(words))
    }

    pub(super) fn embed(&self, words: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = words.dims();
        let positions = Tensor::arange(0..length as i64, &words.device()).unsqueeze();
        self.words.forward(words) + self.positions.forward(positions)
    }

    pub(super) fn classify(&self, embedded: Tensor<3>) -> Tensor<2> {
        let encoded = self.encoder.forward(TransformerEncoderInput::new(embedded));
        self.head.forward(encoded.mean_dim(1).squeeze_dim(1))
    }
}

/// Two texts.
pub(super) fn texts(device: &Device) -> Tensor<2, Int> {
    let words = [[3, 127, 0, 55, 55, 9, 64, 18, 2], [90, 1, 31, 7, 100, 0, 12, 77, 126]];
    Tensor::from_ints(words, device)
}

fn streamed_is_plain(kind: DeviceKind, convention: Convention) {
    let device = kind.open().unwrap();
    check(&device, TextClassifier::new, |model| model.forward(texts(&device)), convention);
}

#[test]
fn a_transformer_encoder_streams_on_the_processor() {
    streamed_is_plain(DeviceKind::Cpu, Convention::PyTorch);
}

#[test]
fn a_checkpoint_in_burns_own_layout_streams() {
    streamed_is_plain(DeviceKind::Cpu, Convention::Burn);
}

#[cfg(feature = "wgpu")]
#[test]
fn a_transformer_encoder_streams_on_wgpu() {
    streamed_is_plain(DeviceKind::Wgpu, Convention::PyTorch);
}
