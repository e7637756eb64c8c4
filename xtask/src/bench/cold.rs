//! Programs that find nothing of a model in the page cache, under a memory limit of the operating system.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::cgroup::MemoryGroup;
use super::smoke::json_of;

/// Runs a command that prints one JSON object in at most `limit_bytes` of memory, where 0 is no limit, and says how much
/// it took at most, where the kernel says.
pub(super) fn run_cold(model: &Path, limit_bytes: u64, command: &mut Command) -> Result<(Value, Option<u64>)> {
    forget(model)?;
    if limit_bytes == 0 {
        return Ok((json_of(command)?, None));
    }
    let group = MemoryGroup::new(limit_bytes)?;
    group.contain(command);
    let value = json_of(command)?;
    Ok((value, group.peak_bytes()))
}

/// Asks the system to drop the model from its page cache.
pub(super) fn forget(model: &Path) -> Result<()> {
    let file = File::open(model).with_context(|| format!("cannot open {}", model.display()))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}
