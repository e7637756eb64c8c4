//! The tiny BERT against Transformers: hidden states, scores of masked words and a padded batch, at every budget.

use smoke_runtime::models::text::SpecialTokens;
use smoke_runtime::models::{EncoderInput, Keep};
use smoke_runtime::{EmbedOptions, GenerateOptions, Prompt, Runtime, RuntimeError, TooLong};
use smoke_tests::{Goldens, asset, largest_difference};

/// The largest difference allowed.
const TOLERANCE: f32 = 1e-4;

/// Opens with `percent` of the model's bytes as budget.
fn open(name: &str, percent: u64) -> Runtime {
    let path = asset(name);
    let model_bytes = Runtime::builder(&path).open().unwrap().plan(1).unwrap().model_bytes;
    Runtime::builder(&path).memory_bytes(model_bytes * percent / 100).open().unwrap()
}

fn goldens() -> Goldens {
    Goldens::read("tiny/bert/goldens.safetensors")
}

/// A batch that Transformers had padded on the right, with its padding on the left, and how much of it each row has.
pub(crate) fn left_padded(ids: &[u32], mask: &[u32], rows: usize) -> (Vec<u32>, Vec<usize>) {
    let row_len = ids.len() / rows;
    let padding: Vec<usize> = mask.chunks(row_len).map(|row| row.iter().filter(|&&seen| seen == 0).count()).collect();
    assert!(padding.iter().any(|&pad| pad > 0), "the golden batch is padded");
    let mut ids = ids.to_vec();
    for (row, &pad) in ids.chunks_mut(row_len).zip(&padding) {
        row.rotate_right(pad);
    }
    (ids, padding)
}

/// The largest difference among tokens that are no padding: ours is padded on the left, theirs on the right.
fn difference_without_padding(ours: &[f32], theirs: &[f32], padding: &[usize], features: usize) -> f32 {
    let row = ours.len() / padding.len();
    let rows = ours.chunks(row).zip(theirs.chunks(row)).zip(padding);
    let differences = rows.map(|((ours, theirs), pad)| {
        let pad = pad * features;
        largest_difference(&ours[pad..], &theirs[..row - pad])
    });
    differences.fold(0.0, f32::max)
}

pub(crate) fn check_bert(runtime: &Runtime, name: &str) {
    let goldens = goldens();
    let (weights, model) = (runtime.weights(), runtime.model().encoder().unwrap());
    let (tokens, segments) = (goldens.ids("input_ids"), goldens.ids("token_type_ids"));
    assert!(segments.contains(&1), "the golden text has two segments");
    let input = EncoderInput { tokens: &tokens, padding: &[0], segments: &segments };
    let states = model.encode(weights, &input, Keep::All).unwrap();
    let logits = model.masked_logits(weights, states.last().unwrap()).unwrap().unwrap().to_vec();
    let states: Vec<f32> = states.iter().flat_map(|x| x.to_vec()).collect();
    let difference = largest_difference(&states, &goldens.floats("hidden_states"));
    assert!(difference < TOLERANCE, "{name}: hidden states differ by {difference}");
    let difference = largest_difference(&logits, &goldens.floats("logits"));
    assert!(difference < TOLERANCE, "{name}: logits differ by {difference}");

    let (tokens, padding) = left_padded(&goldens.ids("batch_input_ids"), &goldens.ids("batch_attention_mask"), 2);
    let input = EncoderInput { tokens: &tokens, padding: &padding, segments: &[] };
    let hidden = model.encode(weights, &input, Keep::Last).unwrap().pop().unwrap();
    let logits = model.masked_logits(weights, &hidden).unwrap().unwrap().to_vec();
    for (what, ours, theirs, features) in [
        ("hidden states", hidden.to_vec(), goldens.floats("batch_last_hidden_state"), runtime.config().hidden),
        ("logits", logits, goldens.floats("batch_logits"), runtime.config().vocabulary),
    ] {
        let difference = difference_without_padding(&ours, &theirs, &padding, features);
        assert!(difference < TOLERANCE, "{name}: {what} of the batch differ by {difference}");
    }
    let budget = weights.streamer().budget();
    assert!(budget.peak_bytes() <= budget.limit_bytes(), "{name}: {budget:?}");
}

#[test]
fn bert_equals_transformers_at_every_budget() {
    for percent in [100, 50, 25] {
        check_bert(&open("tiny/bert", percent), &format!("bert at {percent} %"));
    }
}

