//! Who predicts the experts of a mixture changes what is read when, and nothing that comes out; what is learnt is kept.

use std::path::{Path, PathBuf};

use smoke_runtime::models::Want;
use smoke_runtime::models::parts::{KvCache, KvEncoding};
use smoke_runtime::predict::experts::{ExpertPredictor, Routed};
use smoke_runtime::{
    AtEnd, EXPERT_PREDICTOR_NAMES, GenerateOptions, POLICY_NAMES, Prompt, Runtime, RuntimeBuilder, Speculation,
    Statistics,
};
use smoke_tests::Goldens;

use crate::golden_models::{Format, GOLDEN_MODELS, GoldenModel};
use crate::tiny_models::check_greedy_tokens;

fn model(name: &str) -> &'static GoldenModel {
    GOLDEN_MODELS.iter().find(|model| model.name == name && model.format == Format::Safetensors).unwrap()
}

/// Half of the memory, and everything is read that may be used.
fn eager(model: &GoldenModel) -> RuntimeBuilder {
    model.builder().memory_bytes(model.bytes() / 2).speculation(Speculation::Likely)
}

fn generate(runtime: &Runtime, goldens: &Goldens, max_tokens: usize) -> Statistics {
    let options = GenerateOptions { max_tokens, at_end: AtEnd::Ignore, ..Default::default() };
    let mut generation = runtime.generate(Prompt::Tokens(goldens.ids("input_ids")), options).unwrap();
    generation.by_ref().for_each(|token| drop(token.unwrap()));
    generation.statistics()
}

/// The experts of every token, layer by layer, when tokens come one by one, as they do while text is generated.
fn chosen(runtime: &Runtime, ids: &[u32]) -> Vec<u32> {
    let weights = runtime.weights();
    let mut cache = KvCache::new(runtime.config().kv_shape(KvEncoding::F32), ids.len(), vec![0], weights).unwrap();
    let mut by_layer: Vec<Vec<u32>> = Vec::new();
    for &id in ids {
        let output = runtime.model().decoder().unwrap().forward(weights, &[id], &mut cache, Want::HiddenStates);
        let routes = output.unwrap().routes;
        by_layer.resize(routes.len(), Vec::new());
        by_layer.iter_mut().zip(routes).for_each(|(layer, routes)| layer.extend(routes.experts));
    }
    by_layer.concat()
}

fn check_every_policy_and_predictor(name: &str) {
    let (model, bytes) = (model(name), model(name).bytes());
    let goldens = model.goldens();
    let (ids, golden_choices) = (goldens.ids("input_ids"), goldens.ids("router_topk"));
    for percent in [100, 50, 25] {
        let with_each = |policy| EXPERT_PREDICTOR_NAMES.iter().map(move |predictor| (policy, predictor));
        for (policy, predictor) in POLICY_NAMES.iter().flat_map(with_each) {
            let builder = model.builder().memory_bytes(bytes * percent / 100).policy_name(policy);
            let builder = builder.expert_predictor_name(predictor).speculation(Speculation::Likely);
            let runtime = builder.open().unwrap();
            let case = format!("{name} at {percent} % with {policy} and {predictor}");
            check_greedy_tokens(&runtime, &goldens, &case);
            assert_eq!(chosen(&runtime, &ids), golden_choices, "{case}");
            let budget = runtime.weights().streamer().budget();
            assert!(budget.peak_bytes() <= budget.limit_bytes(), "{case}: {budget:?}");
        }
    }
}

#[test]
fn mixtral_is_the_same_with_every_policy_and_every_predictor() {
    check_every_policy_and_predictor("mixtral");
}

#[test]
fn qwen3_moe_is_the_same_with_every_policy_and_every_predictor() {
    check_every_policy_and_predictor("qwen3_moe");
}

#[test]
fn predictors_are_scored_beside_the_baselines_and_lead_to_reads() {
    let model = model("mixtral");
    let goldens = model.goldens();
    for &predictor in EXPERT_PREDICTOR_NAMES {
        let statistics = generate(&eager(model).expert_predictor_name(predictor).open().unwrap(), &goldens, 16);
        let names: Vec<&str> = statistics.experts.iter().map(|score| &*score.predictor).collect();
        if predictor == "none" {
            assert!(names.is_empty() && statistics.speculation.issued == 0, "{statistics:?}");
            continue;
        }
        assert_eq!(names[..2], [predictor; 2]);
        assert!(["lookahead", "popular", "previous"].iter().all(|name| names.contains(name)), "{names:?}");
        for score in &statistics.experts {
            // After the first token, each of the later layers, but for those that have none so far before them.
            let layers = runtime_layers(model) - score.layers_ahead;
            assert_eq!(score.score.routings(), 15 * layers as u64, "{score:?}");
        }
        // On random weights only what asks the routers is ever likelier right than wrong.
        if ["learned", "lookahead"].contains(&predictor) {
            assert!(statistics.speculation.issued > 0, "{predictor}: {statistics:?}");
        }
    }
    let off = generate(&eager(model).speculation(Speculation::Off).open().unwrap(), &goldens, 4);
    assert!(off.experts.iter().all(|score| score.score.routings() == 0), "nobody listens: {off:?}");
}

