//! A memory limit that the operating system enforces: a control group, version 1 or 2.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A control group with a limit on memory, page cache included; removed when dropped.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    directory: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl MemoryGroup {
    /// Makes a group whose processes may take `limit_bytes` of memory.
    pub(crate) fn new(limit_bytes: u64) -> Result<Self> {
        let (parent, version) = parent()?;
        let directory = parent.join(format!("smoke-bench-{}", std::process::id()));
        if !directory.is_dir() {
            fs::create_dir(&directory).with_context(|| {
                format!("no right to make the control group {}: run as root, or with --no-limit", directory.display())
            })?;
        }
        let group = Self { directory, version };
        match version {
            Version::One => group.write("memory.limit_in_bytes", limit_bytes)?,
            Version::Two => {
                group.write("memory.max", limit_bytes)?;
                // Without swap the limit is on memory, not on patience; absent where the kernel has no swap.
                let _ = group.write("memory.swap.max", 0);
            }
        }
        Ok(group)
    }

    /// Lets `command` start inside the group.
    pub(crate) fn contain(&self, command: &mut Command) {
        let procs = self.directory.join("cgroup.procs");
        // SAFETY: between fork and exec the child only opens, writes and closes a file: system calls that are safe
        // there. The path was allocated before.
        unsafe {
            command.pre_exec(move || fs::write(&procs, "0"));
        }
    }

    /// The most memory that the group's processes held at once, page cache included; none where the kernel does not say.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let name = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        fs::read_to_string(self.directory.join(name)).ok()?.trim().parse().ok()
    }

    /// Whether the kernel has ended a process of the group since it wanted more memory than the limit.
    pub(crate) fn has_killed(&self) -> bool {
        let name = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        fs::read_to_string(self.directory.join(name)).is_ok_and(|text| kills(&text) > 0)
    }

    fn write(&self, name: &str, value: u64) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, value.to_string()).with_context(|| format!("cannot set {}", path.display()))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A group whose last process has just ended may be busy for a moment; one that stays is empty and does no harm.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// The number that follows `oom_kill` in one of the kernel's lists.
fn kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Where a group may be made: beside this process's own for version 2, at the root of the hierarchy for version 1.
fn parent() -> Result<(PathBuf, Version)> {
    let mounts = fs::read_to_string("/proc/mounts").context("this system has no /proc; use --no-limit")?;
    if let Some(root) = mount(&mounts, "cgroup", "memory") {
        return Ok((root.to_owned(), Version::One));
    }
    let Some(root) = mount(&mounts, "cgroup2", "") else {
        bail!("this system has no control groups; use --no-limit");
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // Groups that hold processes cannot have children with limits: go up to the first that can.
    let mut candidates = root.join(own).ancestors().map(Path::to_owned).collect::<Vec<_>>().into_iter();
    let parent = candidates.find(|directory| {
        let control = directory.join("cgroup.subtree_control");
        directory.starts_with(root)
            && fs::read_to_string(control).is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
    });
    parent
        .map(|parent| (parent, Version::Two))
        .context("no control group here may limit memory; run as root, or with --no-limit")
}

/// The mount point of a file system of `kind`, with `option` among its options unless that is empty.
fn mount<'a>(mounts: &'a str, kind: &str, option: &str) -> Option<&'a Path> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (point, found, options) = (fields.next()?, fields.next()?, fields.next()?);
        let has_option = option.is_empty() || options.split(',').any(|found| found == option);
        (found == kind && has_option).then(|| Path::new(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_versions() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(kills("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(kills("oom_kill_disable 1\nunder_oom 1\n"), 0);
    }

    #[test]
    fn finds_the_hierarchy_that_limits_memory() {
        let both = "cgroup /a/cpu cgroup rw,cpu 0 0\ncgroup /a/memory cgroup rw,relatime,memory 0 0\ncgroup2 /a/two cgroup2 rw 0 0\n";
        assert_eq!(mount(both, "cgroup", "memory"), Some(Path::new("/a/memory")));
        assert_eq!(mount(both, "cgroup2", ""), Some(Path::new("/a/two")));
        assert_eq!(mount("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "cgroup", "memory"), None);
    }
}
