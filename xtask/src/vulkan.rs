//! The tests for GPUs need Vulkan; on a machine without a GPU, Mesa's driver that runs on the processor.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt;

const PACKAGES: [&str; 2] = ["libvulkan1", "mesa-vulkan-drivers"];

/// Installs software Vulkan where there is no Vulkan and the caller may install; else says what to do.
pub(crate) fn ensure() -> Result<()> {
    if !cfg!(target_os = "linux") || present() {
        return Ok(());
    }
    apt::install(&PACKAGES).context("the tests need Vulkan: its loader and a driver (Mesa's lavapipe needs no GPU)")?;
    if !present() {
        bail!("no Vulkan, though {} are installed", PACKAGES.join(" and "));
    }
    Ok(())
}

/// Whether there are a loader and the description of a driver.
fn present() -> bool {
    let loader = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].into_iter().any(|library| {
        let directory = Path::new(library);
        let below = subdirectories(directory);
        below.iter().map(AsRef::as_ref).chain([directory]).any(|path| path.join("libvulkan.so.1").exists())
    });
    let chosen = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().any(|name| std::env::var_os(name).is_some());
    let drivers = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let installed = drivers.into_iter().any(|path| fs::read_dir(path).is_ok_and(|mut files| files.next().is_some()));
    loader && (chosen || installed)
}

/// Debian keeps libraries in a directory per architecture.
fn subdirectories(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Vulkan drivers complain where this variable is not set, as it is not for services and in containers.
pub(crate) fn quiet_vulkan(command: &mut Command) -> &mut Command {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    }
    command
}
