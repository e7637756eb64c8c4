//! Most crates know no tensor framework: none may stand in their dependency trees, however indirect.

use anyhow::{Result, bail};

use crate::run::{cargo, output};

const CRATES: [&str; 10] = [
    "smoke-core",
    "smoke-cache",
    "smoke-compress",
    "smoke-predict",
    "smoke-storage",
    "smoke-quant",
    "smoke-prefetch",
    "smoke-convert",
    "smoke-hub",
    "smoke-replay",
];

/// Names of a framework's crates start with one of these.
const FRAMEWORK: [&str; 3] = ["burn", "cubecl", "cubek"];

/// Fails if Burn stands in the dependency tree of a crate that should not know it.
pub(crate) fn check() -> Result<()> {
    for name in CRATES {
        let tree = ["tree", "-p", name, "-e", "normal,build,dev", "--target", "all", "--all-features"];
        let tree = output(cargo(tree).args(["--prefix", "none", "--format", "{p}"]))?;
        let found = framework(&tree);
        if !found.is_empty() {
            bail!("{name} depends on {}; `cargo tree -p {name} -i {}` tells how", found.join(", "), found[0]);
        }
        eprintln!("{name}: {} packages, none of Burn", tree.lines().count());
    }
    Ok(())
}

/// The framework's crates among lines of `name version`.
fn framework(tree: &str) -> Vec<&str> {
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    let mut found: Vec<_> = names.filter(|name| FRAMEWORK.iter().any(|prefix| name.starts_with(prefix))).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framework_is_found_by_its_names() {
        let tree = "smoke-core v0.1.0\nburn-tensor v0.22.1\nhalf v2.7.0\ncubecl v0.11.3\nburn-tensor v0.22.1 (*)\n";
        assert_eq!(framework(tree), ["burn-tensor", "cubecl"]);
        assert_eq!(framework("smoke-core v0.1.0\nserde v1.0.0\n"), [""; 0]);
    }
}
