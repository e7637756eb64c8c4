//! The kernels for NEON, on a machine that has none: compiled for aarch64 and tested in an emulator.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt;
use crate::run::{cargo, output, run, succeeds};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
const PACKAGES: [&str; 3] = ["qemu-user-static", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// The emulated processor: one of the first generation, which has nothing but NEON.
const PROCESSOR: &str = "cortex-a53";

/// Random cases of a property test: an eighth of what is usual, since emulated code is slow.
const CASES: &str = "32";

/// Obtains what [`check`] needs, or says what cannot be had.
pub(crate) fn ensure() -> Result<()> {
    ensure!(!cfg!(target_arch = "aarch64"), "on this machine the other stages do that");
    if !has_target()? {
        run(Command::new("rustup").args(["target", "add", TARGET])).context("no standard library for aarch64")?;
        ensure!(has_target()?, "no standard library for aarch64, though rustup added it");
    }
    if !has_tools() {
        apt::install(&PACKAGES).context("no linker or no emulator for aarch64")?;
        ensure!(has_tools(), "no linker or no emulator for aarch64, though {} are installed", PACKAGES.join(", "));
    }
    Ok(())
}

/// Checks and tests the crate that has kernels, as for any aarch64 machine.
pub(crate) fn check() -> Result<()> {
    let smoke_quant = ["-p", "smoke-quant", "--target", TARGET];
    run(cargo(["clippy", "--all-targets"]).args(smoke_quant).args(["--", "-D", "warnings"]))?;
    let mut test = cargo(["test"]);
    test.args(smoke_quant).env("PROPTEST_CASES", CASES).env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    let runner = format!("{EMULATOR} -cpu {PROCESSOR} -L /usr/aarch64-linux-gnu");
    run(test.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner))
}

/// Whether the compiler has its libraries for the target.
fn has_target() -> Result<bool> {
    let libraries = output(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    Ok(Path::new(libraries.trim()).is_dir())
}

fn has_tools() -> bool {
    [LINKER, EMULATOR].into_iter().all(|tool| succeeds(Command::new(tool).arg("--version")))
        && Path::new("/usr/aarch64-linux-gnu/lib/libc.so.6").exists()
}
