//! The program under measurement.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::{cargo, run};

/// The release build of `smoke`.
#[derive(Debug)]
pub(crate) struct Smoke {
    program: PathBuf,
}

impl Smoke {
    /// Builds it.
    pub(crate) fn build() -> Result<Self> {
        run(&mut cargo(["build", "--release", "--quiet", "-p", "smoke-cli"]))?;
        Ok(Self { program: crate::root().join("target/release/smoke") })
    }

    /// `smoke COMMAND MODEL OPTIONS --json`.
    pub(crate) fn command(&self, command: &str, model: &Path, options: &[&str]) -> Command {
        let mut smoke = Command::new(&self.program);
        smoke.arg(command).arg(model).args(options).arg("--json");
        if command == "run" {
            // What one run learnt would be another one's.
            smoke.arg("--no-state");
        }
        smoke
    }

    /// Runs the command and reads what it prints.
    pub(crate) fn json(&self, command: &str, model: &Path, options: &[&str]) -> Result<Value> {
        json_of(&mut self.command(command, model, options))
    }
}

/// Runs a command that prints one JSON object.
pub(crate) fn json_of(command: &mut Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().context("a program does not start")?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} prints no JSON"))
}

/// A number in what a program printed.
pub(crate) fn number(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| format!("no number `{key}` in {value}"))
}

/// A figure, or a dash.
pub(crate) fn shown(figure: Option<f64>, decimals: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.decimals$}"))
}

/// Smallest, median and largest. Of an even number the median is the mean of the two in the middle.
pub(crate) fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (Some(&smallest), Some(&largest)) = (values.first(), values.last()) else { return [f64::NAN; 3] };
    let middle = values.len() / 2;
    let median =
        if values.len().is_multiple_of(2) { values[middle - 1].midpoint(values[middle]) } else { values[middle] };
    [smallest, median, largest]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_smallest_median_largest() {
        assert_eq!(spread(vec![5.0, 1.0, 3.0]), [1.0, 3.0, 5.0]);
        assert_eq!(spread(vec![2.0]), [2.0; 3]);
        assert_eq!(spread(vec![4.0, 1.0]), [1.0, 2.5, 4.0]);
        assert_eq!(spread(vec![4.0, 1.0, 9.0, 3.0]), [1.0, 3.5, 9.0]);
        assert!(spread(Vec::new())[1].is_nan());
    }
}
