//! llama.cpp, through its Python package, in a virtual environment of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run::{run, succeeds};

const PACKAGES: [&str; 2] = ["llama-cpp-python>=0.3", "numpy"];
const SCRIPT: &str = include_str!("llama_cpp_decode.py");

/// An installed llama.cpp.
#[derive(Debug)]
pub(crate) struct LlamaCpp {
    python: PathBuf,
}

impl LlamaCpp {
    /// Builds it into `.venv` unless it is there. pip compiles it, which takes some minutes.
    pub(crate) fn ensure() -> Result<Self> {
        let environment = crate::root().join(".venv");
        let python = environment.join("bin/python");
        if !succeeds(Command::new(&python).args(["-c", "import llama_cpp, numpy"])) {
            eprintln!("building llama.cpp into {}", environment.display());
            run(Command::new("python3").args(["-m", "venv"]).arg(&environment))
                .context("python3 makes no virtual environment (Debian: apt-get install python3-venv)")?;
            let pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"];
            run(Command::new(&python).args(pip).args(PACKAGES).stdout(Stdio::from(std::io::stderr())))
                .context("pip does not build llama.cpp; --engines smoke does without it")?;
        }
        Ok(Self { python })
    }

    /// Decodes greedily after the prompt and prints one JSON object.
    pub(crate) fn command(&self, model: &Path, prompt: &str, tokens: &str, threads: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.args(["-c", SCRIPT]).arg(model);
        command.args(["--prompt-ids", prompt, "--max-tokens", tokens, "--threads", threads]);
        command
    }
}
