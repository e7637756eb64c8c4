//! `cargo xtask ci`: what CI runs, stage by stage.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::run::{FEATURES, cargo, metadata, output, run};
use crate::{agnostic, examples, fuzz, neon, test};

/// One of the checks that CI makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// The code is formatted.
    Fmt,
    /// The compiler is the oldest that is promised to work.
    Msrv,
    /// Licences and sources of all dependencies.
    Deny,
    /// The crates that know no tensor framework depend on none.
    Agnostic,
    /// No warning of the compiler or of clippy.
    Clippy,
    /// No warning in the documentation.
    Doc,
    /// Every fuzz target, briefly.
    Fuzz,
    /// What needs CUDA to build is type-checked.
    Cuda,
    /// The kernels for NEON pass their tests in an emulator; skipped where that cannot be had.
    Neon,
    /// Every example runs.
    Examples,
    /// All tests.
    Test,
}

/// How a stage went.
struct Outcome {
    stage: Stage,
    took: Duration,
    result: Result<Done>,
}

/// What a stage did that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Passed,
    /// The machine lacks what the stage needs, and it was said what.
    Skipped,
}

/// Runs the stages, all of them if none is named, and prints how long each took. A stage that fails does not stop the
/// others: one run tells everything that is wrong.
pub(crate) fn ci(stages: &[Stage]) -> Result<()> {
    let stages = if stages.is_empty() { Stage::value_variants() } else { stages };
    let mut outcomes = Vec::new();
    for &stage in stages {
        eprintln!("\n== {} ==", stage.name());
        let start = Instant::now();
        let result = stage.run();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        outcomes.push(Outcome { stage, took: start.elapsed(), result });
    }
    println!("\n{}", table(&outcomes));
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).map(|outcome| outcome.stage.name());
    let failed: Vec<_> = failed.collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

impl Stage {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn run(self) -> Result<Done> {
        if self == Self::Neon
            && let Err(error) = neon::ensure()
        {
            eprintln!("SKIPPED, the kernels for NEON are neither checked nor tested: {error:#}");
            return Ok(Done::Skipped);
        }
        self.check().map(|()| Done::Passed)
    }

    fn check(self) -> Result<()> {
        match self {
            Self::Fmt => {
                run(&mut cargo(["fmt", "--all", "--check"]))?;
                run(&mut cargo(["fmt", "--all", "--check", "--manifest-path", "tests/fuzz/Cargo.toml"]))
            }
            Self::Msrv => msrv(),
            // `--locked`: a lock file that does not fit the manifests is found here.
            Self::Deny => run(&mut cargo(["deny", "--locked", "check", "bans", "licenses", "sources"])),
            Self::Agnostic => agnostic::check(),
            Self::Clippy => {
                let clippy = cargo(["clippy", "--workspace", "--all-targets"]);
                run(with_features(clippy).args(["--", "-D", "warnings"]))
            }
            Self::Doc => {
                let doc = cargo(["doc", "--workspace", "--no-deps", "--document-private-items"]);
                run(with_features(doc).env("RUSTDOCFLAGS", "-D warnings"))
            }
            Self::Fuzz => fuzz::run_briefly(),
            Self::Cuda => {
                // A build script downloads an LLVM unless this variable says that only documentation is wanted. Other
                // build scripts may heed it, too: a directory of its own keeps it from everything else.
                let check = ["check", "-p", "smoke-burn", "-p", "smoke-cli", "--target-dir", "target/cuda"];
                let features = ["--features", "smoke-burn/cuda,smoke-cli/cuda"];
                run(cargo(check).args(features).env("DOCS_RS", "1"))
            }
            Self::Neon => neon::check(),
            Self::Examples => examples::run_all(),
            Self::Test => test::test(&[]),
        }
    }
}

fn with_features(mut command: Command) -> Command {
    command.args(FEATURES);
    command
}

/// CI has one compiler, so that the promise is kept by running all of CI with the oldest one promised.
fn msrv() -> Result<()> {
    let metadata = metadata(&[])?;
    let rustc = output(Command::new("rustc").arg("--version"))?;
    let rustc = rustc.split_whitespace().nth(1).context("the compiler does not tell its version")?;
    for package in metadata["packages"].as_array().context("there are packages")? {
        let name = &package["name"];
        let Some(oldest) = package["rust_version"].as_str() else { bail!("{name} does not state its rust-version") };
        if !rustc.starts_with(&format!("{oldest}.")) {
            eprintln!("{name} promises to build with Rust {oldest}; Rust {rustc} cannot tell");
        }
    }
    eprintln!("every package states its rust-version; this is Rust {rustc}");
    Ok(())
}

fn table(outcomes: &[Outcome]) -> String {
    let row = |name: &str, took: Duration, result: &str| {
        format!("| {name:<8} | {:>7.1} s | {result:<7} |\n", took.as_secs_f64())
    };
    let mut table = String::from("| stage    | wall time | result  |\n|----------|----------:|---------|\n");
    for outcome in outcomes {
        let result = match outcome.result {
            Ok(Done::Passed) => "passed",
            Ok(Done::Skipped) => "SKIPPED",
            Err(_) => "FAILED",
        };
        table += &row(&outcome.stage.name(), outcome.took, result);
    }
    table + &row("all", outcomes.iter().map(|outcome| outcome.took).sum(), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_every_stage_and_the_sum() {
        let seconds = Duration::from_secs;
        let passed = Outcome { stage: Stage::Fmt, took: seconds(2), result: Ok(Done::Passed) };
        let skipped = Outcome { stage: Stage::Neon, took: seconds(1), result: Ok(Done::Skipped) };
        let failed = Outcome { stage: Stage::Agnostic, took: seconds(40), result: Err(anyhow::anyhow!("burn")) };
        let table = table(&[passed, skipped, failed]);
        assert_eq!(
            table.lines().skip(2).collect::<Vec<_>>(),
            [
                "| fmt      |     2.0 s | passed  |",
                "| neon     |     1.0 s | SKIPPED |",
                "| agnostic |    40.0 s | FAILED  |",
                "| all      |    43.0 s |         |"
            ]
        );
    }
}
