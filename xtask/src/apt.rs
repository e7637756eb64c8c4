//! Packages of Debian and its relatives.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{output, run, succeeds};

/// Installs packages, or says how to.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !succeeds(Command::new("apt-get").arg("--version")) {
        bail!("there is no apt-get to install {names} with");
    }
    let command = format!("apt-get install --no-install-recommends {names}");
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("install it with `sudo {command}`");
    }
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-o", "Dpkg::Use-Pty=0"]).env("DEBIAN_FRONTEND", "noninteractive");
        apt.stdin(Stdio::null()).stdout(Stdio::null());
        apt
    };
    let install = || -> Result<()> {
        run(apt().arg("update"))?;
        run(apt().args(["install", "--yes", "--no-install-recommends"]).args(packages))
    };
    install().with_context(|| format!("`{command}` failed"))
}