fn runtime_layers(model: &GoldenModel) -> usize {
    model.builder().open().unwrap().config().layers
}

/// Says nonsense of every kind.
#[derive(Debug, Default)]
struct Babbler {
    said: usize,
}

impl ExpertPredictor for Babbler {
    fn observe(&mut self, routed: &Routed<'_>) {
        assert!(!routed.chosen.is_empty() && !routed.scores.is_empty() && !routed.input.is_empty());
        self.said += 1;
    }

    fn predict(&self, ahead: usize, out: &mut Vec<f32>) {
        out.clear();
        match (self.said + ahead) % 4 {
            0 => {}
            1 => out.extend([f32::NAN, 7.0, -1.0]),
            2 => out.resize(1000, f32::INFINITY),
            _ => out.push(0.5),
        }
    }
}

#[test]
fn a_predictor_from_outside_is_asked_and_its_nonsense_does_no_harm() {
    let model = model("qwen3_moe");
    let runtime = eager(model).expert_predictor(Babbler::default()).open().unwrap();
    check_greedy_tokens(&runtime, &model.goldens(), "a babbler");
    let statistics = generate(&runtime, &model.goldens(), 8);
    assert_eq!(statistics.experts[0].predictor, "own");
    assert!(statistics.experts[0].score.routings() > 0);
}

#[test]
fn an_unknown_name_is_told_with_those_that_are_known() {
    let error = model("mixtral").builder().expert_predictor_name("crystal").open().unwrap_err().to_string();
    assert!(error.contains("crystal") && error.contains("learned, lookahead"), "{error}");
}

/// What was learnt of a model: one file in a directory of its own.
fn learned_file(state: &Path) -> PathBuf {
    let entries: Vec<PathBuf> = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].join("experts.smoke")
}

#[test]
fn what_is_learnt_comes_back_in_the_next_run() {
    let model = model("mixtral");
    let state = tempfile::tempdir().unwrap();
    let open = || eager(model).state(state.path()).open().unwrap();
    let runtime = open();
    assert!(std::fs::read_dir(state.path()).unwrap().next().is_none(), "nothing is written before it is asked for");
    generate(&runtime, &model.goldens(), 20);
    runtime.save_state().unwrap();
    let kept = std::fs::read(learned_file(state.path())).unwrap();
    let again = open();
    assert!(again.ignored_state().is_empty());
    again.save_state().unwrap();
    assert_eq!(std::fs::read(learned_file(state.path())).unwrap(), kept, "what was read is what was written");
    check_greedy_tokens(&again, &model.goldens(), "with what was learnt");
    again.save_state().unwrap();
    assert_ne!(std::fs::read(learned_file(state.path())).unwrap(), kept, "it goes on learning");
}

