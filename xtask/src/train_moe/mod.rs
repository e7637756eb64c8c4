//! `cargo xtask train-moe`: a small mixture of experts with routing that was learnt, to judge prediction and caching by.
//!
//! PyTorch trains it, so the model does not come from the code that it tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::python::Environment;
use crate::run::run;
use crate::torch;

/// What to train, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Steps of 2048 tokens. Another number than the default makes another model.
    #[arg(long, default_value_t = 900)]
    steps: u32,
    /// Threads. The recorded model was trained with one; more may round differently.
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Also fit predictors of the next layers' experts, and print how often they are right. Some minutes.
    #[arg(long)]
    study: bool,
}

/// Trains the model unless it is there, records its routing and prints what can be told of it.
pub(crate) fn train_moe(options: &Options) -> Result<()> {
    let environment = Environment::ensure()?;
    torch::ensure(&environment)?;
    let directory = crate::root().join("models/train-moe");
    if !directory.join("model.safetensors").exists() {
        run(script(&environment, "train.py", &directory, options).args(["--steps", &options.steps.to_string()]))?;
    }
    run(&mut script(&environment, "trace.py", &directory, options))?;
    if options.study {
        for ahead in ["1", "2"] {
            run(script(&environment, "study.py", &directory, options).args(["--ahead", ahead]))?;
        }
    }
    Ok(())
}

/// Where the Python files lie.
fn sources() -> PathBuf {
    crate::root().join("xtask/src/train_moe")
}

fn script(environment: &Environment, name: &str, directory: &Path, options: &Options) -> Command {
    let mut command = environment.python();
    command.arg(sources().join(name)).arg(directory).args(["--threads", &options.threads.to_string()]);
    // Threads that wait by spinning take the time of those that work.
    command.env("OMP_WAIT_POLICY", "PASSIVE");
    command
}
