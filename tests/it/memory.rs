//! What the operating system says about memory.

use std::process::Command;

use smoke_runtime::models::Want;
use smoke_runtime::models::parts::{KvCache, KvEncoding};
use smoke_runtime::{AtEnd, DeviceKind, GenerateOptions, Prompt, Runtime};
use smoke_tests::smollm2;

use crate::golden_models::GOLDEN_MODELS;

/// Names the budget in bytes for the child process.
const BUDGET: &str = "SMOKE_TEST_CHILD_BUDGET";

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Runs in a process of its own, started by the test below.
#[test]
fn child_generates_under_a_budget() {
    let Ok(budget) = std::env::var(BUDGET) else { return };
    let before = status("VmRSS");
    let runtime = Runtime::builder(smollm2()).memory_bytes(budget.parse().unwrap()).open().unwrap();
    let options = GenerateOptions { max_tokens: 24, at_end: AtEnd::Ignore, ..Default::default() };
    let tokens = runtime.generate(Prompt::chat("Tell me about rivers."), options).unwrap();
    assert_eq!(tokens.map(Result::unwrap).count(), 24);
    println!("\ngrowth={}", status("VmHWM") - before);
}

#[test]
fn resident_memory_grows_by_no_more_than_the_budget_and_64_mib() {
    let model_bytes = Runtime::builder(smollm2()).open().unwrap().plan(1).unwrap().model_bytes;
    for percent in [100, 50, 25] {
        let budget = model_bytes * percent / 100;
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::child_generates_under_a_budget", "--nocapture", "--test-threads=1"])
            .env(BUDGET, budget.to_string())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{out}\n{}", String::from_utf8_lossy(&child.stderr));
        let growth = out.lines().find_map(|line| line.strip_prefix("growth=")).unwrap();
        let growth: u64 = growth.parse().unwrap();
        assert!(growth <= budget + (64 << 20), "{growth} bytes with a budget of {budget}");
        assert!(growth >= budget / 2, "{growth} bytes cannot hold what a budget of {budget} was spent on");
    }
}

/// A pass takes no more memory for activations than is planned for it, and not much less, whatever the architecture.
#[test]
fn activations_take_what_was_planned() {
    for model in GOLDEN_MODELS {
        let runtime = model.open(400);
        let (config, weights) = (runtime.config(), runtime.weights());
        for (batch, tokens, want) in [
            (1, 1, Want::LastLogits),
            (1, 17, Want::LastLogits),
            (2, 60, Want::LastLogits),
            (1, 120, Want::AllLogits),
            (2, 17, Want::HiddenStates),
        ] {
            let mut cache = KvCache::new(config.kv_shape(KvEncoding::F32), tokens, vec![0; batch], weights).unwrap();
            weights.release();
            let ids = vec![7; batch * tokens];
            let output = runtime.model().decoder().unwrap().forward(weights, &ids, &mut cache, want).unwrap();
            let taken = weights.activation_bytes();
            drop(output);
            let planned = config.activation_bytes(DeviceKind::Cpu, batch, tokens, tokens, want);
            assert!(taken <= planned, "{model:?}, {batch} x {tokens}, {want:?}: {taken} bytes, planned {planned}");
            assert!(planned <= 8 * taken, "{model:?}, {batch} x {tokens}, {want:?}: {taken} bytes, planned {planned}");
        }
    }
}
