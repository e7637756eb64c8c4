//! `cargo xtask test`: all tests, after obtaining what they need.

use anyhow::Result;

use crate::model;
use crate::run::{FEATURES, cargo, run, succeeds};
use crate::vulkan::{self, quiet_vulkan};

/// Runs all tests, or those that `options` select.
pub(crate) fn test(options: &[String]) -> Result<()> {
    model::ensure(model::Name::Smollm2)?;
    model::ensure(model::Name::Minilm)?;
    vulkan::ensure()?;
    let with_nextest = succeeds(&mut cargo(["nextest", "--version"]));
    if !with_nextest {
        // Runs the documentation's examples, too.
        return run(quiet_vulkan(cargo(["test", "--workspace"]).args(FEATURES)).args(options));
    }
    if options.is_empty() {
        // First, since what closes the output should be the summary of all other tests.
        run(quiet_vulkan(cargo(["test", "--doc", "--workspace"]).args(FEATURES)))?;
    }
    run(quiet_vulkan(cargo(["nextest", "run", "--workspace"]).args(FEATURES)).args(options))
}
