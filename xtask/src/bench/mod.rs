//! `cargo xtask bench`: what is measured, side by side in one run.
//!
//! Machines drift, so runs are interleaved, and a bound is computed from rates measured in the same run. No figure
//! enters a document without the command that made it.

mod accelerate;
mod cgroup;
mod cold;
mod decode;
mod llama_cpp;
mod moe;
mod parts;
mod policies;
mod random_model;
mod smoke;

use anyhow::Result;
use clap::{Args, Subcommand};

/// What to measure; policies if nothing is named.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    policies: policies::Policies,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Decode at 25, 50, 75 and 100 % of a model's bytes, policy beside policy.
    Policies(policies::Policies),
    /// Decode under memory limits of the operating system, beside llama.cpp and Accelerate, with the physical bound.
    Decode(decode::Decode),
    /// Decode a mixture of experts under memory limits, policies and speculation beside llama.cpp, with MIN's bytes.
    Moe(moe::Moe),
    /// Make a model with random weights, of any size, for measurements only.
    Model(random_model::RandomModel),
    /// The products' share of the memory's rate, and their speed for many tokens.
    Kernels(parts::Part),
    /// Nanoseconds per lease and per eviction.
    Cache(parts::Part),
    /// GB/s of each reader.
    Storage(parts::Part),
}

/// Runs a benchmark and prints its report.
pub(crate) fn bench(arguments: &BenchArguments) -> Result<()> {
    match &arguments.what {
        None => policies::bench(&arguments.policies),
        Some(What::Policies(arguments)) => policies::bench(arguments),
        Some(What::Decode(arguments)) => decode::bench(arguments),
        Some(What::Moe(arguments)) => moe::bench(arguments),
        Some(What::Model(arguments)) => random_model::make(arguments).map(|path| println!("{}", path.display())),
        Some(What::Kernels(part)) => part.run("smoke-quant", "kernel_speed"),
        Some(What::Cache(part)) => part.run("smoke-cache", "lease_speed"),
        Some(What::Storage(part)) => part.run("smoke-storage", "reader_speed"),
    }
}
