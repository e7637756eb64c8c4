//! Accelerate's disk offload, through its Python package.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::python::Environment;
use crate::torch;

const ACCELERATE: &str = "accelerate==1.12.0";
/// What it needs beside what comes with Transformers. It is installed without what it asks for, since that is a PyTorch
/// with the CUDA libraries.
const NEEDS: &str = "psutil";
const SCRIPT: &str = include_str!("accelerate.py");
/// What of a limit is not for weights that stay: PyTorch with Transformers takes 0.35 GB, and weights that come and go
/// are mapped, so that they press those that stay out of the page cache if they have no room of their own. With 0.6 GB
/// instead of this, decoding was twice as slow.
const OVERHEAD_BYTES: u64 = 800_000_000;

/// An installed Accelerate.
#[derive(Debug)]
pub(super) struct Accelerate {
    environment: Environment,
}

impl Accelerate {
    /// Installs it unless it is there, with PyTorch and Transformers.
    pub(super) fn ensure() -> Result<Self> {
        let environment = Environment::ensure()?;
        install(&environment).context("--engines smoke,llama-cpp does without Accelerate")?;
        Ok(Self { environment })
    }

    /// Decodes greedily after the prompt and prints one JSON object. The model is a directory with safetensors;
    /// `limit_bytes` is all the memory that the process may take.
    pub(super) fn command(
        &self,
        model: &Path,
        prompt: &str,
        tokens: usize,
        threads: usize,
        limit_bytes: u64,
    ) -> Command {
        let memory_bytes = limit_bytes.saturating_sub(OVERHEAD_BYTES);
        let mut command = self.environment.python();
        command.args(["-c", SCRIPT]).arg(model).args(["--prompt-ids", prompt]);
        command.args(["--max-tokens", &tokens.to_string(), "--threads", &threads.to_string()]);
        command.args(["--memory", &memory_bytes.to_string()]);
        command
    }
}

fn install(environment: &Environment) -> Result<()> {
    torch::ensure(environment)?;
    if !environment.imports("accelerate") {
        eprintln!("installing Accelerate");
        environment.install(&["--no-warn-conflicts"], &[NEEDS])?;
        environment.install(&["--no-deps"], &[ACCELERATE])?;
    }
    Ok(())
}
