//! Examples are programs that people copy: each runs.

use anyhow::{Result, ensure};

use crate::run::{FEATURES, cargo, metadata, run};
use crate::vulkan::{self, quiet_vulkan};

/// The example that takes the name of a device.
const ON_DEVICES: &str = "burn_existing_model";

/// Builds all examples with what the tests are built with, and runs those that are no measurements.
pub(crate) fn run_all() -> Result<()> {
    vulkan::ensure()?;
    run(cargo(["build", "--workspace", "--examples"]).args(FEATURES))?;
    let names = names()?;
    ensure!(!names.is_empty(), "there are no examples");
    for name in names.iter().filter(|name| !name.ends_with("_speed")) {
        let program = crate::root().join("target/debug/examples").join(name);
        let example = || {
            let mut example = std::process::Command::new(&program);
            example.current_dir(crate::root());
            example
        };
        run(&mut example())?;
        if name == ON_DEVICES {
            run(quiet_vulkan(example().arg("wgpu")))?;
        }
    }
    Ok(())
}

fn names() -> Result<Vec<String>> {
    let metadata = metadata(&[])?;
    let targets =
        metadata["packages"].as_array().into_iter().flatten().flat_map(|package| package["targets"].as_array());
    let examples = targets.flatten().filter(|target| target["kind"][0] == "example");
    Ok(examples.filter_map(|target| target["name"].as_str().map(String::from)).collect())
}