#[test]
fn what_cannot_be_read_is_told_and_ignored_and_not_written_over() {
    let (mixtral, qwen) = (model("mixtral"), model("qwen3_moe"));
    let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (model, state) in [(mixtral, state.path()), (qwen, other.path())] {
        let runtime = eager(model).state(state).open().unwrap();
        generate(&runtime, &model.goldens(), 8);
        runtime.save_state().unwrap();
    }
    let path = learned_file(state.path());
    let good = std::fs::read(&path).unwrap();
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    let mut newer = good.clone();
    newer[8] = 99;
    let foreign = std::fs::read(learned_file(other.path())).unwrap();
    for (bytes, says) in [
        (damaged, "damaged"),
        (good[..good.len() / 2].to_vec(), "cut short"),
        (newer, "version 99"),
        (foreign, "another model"),
        (b"a letter".to_vec(), "no file of learned experts"),
        (Vec::new(), "no file of learned experts"),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let runtime = eager(mixtral).state(state.path()).open().unwrap();
        let [error] = runtime.ignored_state() else { panic!("{says}: {:?}", runtime.ignored_state()) };
        let error = error.to_string();
        assert!(error.contains(says) && error.contains("experts.smoke") && error.contains("delete"), "{error}");
        check_greedy_tokens(&runtime, &mixtral.goldens(), says);
        runtime.save_state().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{says}: it is still there to be looked at");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_when_it_is_wanted() {
    let model = model("mixtral");
    let file = tempfile::NamedTempFile::new().unwrap();
    let runtime = eager(model).state(file.path()).open().unwrap();
    generate(&runtime, &model.goldens(), 2);
    let error = runtime.save_state().unwrap_err().to_string();
    assert!(error.contains(file.path().to_str().unwrap()), "{error}");
}

/// The one file of this name in the directory of the one model.
fn memory_file(state: &Path) -> PathBuf {
    learned_file(state).with_file_name("memory.json")
}

#[test]
fn what_was_in_memory_is_read_in_advance_the_next_time() {
    for (name, percent) in [("mixtral", 50), ("mixtral", 90), ("qwen3_moe", 40)] {
        let model = model(name);
        let (goldens, state) = (model.goldens(), tempfile::tempdir().unwrap());
        let builder = || model.builder().memory_bytes(model.bytes() * percent / 100).state(state.path());
        let first = builder().open().unwrap();
        first.wait_until_warm();
        assert_eq!(first.weights().streamer().cache().residency().bytes(), 0, "nothing is known yet");
        let cold = generate(&first, &goldens, 1);
        first.save_state().unwrap();

        let second = builder().open().unwrap();
        second.wait_until_warm();
        let warmed = second.weights().streamer().stats();
        assert!(warmed.prefetch_loads > 0 && warmed.demand_loads == 0, "{name}: {warmed:?}");
        let warmed_bytes = second.weights().streamer().cache().residency().bytes();
        let warm = generate(&second, &goldens, 1);
        let demands = |runtime: &Runtime| runtime.weights().streamer().stats().demand_loads;
        let (before, now) = (demands(&first), demands(&second));
        // Reading ahead takes its share of either, so that only where most was there the count is certain.
        assert!(percent < 90 || now < before, "{name} at {percent} %: {now} loads on demand, {before} before");
        let most_bytes = cold.bytes_read - warmed_bytes / 4;
        assert!(warm.bytes_read < most_bytes, "{name}: {} bytes, {} before", warm.bytes_read, cold.bytes_read);
        check_greedy_tokens(&second, &goldens, name);

        let third = builder().warm(false).open().unwrap();
        third.wait_until_warm();
        assert_eq!(third.weights().streamer().stats().reads, 0);
        // In the middle of it, too.
        let fourth = builder().open().unwrap();
        check_greedy_tokens(&fourth, &goldens, name);
        for runtime in [&first, &second, &third, &fourth] {
            let budget = runtime.weights().streamer().budget();
            assert!(budget.peak_bytes() <= budget.limit_bytes(), "{name}: {budget:?}");
        }
    }
}

#[test]
fn popularity_is_remembered() {
    let model = model("mixtral");
    let (goldens, state) = (model.goldens(), tempfile::tempdir().unwrap());
    let open = || eager(model).expert_predictor_name("popular").state(state.path()).open().unwrap();
    // The recall of the first tokens, by what was counted before and by nothing.
    let recall = |runtime: &Runtime| generate(runtime, &goldens, 6).experts[0].score.slot_recall();
    let first = open();
    let without = recall(&first);
    generate(&first, &goldens, 24);
    first.save_state().unwrap();
    assert!(recall(&open()) > without, "{without}");
}

#[test]
fn a_list_that_is_of_no_use_is_told_and_written_anew() {
    let model = model("mixtral");
    let state = tempfile::tempdir().unwrap();
    let open = || eager(model).state(state.path());
    let first = open().open().unwrap();
    generate(&first, &model.goldens(), 8);
    first.save_state().unwrap();
    let path = memory_file(state.path());
    let good = std::fs::read_to_string(&path).unwrap();
    // Half as many bytes: the units have other sizes.
    let converted = open().dtype("bf16").open().unwrap();
    let [error] = converted.ignored_state() else { panic!("{:?}", converted.ignored_state()) };
    assert!(error.to_string().contains("other sizes") && error.to_string().contains("memory.json"), "{error}");
    for (bytes, says) in [
        (good.replacen("\"model\":", "\"model\":1", 1), "another model"),
        (good[..good.len() / 2].to_owned(), "cannot be read"),
        ("{}".to_owned(), "cannot be read"),
        ("[".repeat(100_000), "cannot be read"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let runtime = open().open().unwrap();
        runtime.wait_until_warm();
        assert_eq!(runtime.weights().streamer().stats().reads, 0, "{says}");
        let [error] = runtime.ignored_state() else { panic!("{says}: {:?}", runtime.ignored_state()) };
        assert!(error.to_string().contains(says), "{error}");
        check_greedy_tokens(&runtime, &model.goldens(), says);
        runtime.save_state().unwrap();
        assert!(open().open().unwrap().ignored_state().is_empty(), "{says}");
    }
}

#[test]
fn models_without_experts_remember_nothing() {
    let model = model("llama");
    let state = tempfile::tempdir().unwrap();
    let runtime = model.builder().state(state.path()).open().unwrap();
    assert!(generate(&runtime, &model.goldens(), 2).experts.is_empty());
    runtime.save_state().unwrap();
    assert!(std::fs::read_dir(state.path()).unwrap().next().is_none());
}
