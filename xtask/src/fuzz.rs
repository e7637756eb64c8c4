//! A short run of every fuzz target, beginning with its corpus.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, metadata, output, run};

const MANIFEST: &str = "tests/fuzz/Cargo.toml";

/// Inputs tried per target.
const RUNS: &str = "20000";

/// What `cargo fuzz` passes to the compiler for coverage; the sanitizers, which it adds, need a nightly compiler.
const COVERAGE: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Ccodegen-units=1 \
    -Cdebug-assertions \
    -Coverflow-checks";

/// Runs every target of the fuzz package. The same seed each time: what is red once is red again.
pub(crate) fn run_briefly() -> Result<()> {
    let root = crate::root();
    let platform = platform()?;
    let scratch = tempfile::tempdir()?;
    for target in targets()? {
        let corpus = root.join("tests/fuzz/corpus").join(&target);
        ensure!(corpus.is_dir(), "the fuzz target {target} has no corpus in {}", corpus.display());
        let found = scratch.path().join(&target);
        fs::create_dir(&found)?;
        // Naming the platform keeps the flags from build scripts, which would not link with them.
        let build = ["run", "--release", "--manifest-path", MANIFEST, "--target", &platform, "--bin", &target, "--"];
        let mut command = cargo(build);
        command.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", root.join("target/fuzz"));
        command.args([&format!("-runs={RUNS}"), "-seed=1", "-timeout=20", "-max_total_time=120", "-rss_limit_mb=2048"]);
        command.arg(format!("-artifact_prefix={}/fuzz-{target}-", root.join("target").display()));
        // New inputs go to the first directory; the corpus stays as it is.
        run(command.arg(found).arg(corpus))?;
    }
    Ok(())
}

/// The programs of the fuzz package.
fn targets() -> Result<Vec<String>> {
    let metadata = metadata(&["--manifest-path", MANIFEST])?;
    let targets = metadata["packages"][0]["targets"].as_array().context("the fuzz package has targets")?;
    let programs = targets.iter().filter(|target| target["kind"][0] == "bin");
    let names: Vec<_> = programs.filter_map(|target| target["name"].as_str().map(String::from)).collect();
    ensure!(!names.is_empty(), "there is no fuzz target");
    Ok(names)
}

/// The platform that the compiler runs on.
fn platform() -> Result<String> {
    let version = output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(String::from).context("the compiler does not say what it runs on")
}
