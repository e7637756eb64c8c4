//! Mixtures of experts: which are chosen, which are read, and that nothing changes what comes out.

use std::collections::HashSet;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use smoke_runtime::core::UnitId;
use smoke_runtime::models::Want;
use smoke_runtime::models::parts::{KvCache, KvEncoding, Routes};
use smoke_runtime::{AtEnd, GenerateOptions, POLICY_NAMES, Prompt, Runtime, Speculation};
use smoke_tests::asset;

use crate::golden_models::{GOLDEN_MODELS, GoldenModel};
use crate::tiny_models::{check_greedy_tokens, check_logits_and_hidden_states};

const SPECULATIONS: [Speculation; 3] = [Speculation::Off, Speculation::Likely, Speculation::Gated];

fn models() -> impl Iterator<Item = &'static GoldenModel> {
    GOLDEN_MODELS.iter().filter(|model| ["mixtral", "qwen3_moe"].contains(&model.name))
}

fn routes(runtime: &Runtime, ids: &[u32]) -> Vec<Routes> {
    let weights = runtime.weights();
    let mut cache = KvCache::new(runtime.config().kv_shape(KvEncoding::F32), ids.len(), vec![0], weights).unwrap();
    runtime.model().decoder().unwrap().forward(weights, ids, &mut cache, Want::HiddenStates).unwrap().routes
}

#[test]
fn routers_choose_what_transformers_choose_at_every_budget() {
    for model in models() {
        let goldens = model.goldens();
        for percent in [100, 50, 25] {
            let runtime = model.open(percent);
            let routes = routes(&runtime, &goldens.ids("input_ids"));
            let chosen: Vec<u32> = routes.iter().flat_map(|routes| routes.experts.clone()).collect();
            assert_eq!(chosen, goldens.ids("router_topk"), "{model:?} at {percent} %");
            let weights: Vec<f32> = routes.iter().flat_map(|routes| routes.weights.clone()).collect();
            let difference = smoke_tests::largest_difference(&weights, &goldens.floats("router_weights"));
            assert!(difference < 1e-5, "{model:?} at {percent} %: weights differ by {difference}");
        }
    }
}

#[test]
fn tokens_are_the_same_with_every_policy_and_any_speculation() {
    for model in models() {
        let goldens = model.goldens();
        for percent in [50, 25] {
            for policy in POLICY_NAMES {
                for speculation in SPECULATIONS {
                    let builder = model.builder().memory_bytes(model.bytes() * percent / 100);
                    let runtime = builder.policy_name(policy).speculation(speculation).open().unwrap();
                    let name = format!("{model:?} at {percent} % with {policy}, {speculation:?}");
                    check_greedy_tokens(&runtime, &goldens, &name);
                    let budget = runtime.weights().streamer().budget();
                    assert!(budget.peak_bytes() <= budget.limit_bytes(), "{name}: {budget:?}");
                }
            }
        }
    }
}

#[test]
fn only_routed_experts_are_read_and_each_once_for_all_tokens_of_a_pass() {
    for model in models() {
        let builder = model.builder().memory_bytes(model.bytes() * 2).speculation(Speculation::Off);
        let runtime = builder.open().unwrap();
        let streamer = runtime.weights().streamer();
        // Few enough to leave some experts out.
        let ids = &model.goldens().ids("input_ids")[..3];
        let chosen: Vec<HashSet<u32>> =
            routes(&runtime, ids).iter().map(|routes| routes.experts.iter().copied().collect()).collect();
        let wanted: usize = chosen.iter().map(HashSet::len).sum();
        let stats = streamer.stats();
        let trace = streamer.trace();
        let used: HashSet<UnitId> = trace.iter().copied().collect();
        let units = streamer.units();
        // The units of the shared weights are used, too; those of other experts are not.
        assert!(wanted < used.len() && used.len() < units.len(), "{model:?}: {wanted} of {}", units.len());
        // Beyond the units, rows of the embedding.
        let run_bytes = |unit: &UnitId| units.runs(*unit).iter().map(|run| run.extent.len).sum::<u64>();
        let unit_bytes: u64 = used.iter().map(run_bytes).sum();
        let row_bytes = ids.len() as u64 * 4 * runtime.config().hidden as u64;
        assert!(
            (unit_bytes..=unit_bytes + row_bytes).contains(&stats.bytes_read),
            "{model:?}: {} bytes read, {unit_bytes} in the units used",
            stats.bytes_read
        );
        let experts: Vec<UnitId> = trace.into_iter().filter(|unit| is_expert(&runtime, *unit)).collect();
        assert_eq!(experts.len(), wanted, "{model:?}");
        assert_eq!(experts.iter().collect::<HashSet<_>>().len(), wanted, "{model:?}: an expert was used twice");
    }
}

