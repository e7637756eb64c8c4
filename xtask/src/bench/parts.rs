//! Measurements of single crates: each is an example of its crate, where users find it, too.

use anyhow::Result;
use clap::Args;

use crate::run::{cargo, run};

/// A measurement of one crate.
#[derive(Debug, Args)]
pub(crate) struct Part {
    /// Options of the measurement; `--json` prints one JSON object.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Part {
    /// Runs the example of `package`.
    pub(crate) fn run(&self, package: &str, example: &str) -> Result<()> {
        let build = ["run", "--release", "--quiet", "-p", package, "--example", example, "--"];
        run(cargo(build).args(&self.options))
    }
}
