//! Which tensor of a checkpoint a parameter of a Burn module is.
//!
//! The rules are those by which `burn-store` reads PyTorch files: a `Linear`'s matrix is transposed, and norms call
//! `gamma` and `beta` what PyTorch calls `weight` and `bias`.

use std::collections::HashMap;

use regex::Regex;
use smoke_storage::TensorIndex;

/// Names of tensors as the module sees them, after the renames, with the names in the checkpoint.
#[derive(Debug)]
pub(crate) struct Mapping {
    by_path: HashMap<String, String>,
    burn_layout: bool,
}

impl Mapping {
    /// Applies every rename, in order, to every tensor name. In the `burn_layout` matrices lie as Burn uses them.
    pub(crate) fn new(index: &TensorIndex, renames: &[(Regex, String)], burn_layout: bool) -> Self {
        let rename = |name: &str| {
            renames.iter().fold(name.to_owned(), |name, (from, to)| from.replace_all(&name, to.as_str()).into_owned())
        };
        let by_path = index.iter().map(|tensor| (rename(&tensor.name), tensor.name.clone())).collect();
        Self { by_path, burn_layout }
    }

    /// The tensor for the parameter at `path` in a module of type `container`.
    pub(crate) fn find(&self, path: &str, container: &str) -> Option<&str> {
        let found = self.by_path.get(path).or_else(|| {
            let (module, parameter) = path.rsplit_once('.').unwrap_or(("", path));
            let parameter = pytorch_name(parameter, container)?;
            let alternative = if module.is_empty() { parameter.to_owned() } else { format!("{module}.{parameter}") };
            self.by_path.get(&alternative)
        });
        found.map(String::as_str)
    }

    /// Whether the checkpoint holds this parameter transposed.
    pub(crate) fn is_transposed(&self, path: &str, container: &str, dimensions: usize) -> bool {
        let is_matrix = container == "Struct:Linear" && dimensions == 2 && path.rsplit('.').next() == Some("weight");
        is_matrix && !self.burn_layout
    }
}

fn pytorch_name(parameter: &str, container: &str) -> Option<&'static str> {
    let is_norm = matches!(container, "Struct:BatchNorm" | "Struct:LayerNorm" | "Struct:GroupNorm" | "Struct:RmsNorm");
    match parameter {
        "gamma" if is_norm => Some("weight"),
        "beta" if is_norm => Some("bias"),
        _ => None,
    }
}
