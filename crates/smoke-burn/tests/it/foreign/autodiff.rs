//! Training goes on as before: streaming changes one module and not its type, and gradients pass through it.

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Gradients, Tensor};
use smoke_burn::{DeviceKind, Stream, StreamOptions, Streamed, WeightError};

use super::convnet::{ImageClassifier, images};
use super::encoder::{TextClassifier, texts};
use super::{Convention, Unsettle, assert_close, save, values};

/// A module with trainable weights, and one of the same type that keeps its head and streams the rest of these weights.
fn pair<M: Module>(
    new: impl Fn(&Device) -> M,
    device: &Device,
    memory: impl Fn(u64) -> u64,
    head: impl Fn(&mut M) -> &mut Linear,
) -> (M, Streamed<M>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let mut plain = new(device).map(&mut Unsettle(device));
    let total = save(&plain, Convention::PyTorch, &path);
    let mut other = new(device);
    *head(&mut other) = head(&mut plain).clone();
    let options = StreamOptions::new(&path).memory(memory(total).to_string().parse().unwrap()).keep("^head");
    (plain, other.stream(options).unwrap(), directory)
}

fn gradient<const D: usize>(param: &Param<Tensor<D>>, gradients: &Gradients) -> Vec<f32> {
    values(param.val().grad(gradients).unwrap())
}

fn autodiff() -> Device {
    DeviceKind::Cpu.open().unwrap().autodiff()
}

#[test]
fn gradients_pass_through_streamed_layers_to_inputs_and_to_the_head() {
    let device = autodiff();
    let (plain, streamed, _directory) = pair(TextClassifier::new, &device, |total| 2 * total, |model| &mut model.head);
    let embedded = plain.embed(texts(&device)).detach().require_grad();
    let loss = |logits: Tensor<2>| (logits.clone() * logits).mean();

    let gradients = loss(plain.classify(embedded.clone())).backward();
    let expected = values(embedded.grad(&gradients).unwrap());
    let expected_head = gradient(&plain.head.weight, &gradients);
    assert!(plain.encoder.layers[0].mha.query.weight.val().grad(&gradients).is_some(), "the type itself still trains");

    let gradients = streamed.run(|model| loss(model.classify(embedded.clone())).backward()).unwrap();
    assert_close(&values(embedded.grad(&gradients).unwrap()), &expected, 1e-4);
    assert_close(&gradient(&streamed.head.weight, &gradients), &expected_head, 1e-4);
    assert!(streamed.encoder.layers[0].mha.query.weight.val().grad(&gradients).is_none(), "a constant has no gradient");
}

#[test]
fn a_head_on_a_streamed_convolutional_network_trains_in_half_of_the_memory() {
    let device = autodiff();
    let (plain, streamed, _directory) = pair(ImageClassifier::new, &device, |total| total / 2, |model| &mut model.head);
    let loss = |model: &ImageClassifier| {
        let logits = model.forward(images(&device));
        (logits.clone() * logits).mean()
    };
    let expected = gradient(&plain.head.weight, &loss(&plain).backward());
    // No gradient goes below the head, so the backward pass keeps none of the weights below.
    let gradients = streamed.run(|model| loss(model).backward()).unwrap();
    assert_close(&gradient(&streamed.head.weight, &gradients), &expected, 1e-4);
    let budget = streamed.weights().streamer().budget();
    assert!(budget.peak_bytes() <= budget.limit_bytes(), "{budget:?}");
}

#[test]
fn a_backward_pass_that_needs_more_weights_than_fit_is_an_error() {
    let device = autodiff();
    let (plain, streamed, _directory) = pair(TextClassifier::new, &device, |total| total / 2, |model| &mut model.head);
    let embedded = plain.embed(texts(&device)).detach().require_grad();
    let error = streamed.run(|model| model.classify(embedded).sum().backward()).map(drop).unwrap_err();
    let WeightError::Stream { name, cause } = &error else { panic!("{error}") };
    assert!(name.starts_with("encoder.layers"), "{name}");
    assert!(cause.to_string().contains("room"), "{cause}");
}

#[test]
fn a_module_that_only_streams_has_nothing_to_train() {
    let device = autodiff();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let model = LinearConfig::new(64, 64).init(&device);
    let total = save(&model, Convention::PyTorch, &path);
    let options = StreamOptions::new(&path).memory((2 * total).to_string().parse().unwrap());
    let streamed = model.stream(options).unwrap();
    let output = streamed.run(|linear| linear.forward(Tensor::<2>::ones([1, 64], &device))).unwrap();
    assert!(!output.is_tracked());
}
