//! `cargo xtask demo`: the main job on a trained model, in a memory smaller than the model.

use anyhow::Result;

use crate::model;
use crate::run::{cargo, run};

const MEMORY: &str = "50MB";
const PROMPT: &str = "Why is the sky blue? Answer in two sentences.";

/// Obtains the model and asks it something.
pub(crate) fn demo(options: &[String]) -> Result<()> {
    let directory = model::ensure(model::Name::Smollm2)?;
    let mut command = cargo(["run", "--release", "-p", "smoke-cli", "--", "run"]);
    command.arg(directory).args(defaults(options)).args(options);
    run(&mut command)
}

/// What the demo says where the caller does not.
fn defaults(options: &[String]) -> Vec<&'static str> {
    let given = |name: &str| options.iter().any(|option| option.split('=').next() == Some(name));
    let mut defaults = Vec::new();
    if !given("--memory") {
        defaults.extend(["--memory", MEMORY]);
    }
    if !given("--prompt") && !given("--prompt-ids") {
        defaults.extend(["--prompt", PROMPT]);
    }
    defaults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_replace_those_of_the_demo() {
        let given = |options: &[&str]| defaults(&options.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(given(&["--json"]), ["--memory", MEMORY, "--prompt", PROMPT]);
        assert_eq!(given(&["--memory", "1GB"]), ["--prompt", PROMPT]);
        assert_eq!(given(&["--memory=1GB", "--prompt-ids=1,2"]), [""; 0]);
    }
}
