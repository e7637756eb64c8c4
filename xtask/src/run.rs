//! Running programs, cargo first of all.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Everything that is built for checks, docs and tests has these features, so that Burn is built once and not for each.
/// `vulkan` must not be among them: software Vulkan crashes on the SPIR-V that it makes.
pub(crate) const FEATURES: [&str; 2] =
    ["--features", "smoke-burn/wgpu,smoke-models/wgpu,smoke-runtime/wgpu,smoke-cli/wgpu,smoke-tests/wgpu"];

/// The cargo that runs this program, in the root of the workspace.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.args(arguments).current_dir(crate::root());
    command
}

/// Shows the command, runs it, and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", line(command));
    let status = command.status().with_context(|| format!("`{}` does not start", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// What the command writes to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("`{}` does not start", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` does not write UTF-8", line(command)))
}

/// What cargo says of the packages, and `options` of it: of another manifest, say.
pub(crate) fn metadata(options: &[&str]) -> Result<Value> {
    let metadata = ["metadata", "--no-deps", "--format-version", "1"];
    serde_json::from_str(&output(cargo(metadata).args(options))?).context("cargo's metadata is no JSON")
}

/// Whether the command runs and succeeds; it stays silent.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let variables = variables.map(|(name, value)| format!("{}={}", name.display(), quoted(&value.to_string_lossy())));
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args()).map(|word| quoted(&word.to_string_lossy()));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    if word.contains([' ', '"', '$']) { format!("'{word}'") } else { word.to_owned() }
}
