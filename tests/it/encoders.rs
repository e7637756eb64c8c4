//! The tiny BERT against Transformers: hidden states, scores of masked words and a padded batch, at every budget.

use smoke_runtime::burn::{Activations, Weights};
use smoke_runtime::models::text::SpecialTokens;
use smoke_runtime::models::{AutoModel, Bert, EncoderInput, Keep, LmConfig, Model, ModelError, Place, TextEncoder};
use smoke_runtime::storage::Format;
use smoke_runtime::{EmbedOptions, GenerateOptions, Prompt, Runtime, RuntimeError, TooLong};
use smoke_tests::{Goldens, asset, largest_difference};

/// The largest difference allowed.
const TOLERANCE: f32 = 1e-4;

/// Opens with `percent` of the model's bytes as budget.
/// Whose outputs are compared, here and on a GPU.
pub(crate) const MODELS: [&str; 1] = ["bert"];

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
    let (all, features) = (hidden.to_vec(), runtime.config().hidden);
    let selected = hidden.select_rows(weights, &[20, 3]).to_vec();
    assert_eq!(selected, [&all[20 * features..21 * features], &all[3 * features..4 * features]].concat());
    let logits = model.masked_logits(weights, &hidden).unwrap().unwrap().to_vec();
    for (what, ours, theirs, features) in [
        ("hidden states", all, goldens.floats("batch_last_hidden_state"), features),
        ("logits", logits, goldens.floats("batch_logits"), runtime.config().vocabulary),
    ] {
        let difference = difference_without_padding(&ours, &theirs, &padding, features);
        assert!(difference < TOLERANCE, "{name}: {what} of the batch differ by {difference}");
    }
    let budget = weights.streamer().budget();
    assert!(budget.peak_bytes() <= budget.limit_bytes(), "{name}: {budget:?}");
}

#[test]
fn encoders_equal_transformers_at_every_budget() {
    for (name, percent) in MODELS.iter().flat_map(|name| [100, 50, 25].map(|percent| (name, percent))) {
        check_bert(&open(&format!("tiny/{name}"), percent), &format!("{name} at {percent} %"));
    }
}

/// Texts of the golden batch as tokens, and the mean of their golden features.
fn golden_means() -> (Vec<Vec<u32>>, Vec<f32>) {
    let (goldens, features) = (goldens(), 64);
    let hidden = goldens.floats("batch_last_hidden_state");
    let (ids, mask) = (goldens.ids("batch_input_ids"), goldens.ids("batch_attention_mask"));
    let rows = ids.chunks(17).zip(mask.chunks(17)).zip(hidden.chunks(17 * features));
    let texts_and_means = rows.map(|((ids, mask), hidden)| {
        let len = mask.iter().filter(|&&seen| seen == 1).count();
        let mean = |feature| (0..len).map(|token| hidden[token * features + feature]).sum::<f32>() / len as f32;
        (ids[..len].to_vec(), (0..features).map(mean).collect::<Vec<f32>>())
    });
    let (texts, means): (_, Vec<_>) = texts_and_means.unzip();
    (texts, means.concat())
}

pub(crate) fn check_embeddings(runtime: &Runtime, name: &str) {
    let (texts, means) = golden_means();
    let vectors = runtime.embedder(EmbedOptions::default()).unwrap().embed_tokens(&texts).unwrap();
    let difference = largest_difference(&vectors.concat(), &means);
    assert!(difference < TOLERANCE, "{name}: embeddings differ by {difference}");
    let budget = runtime.weights().streamer().budget();
    assert!(budget.peak_bytes() <= budget.limit_bytes(), "{name}: {budget:?}");
}

/// As somebody else would add an architecture: a BERT whose head is left away.
#[derive(Debug)]
struct Headless(Bert);

impl TextEncoder for Headless {
    fn config(&self) -> &LmConfig {
        self.0.config()
    }

    fn encode(&self, weights: &Weights, input: &EncoderInput<'_>, keep: Keep) -> Result<Vec<Activations>, ModelError> {
        self.0.encode(weights, input, keep)
    }
}

#[test]
fn an_encoder_from_outside_is_opened_as_ours_are() {
    let place: Place = |checkpoint, layout| Ok(Model::Encoder(Box::new(Headless(Bert::place(checkpoint, layout)?))));
    let models = AutoModel::default().with(Format::Safetensors, "bert", place);
    let runtime = Runtime::builder(asset("tiny/bert")).models(models).open().unwrap();
    check_embeddings(&runtime, "headless");
    let (model, input) = (runtime.model().encoder().unwrap(), EncoderInput::one(&[5, 6]));
    let hidden = model.encode(runtime.weights(), &input, Keep::Last).unwrap().pop().unwrap();
    assert!(model.masked_logits(runtime.weights(), &hidden).unwrap().is_none());
    assert!(model.pool(runtime.weights(), &input, &hidden).unwrap().is_none());
}

#[test]
fn embeddings_are_the_mean_of_the_goldens_and_the_head_is_not_read_for_them() {
    for percent in [100, 50, 25] {
        let runtime = open("tiny/bert", percent);
        check_embeddings(&runtime, &format!("at {percent} %"));
        let streamer = runtime.weights().streamer();
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