/// Shared weights of models so small are cut into units of 8 KiB, and experts are never cut.
fn is_expert(runtime: &Runtime, unit: UnitId) -> bool {
    runtime.weights().streamer().units().payload_bytes(unit) > 8 << 10
}

/// Transformers 5 keeps the matrices of all experts in two tensors.
#[test]
fn experts_in_fused_tensors_give_the_same() {
    for name in ["mixtral", "qwen3_moe"] {
        let directory = tempfile::tempdir().unwrap();
        let source = asset(&format!("tiny/{name}"));
        std::fs::copy(source.join("config.v5.json"), directory.path().join("config.json")).unwrap();
        fuse(&std::fs::read(source.join("model.safetensors")).unwrap(), &directory.path().join("model.safetensors"));
        let model = models().find(|model| model.name == name).unwrap();
        let runtime = Runtime::builder(directory.path()).memory_bytes(model.bytes() / 2).open().unwrap();
        check_logits_and_hidden_states(&runtime, &model.goldens(), name);
    }
}

fn fuse(file: &[u8], path: &std::path::Path) {
    let file = SafeTensors::deserialize(file).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let old = |name: &str| name.contains(".experts.");
    for (name, view) in file.tensors().into_iter().filter(|(name, _)| !old(name)) {
        let name = name.replace("block_sparse_moe", "mlp");
        tensors.push((name, view.shape().to_vec(), view.data().to_vec()));
    }
    let layers: HashSet<String> =
        file.names().iter().filter_map(|name| Some(name.split_once(".experts.")?.0.to_owned())).collect();
    for layer in layers {
        let matrix = |expert: usize, names: [&str; 2]| {
            let find = |name: &str| file.tensor(&format!("{layer}.experts.{expert}.{name}.weight")).ok();
            names.into_iter().find_map(find).unwrap()
        };
        let first = matrix(0, ["w1", "gate_proj"]);
        let [inner, hidden] = first.shape() else { panic!() };
        let gate_up = (0..8).flat_map(|expert| {
            [matrix(expert, ["w1", "gate_proj"]).data(), matrix(expert, ["w3", "up_proj"]).data()].concat()
        });
        let down = (0..8).flat_map(|expert| matrix(expert, ["w2", "down_proj"]).data().to_vec());
        let module = layer.replace("block_sparse_moe", "mlp");
        tensors.push((format!("{module}.experts.gate_up_proj"), vec![8, 2 * inner, *hidden], gate_up.collect()));
        tensors.push((format!("{module}.experts.down_proj"), vec![8, *hidden, *inner], down.collect()));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, data)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

#[test]
fn statistics_say_what_min_reads_for_the_experts_that_were_used() {
    for model in models() {
        let runtime = model.open(50);
        let options = GenerateOptions { max_tokens: 24, at_end: AtEnd::Ignore, ..Default::default() };
        let prompt = Prompt::Tokens(model.goldens().ids("input_ids"));
        let mut generation = runtime.generate(prompt, options).unwrap();
        generation.by_ref().for_each(|token| drop(token.unwrap()));
        let statistics = generation.statistics();
        let (ours, min) = (statistics.bytes_read_per_token, statistics.min_bytes_read_per_token);
        assert!(min > 0 && min <= ours, "{model:?}: {min} of {ours}");
        assert!(statistics.byte_hit_rate <= statistics.min_byte_hit_rate, "{model:?}: {statistics:?}");
    }
}
