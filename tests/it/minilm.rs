//! The trained encoder, all-MiniLM-L6-v2, against Transformers.

use safetensors::SafeTensors;
use smoke_runtime::models::text::{AddSpecial, SpecialTokens};
use smoke_runtime::models::{EncoderInput, Keep};
use smoke_runtime::{EmbedOptions, Length, Prompt, Runtime, TooLong};
use smoke_tests::{Goldens, asset, largest_difference, minilm};

use crate::encoders::left_padded;

const TOLERANCE: f32 = 1e-4;

fn goldens() -> Goldens {
    Goldens::read("goldens/all-MiniLM-L6-v2.safetensors")
}

fn golden_json() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(asset("goldens/all-MiniLM-L6-v2.json")).unwrap()).unwrap()
}

fn sentences() -> Vec<String> {
    let json = golden_json();
    json["sentences"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Opens with `percent` of the weights as budget.
fn open(percent: u64) -> Runtime {
    let model_bytes = Runtime::builder(minilm()).open().unwrap().plan(1).unwrap().model_bytes;
    Runtime::builder(minilm()).memory_bytes(model_bytes * percent / 100).open().unwrap()
}

#[test]
fn sentence_embeddings_equal_transformers_at_every_budget() {
    let expected = goldens().floats("embeddings");
    for percent in [100, 50, 25] {
        let runtime = open(percent);
        let embedder = runtime.embedder(EmbedOptions::default()).unwrap();
        assert_eq!((embedder.dimensions(), embedder.max_tokens()), (384, 256));
        let vectors = embedder.embed(&sentences()).unwrap();
        let difference = largest_difference(&vectors.concat(), &expected);
        assert!(difference < TOLERANCE, "at {percent} %: embeddings differ by {difference}");
        let budget = runtime.weights().streamer().budget();
        assert!(budget.peak_bytes() <= budget.limit_bytes(), "at {percent} %: {budget:?}");
    }
}

#[test]
fn hidden_states_of_a_padded_batch_equal_transformers() {
    let (goldens, runtime) = (goldens(), open(50));
    let (tokens, padding) = left_padded(&goldens.ids("input_ids"), &goldens.ids("attention_mask"), 4);
    let input = EncoderInput { tokens: &tokens, padding: &padding, segments: &[] };
    let model = runtime.model().encoder().unwrap();
    let hidden = model.encode(runtime.weights(), &input, Keep::Last).unwrap().pop().unwrap();
    let (ours, theirs) = (hidden.to_vec(), goldens.floats("last_hidden_state"));
    let row = ours.len() / 4;
    for ((ours, theirs), pad) in ours.chunks(row).zip(theirs.chunks(row)).zip(&padding) {
        let pad = pad * 384;
        assert!(largest_difference(&ours[pad..], &theirs[..row - pad]) < TOLERANCE);
    }

    // The pooler, of which there is no golden, by its definition: tanh(W · first + b).
    let pooled = model.pool(runtime.weights(), &input, &hidden).unwrap().unwrap().to_vec();
    let bytes = std::fs::read(minilm().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap().data();
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let (matrix, bias) = (floats("pooler.dense.weight"), floats("pooler.dense.bias"));
    for (pooled, theirs) in pooled.chunks(384).zip(theirs.chunks(row)) {
        let by_hand = matrix.chunks(384).zip(&bias).map(|(weights, bias)| {
            let product: f64 = weights.iter().zip(theirs).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            (product + f64::from(*bias)).tanh() as f32
        });
        assert!(largest_difference(pooled, &by_hand.collect::<Vec<_>>()) < TOLERANCE);
    }
}

#[test]
fn its_tokenizer_gives_the_golden_ids() {
    let (runtime, json) = (open(50), golden_json());
    let tokenizer = runtime.tokenizer().unwrap();
    for (text, ids) in sentences().iter().zip(json["ids"].as_array().unwrap()) {
        let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(runtime.encode(&Prompt::Raw(text.clone())).unwrap(), ids);
        // Without [CLS] and [SEP], and cut so that these stay.
        assert_eq!(tokenizer.encode(text, AddSpecial::No).unwrap(), ids[1..ids.len() - 1]);
        let cut = tokenizer.encode_at_most(text, AddSpecial::Yes, 5).unwrap();
        assert_eq!(cut, [&ids[..4], &[102]].concat());
        let decoded = tokenizer.decode(&ids, SpecialTokens::Skip).unwrap();
        assert_eq!(decoded.replace(' ', ""), text.to_lowercase().replace(' ', ""));
    }
}

#[test]
fn long_texts_are_refused_or_cut_and_lengths_are_free() {
    let runtime = open(50);
    let long = "memory ".repeat(300);
    let refused = runtime.embedder(EmbedOptions::default()).unwrap().embed(&[&long]).unwrap_err();
    assert!(refused.to_string().contains("302 tokens and the model takes 256"), "{refused}");
    let options = EmbedOptions { too_long: TooLong::Cut, length: Some(Length::Free), ..Default::default() };
    let embedder = runtime.embedder(options).unwrap();
    let vectors = embedder.embed(&[&long, &"memory ".repeat(254)]).unwrap();
    assert_eq!(vectors[0], vectors[1]);
    let length: f32 = vectors[0].iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() > 0.1, "{length}");
}
