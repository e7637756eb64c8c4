//! llama.cpp, through its Python package.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::python::Environment;

const PACKAGES: [&str; 2] = ["llama-cpp-python>=0.3", "numpy"];
const SCRIPT: &str = include_str!("llama_cpp.py");

/// An installed llama.cpp.
#[derive(Debug)]
pub(crate) struct LlamaCpp {
    environment: Environment,
}

impl LlamaCpp {
    /// Builds it unless it is there. pip compiles it, which takes some minutes.
    pub(crate) fn ensure() -> Result<Self> {
        let environment = Environment::ensure()?;
        if !environment.imports("llama_cpp, numpy") {
            eprintln!("building llama.cpp");
            environment
                .install(&[], &PACKAGES)
                .context("pip does not build llama.cpp; --engines smoke does without it")?;
        }
        Ok(Self { environment })
    }

    /// Decodes greedily after the prompt and prints one JSON object.
    pub(crate) fn command(&self, model: &Path, prompt: &str, tokens: &str, threads: &str) -> Command {
        let mut command = self.environment.python();
        command.args(["-c", SCRIPT]).arg(model);
        command.args(["--prompt-ids", prompt, "--max-tokens", tokens, "--threads", threads]);
        command
    }
}