#[test]
fn embeddings_are_the_mean_of_the_goldens_and_the_head_is_not_read_for_them() {
    let goldens = goldens();
    let hidden = goldens.floats("batch_last_hidden_state");
    let features = 64;
    let (ids, mask) = (goldens.ids("batch_input_ids"), goldens.ids("batch_attention_mask"));
    let rows = ids.chunks(17).zip(mask.chunks(17)).zip(hidden.chunks(17 * features));
    let texts_and_means = rows.map(|((ids, mask), hidden)| {
        let len = mask.iter().filter(|&&seen| seen == 1).count();
        let mean: Vec<f32> = (0..features)
            .map(|feature| (0..len).map(|token| hidden[token * features + feature]).sum::<f32>() / len as f32)
            .collect();
        (ids[..len].to_vec(), mean)
    });
    for percent in [100, 50, 25] {
        let runtime = open("tiny/bert", percent);
        let embedder = runtime.embedder(EmbedOptions::default()).unwrap();
        let (texts, means): (Vec<_>, Vec<_>) = texts_and_means.clone().unzip();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let vectors = embedder.embed_tokens(&texts).unwrap();
        assert!(largest_difference(&vectors.concat(), &means.concat()) < TOLERANCE, "at {percent} %");
        let streamer = runtime.weights().streamer();
        assert!(streamer.budget().peak_bytes() <= streamer.budget().limit_bytes(), "{:?}", streamer.budget());
        // The head, which is as large as the table of words, lies in the last units.
        let cycle_bytes = runtime.plan(17).unwrap().pass_bytes;
        assert!(cycle_bytes + 80_000 < streamer.units().total_buffer_bytes());
        if percent == 100 {
            assert!(streamer.stats().bytes_read < cycle_bytes + 80_000, "{:?}", streamer.stats());
        }
    }
}

#[test]
fn a_batch_may_have_any_order_and_any_size() {
    let runtime = open("tiny/bert", 50);
    let embedder = runtime.embedder(EmbedOptions::default()).unwrap();
    let texts: Vec<String> = (0..150).map(|i| "the memory of the lazy dog ".repeat(1 + i * 7 % 4)).collect();
    let together = embedder.embed(&texts).unwrap();
    assert_eq!(together.len(), texts.len());
    for place in [0, 1, 2, 3, 77, 149] {
        let alone = embedder.embed(&texts[place..=place]).unwrap();
        assert!(largest_difference(&together[place], &alone[0]) < 1e-5, "text {place}");
    }
    let budget = runtime.weights().streamer().budget();
    assert!(budget.peak_bytes() <= budget.limit_bytes(), "{budget:?}");
}

#[test]
fn what_a_model_cannot_do_is_said() {
    let bert = open("tiny/bert", 100);
    let error = bert.generate(Prompt::Tokens(vec![5]), GenerateOptions::default()).unwrap_err();
    assert!(matches!(error, RuntimeError::NoText { architecture: "bert", .. }), "{error}");
    assert!(error.to_string().contains("smoke embed"), "{error}");
    let llama = open("tiny/llama", 100);
    let error = llama.embedder(EmbedOptions::default()).unwrap_err();
    assert!(error.to_string().contains("smoke run"), "{error}");
    assert!(llama.model().encoder().unwrap_err().to_string().contains("a text encoder is needed"));
    let long = "dog ".repeat(200);
    let error = bert.embedder(EmbedOptions::default()).unwrap().embed(&["dog", &long]).unwrap_err();
    assert!(matches!(error, RuntimeError::TextTooLong { text: 2, limit: 128, .. }), "{error}");
    let model = bert.model().encoder().unwrap();
    let input = EncoderInput { tokens: &[1, 2, 320], padding: &[0], segments: &[] };
    let error = model.encode(bert.weights(), &input, Keep::Last).unwrap_err();
    assert!(error.to_string().contains("token 320"), "{error}");
    let input = EncoderInput { tokens: &[1, 2], padding: &[0], segments: &[0, 2] };
    assert!(model.encode(bert.weights(), &input, Keep::Last).is_err());
}

#[test]
fn a_text_that_is_cut_embeds_as_its_beginning() {
    let runtime = open("tiny/bert", 200);
    let embedder = runtime.embedder(EmbedOptions { too_long: TooLong::Cut, ..Default::default() }).unwrap();
    let tokens: Vec<u32> = (0..300).map(|i| 3 + i % 256).collect();
    let text = runtime.tokenizer().unwrap().decode(&tokens, SpecialTokens::Keep).unwrap();
    let whole = runtime.encode(&Prompt::Raw(text.clone())).unwrap();
    assert!(whole.len() > 128);
    let cut = embedder.embed(&[&text]).unwrap();
    assert_eq!(cut, embedder.embed_tokens(&[&whole[..128]]).unwrap());
}
