//! Development tasks, run as `cargo xtask TASK`. One file per task.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agnostic;
mod apt;
mod bench;
mod ci;
mod demo;
mod examples;
mod fuzz;
mod model;
mod neon;
mod python;
mod run;
mod test;
mod torch;
mod train_moe;
mod vulkan;

/// Development tasks of Smoke Runtime.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Obtain a trained model into models/, unless it is there.
    Model {
        /// Which one.
        name: model::Name,
    },
    /// Let the trained model answer with half of its weights in memory.
    Demo {
        /// More options for `smoke run`; --memory and --prompt replace those of the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Run all tests: units, whole system, documentation. Obtains what they need.
    Test {
        /// Run only these: filters and options for nextest, or for `cargo test` where nextest is absent.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// What CI runs: every stage, or those named.
    Ci {
        /// The stages, in this order.
        stages: Vec<ci::Stage>,
    },
    /// Measure: decoding under memory budgets, and the parts.
    Bench(Box<bench::BenchArguments>),
    /// Train a small mixture of experts (Mixtral, 16 M parameters) into models/, and record its routing.
    ///
    /// Takes about 20 minutes of one core; stopped, it goes on from its last checkpoint when run again. Once trained, only the
    /// routing is recorded again. docs/moe.md says what it is for.
    TrainMoe(train_moe::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Model { name } => model::ensure(name).map(drop),
        Task::Demo { options } => demo::demo(&options),
        Task::Test { options } => test::test(&options),
        Task::Ci { stages } => ci::ci(&stages),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::TrainMoe(options) => train_moe::train_moe(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("xtask lies in the workspace").to_path_buf()
}
