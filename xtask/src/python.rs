//! The virtual environment for what runs in Python: `.venv`, made when first needed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run::{run, succeeds};

/// The environment of the workspace.
#[derive(Debug)]
pub(crate) struct Environment {
    directory: PathBuf,
}

impl Environment {
    /// Makes it unless it is there.
    pub(crate) fn ensure() -> Result<Self> {
        let environment = Self { directory: crate::root().join(".venv") };
        if !succeeds(environment.python().arg("--version")) {
            run(Command::new("python3").args(["-m", "venv"]).arg(&environment.directory))
                .context("python3 makes no virtual environment (Debian: apt-get install python3-venv)")?;
        }
        Ok(environment)
    }

    /// Its interpreter, without arguments yet.
    pub(crate) fn python(&self) -> Command {
        Command::new(self.directory.join("bin/python"))
    }

    /// Whether all of `modules`, separated by commas, can be imported.
    pub(crate) fn imports(&self, modules: &str) -> bool {
        succeeds(self.python().args(["-c", &format!("import {modules}")]))
    }

    /// Installs packages; `options` are pip's.
    pub(crate) fn install(&self, options: &[&str], packages: &[&str]) -> Result<()> {
        let pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"];
        run(self.python().args(pip).args(options).args(packages).stdout(Stdio::from(std::io::stderr())))
    }
}
