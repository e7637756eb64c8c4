//! PyTorch and Transformers for the processor, in the workspace's virtual environment.

use std::path::Path;

use anyhow::{Context, Result};

use crate::python::Environment;
use crate::run::{output, run};

/// Versions are fixed, since what is trained or measured should be the same everywhere.
const TORCH: &str = "torch==2.9.1";
const PACKAGES: [&str; 3] = ["transformers==4.57.3", "tokenizers==0.22.2", "numpy==2.3.5"];
/// What PyTorch needs from other packages when it is installed without the CUDA libraries.
const TORCH_NEEDS: [&str; 6] = ["filelock", "fsspec", "jinja2", "networkx", "sympy", "typing-extensions"];

/// Installs both unless they are there: a download of 0.9 GB.
pub(crate) fn ensure(environment: &Environment) -> Result<()> {
    if environment.imports("torch, transformers, tokenizers") {
        return Ok(());
    }
    eprintln!("installing PyTorch and Transformers: 0.9 GB, some minutes");
    environment.install(&[], &PACKAGES)?;
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return environment.install(&[], &[TORCH]);
    }
    // The wheel is linked to 2.5 GB of CUDA libraries of which the processor needs nothing.
    environment.install(&[], &TORCH_NEEDS)?;
    environment.install(&["--no-deps"], &[TORCH])?;
    let print_packages = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let packages = output(environment.python().args(["-c", print_packages]))?;
    let libraries = Path::new(packages.trim()).join("torch/lib");
    run(environment.python().arg(crate::root().join("xtask/src/torch_cpu_stubs.py")).arg(libraries))
        .context("the stand-ins for the CUDA libraries are not built (Debian: apt-get install gcc binutils)")
}
