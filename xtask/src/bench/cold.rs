//! Programs that find nothing of a model in the page cache, under a memory limit of the operating system.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::cgroup::MemoryGroup;
use super::smoke::json_of;

/// What came of a program.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What it printed; none if the system ended it because it wanted more memory than the limit.
    pub(super) report: Option<Value>,
    /// The most memory that it took, where there is a limit and the kernel says.
    pub(super) peak_bytes: Option<u64>,
}

/// Runs a command that prints one JSON object in at most `limit_bytes` of memory, where 0 is no limit.
pub(super) fn run_cold(model: &Path, limit_bytes: u64, command: &mut Command) -> Result<Outcome> {
    forget(model)?;
    if limit_bytes == 0 {
        return Ok(Outcome { report: Some(json_of(command)?), peak_bytes: None });
    }
    let group = MemoryGroup::new(limit_bytes)?;
    group.contain(command);
    let report = match json_of(command) {
        Err(_) if group.has_killed() => None,
        report => Some(report?),
    };
    Ok(Outcome { report, peak_bytes: group.peak_bytes() })
}

/// Asks the system to drop the model, a file or a directory of files, from its page cache.
pub(super) fn forget(model: &Path) -> Result<()> {
    if model.is_dir() {
        return fs::read_dir(model)?.try_for_each(|entry| forget(&entry?.path()));
    }
    let file = File::open(model).with_context(|| format!("cannot open {}", model.display()))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_wants_more_than_the_limit_has_no_report() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("weights"), "").unwrap();
        let run =
            |limit_bytes, script| run_cold(directory.path(), limit_bytes, Command::new("sh").args(["-c", script]));
        if MemoryGroup::new(64_000_000).is_err() {
            // Needs the right to make control groups.
            return;
        }
        // One line of zeros, which `sed` holds as a whole.
        let greedy = run(64_000_000, "head -c 200000000 /dev/zero | sed s/a/b/ > /dev/null; kill -9 $$").unwrap();
        assert!(greedy.report.is_none());
        assert!(greedy.peak_bytes.is_none_or(|peak| peak <= 64_000_000));
        assert_eq!(run(64_000_000, "echo 1").unwrap().report, Some(Value::from(1)));
        assert!(run(64_000_000, "exit 1").is_err(), "what fails for another reason is an error");
        assert!(run(0, "exit 1").is_err());
    }
}
