//! Weights stay where the user wants them, and the numbers are the same.

use std::collections::HashSet;
use std::time::Duration;

use smoke_runtime::storage::{Checkpoint, WeightSource};
use smoke_runtime::{AtEnd, DeviceKind, GenerateOptions, Plan, Prompt, Runtime, RuntimeBuilder, Statistics};
use smoke_tests::{Goldens, asset};

use crate::watched::Reads;

const MODEL: &str = "tiny/llama";

fn builder(percent: u64, rules: &[&str]) -> RuntimeBuilder {
    let bytes = Runtime::builder(asset(MODEL)).open().unwrap().plan(1).unwrap().model_bytes;
    let builder = Runtime::builder(asset(MODEL)).memory_bytes(bytes * percent / 100);
    rules.iter().fold(builder, |builder, rule| builder.place(rule.parse().unwrap()))
}

/// Generates the golden tokens.
fn check(runtime: &Runtime) -> (Plan, Statistics) {
    let goldens = Goldens::read(&format!("{MODEL}/goldens.safetensors"));
    let expected = goldens.ids("greedy");
    let options = GenerateOptions { max_tokens: expected.len(), at_end: AtEnd::Ignore, ..Default::default() };
    let mut generation = runtime.generate(Prompt::Tokens(goldens.ids("input_ids")), options).unwrap();
    let tokens: Vec<u32> = generation.by_ref().map(|token| token.unwrap().id).collect();
    assert_eq!(tokens, expected);
    let statistics = generation.statistics();
    assert!(statistics.peak_bytes <= statistics.budget_bytes, "{statistics:?}");
    (generation.plan().clone(), statistics)
}

/// Bytes of the tensors whose names have this in them.
fn bytes_of(part: &str) -> u64 {
    let checkpoint = Checkpoint::open(asset(MODEL)).unwrap();
    checkpoint.index().iter().filter(|tensor| tensor.name.contains(part)).map(|tensor| tensor.extent.len).sum()
}

#[test]
fn what_streams_by_rule_is_never_pinned() {
    let runtime = builder(80, &["*.mlp.*=stream"]).open().unwrap();
    let (plan, _) = check(&runtime);
    let (mlp, all) = (bytes_of(".mlp."), bytes_of(""));
    assert!(plan.streamed_bytes >= mlp, "{plan:?}");
    assert!(plan.pinned_bytes <= all - mlp, "{plan:?}");
    // All else fits, and stays.
    assert!(plan.streamed_bytes < mlp + mlp / 4, "{plan:?}");
    let nothing = builder(60, &["stream"]).open().unwrap();
    assert_eq!(check(&nothing).0.pinned_bytes, 0);
}

#[test]
fn what_stays_by_rule_is_read_once() {
    let runtime = builder(60, &["model.layers.1.*=ram", "stream"]).open().unwrap();
    let (plan, statistics) = check(&runtime);
    let kept = bytes_of("layers.1.");
    assert!(plan.pinned_bytes >= kept, "{plan:?}");
    // Of the pass everything but what stays may be read for each token, and no more.
    let pass = plan.pass_bytes - kept;
    assert!(statistics.bytes_read_per_token <= pass, "{statistics:?}");

    let error = builder(50, &["ram"]).open().unwrap_err().to_string();
    assert!(error.contains("to stay in memory") && error.contains("`ram` rules"), "{error}");
}

#[test]
fn a_probe_reads_what_the_plan_streams() {
    let (builder, reads) = Reads::of(builder(150, &["*.mlp.*=stream"]), Duration::ZERO);
    let runtime = builder.open().unwrap();
    let plan = runtime.plan(32).unwrap();
    reads.take();
    let probe = runtime.probe(&plan).unwrap();
    assert!(probe.disk_bytes_per_second > 0.0 && probe.compute_bytes_per_second > 0.0, "{probe:?}");
    let read: HashSet<(u64, u64)> = reads.take().iter().map(|read| (read.offset, read.offset + read.len)).collect();
    let checkpoint = Checkpoint::open(asset(MODEL)).unwrap();
    for tensor in checkpoint.index().iter() {
        // No two of them overlap.
        let common =
            |&(from, to): &(u64, u64)| to.min(tensor.extent.end()).saturating_sub(from.max(tensor.extent.offset));
        let expected = if tensor.name.contains(".mlp.") { tensor.extent.len } else { 0 };
        assert_eq!(read.iter().map(common).sum::<u64>(), expected, "{} in {read:?}", tensor.name);
    }
}

#[test]
fn the_processor_has_no_memory_of_its_own() {
    for builder in [builder(100, &["*.mlp.*=device"]), builder(100, &[]).device_memory_bytes(1 << 20)] {
        let error = builder.device(DeviceKind::Cpu).open().unwrap_err().to_string();
        assert!(error.contains("write `ram`"), "{error}");
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn what_stays_on_the_device_is_uploaded_once() {
    let open = |builder: RuntimeBuilder| builder.memory("4MB").device(DeviceKind::Wgpu).open().unwrap();
    // Everything but vectors and the rows of embeddings.
    let all = open(builder(100, &[]).device_memory_bytes(64 << 20));
    let (plan, statistics) = check(&all);
    assert!(statistics.bytes_read_per_token < statistics.model_bytes / 50, "{statistics:?}");
    assert!(plan.pass_bytes < statistics.model_bytes / 10, "{plan:?}");
    // One layer's MLP by rule, in memory for little else: the others are read again.
    let some = builder(100, &["model.layers.0.mlp.*=device", "stream"]).memory("300KB");
    let (_, statistics) = check(&some.device(DeviceKind::Wgpu).open().unwrap());
    let mlp = bytes_of("layers.0.mlp.");
    assert!(statistics.bytes_read_per_token <= statistics.model_bytes - mlp, "{statistics:?}");
}
