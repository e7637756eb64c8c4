//! What lies beside the weights: configuration, tokenizer and the like.

use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use smoke_core::Encoding;
use smoke_storage::{Checkpoint, TensorIndex};

use crate::conversion::read;
use crate::error::ConvertError;

/// A small file that is written beside the weights.
#[derive(Clone, Debug)]
pub(crate) struct SideFile {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

impl SideFile {
    pub(crate) fn json(name: &str, value: &Value) -> Self {
        Self { name: name.to_owned(), content: format!("{value:#}\n").into_bytes() }
    }
}

/// Files of other kinds are not taken along.
const TAKEN: [&str; 5] = ["json", "txt", "model", "jinja", "md"];
/// The largest that is taken along; tokenizers have some 10 MB.
const LARGEST: u64 = 256 << 20;

/// The files beside a checkpoint that belong to its model: all small ones of the usual kinds, and the configurations of
/// sentence-transformers' modules. The configuration's dtype
/// becomes that of most of the weights.
pub(crate) fn beside(checkpoint: &Checkpoint, index: &TensorIndex) -> Result<Vec<SideFile>, ConvertError> {
    let directory = &checkpoint.metadata().directory;
    let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.clone() };
    let io = |cause| ConvertError::Io { path: directory.clone(), cause };
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_taken = path.extension().and_then(OsStr::to_str).is_some_and(|extension| TAKEN.contains(&extension));
        let is_small = fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= LARGEST);
        // The index of shards is made anew.
        if !is_taken || !is_small || name.ends_with(".index.json") || name.starts_with('.') {
            continue;
        }
        let mut content = read(path)?;
        if name == "config.json"
            && let Some(changed) = with_dtype(&content, index)
        {
            content = changed;
        }
        files.push(SideFile { name, content });
    }
    let modules = files.iter().find(|file| file.name == "modules.json").map(|file| module_directories(&file.content));
    for module in modules.unwrap_or_default() {
        let path = directory.join(&module).join("config.json");
        if path.is_file() {
            files.push(SideFile { name: format!("{module}/config.json"), content: read(path)? });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The directories in which sentence-transformers keeps the configurations of a model's modules, as `1_Pooling`. Names
/// that lead elsewhere are passed over.
fn module_directories(modules: &[u8]) -> Vec<String> {
    let modules: Vec<Value> = serde_json::from_slice(modules).unwrap_or_default();
    let paths = modules.iter().filter_map(|module| module.get("path")?.as_str());
    let is_plain = |path: &&str| matches!(Path::new(path).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    paths.filter(is_plain).map(str::to_owned).collect()
}

/// The configuration with another dtype, if it states one and the weights have one that it can state.
fn with_dtype(config: &[u8], index: &TensorIndex) -> Option<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(config).ok()?;
    let name = dtype_name(most_common(index))?;
    let stated = ["torch_dtype", "dtype"].into_iter().find(|key| config.get(key).is_some_and(Value::is_string))?;
    if config[stated] == name {
        return None;
    }
    config[stated] = name.into();
    Some(SideFile::json("", &config).content)
}

/// The encoding that most bytes of an index have.
pub(crate) fn most_common(index: &TensorIndex) -> Encoding {
    let mut counts: Vec<(Encoding, u64)> = Vec::new();
    for tensor in index.iter().filter(|tensor| tensor.encoding.is_real()) {
        match counts.iter_mut().find(|(encoding, _)| *encoding == tensor.encoding) {
            Some((_, elements)) => *elements += tensor.elements(),
            None => counts.push((tensor.encoding, tensor.elements())),
        }
    }
    counts.into_iter().max_by_key(|&(_, elements)| elements).map_or(Encoding::F32, |(encoding, _)| encoding)
}

/// What Transformers calls an encoding.
pub(crate) fn dtype_name(encoding: Encoding) -> Option<&'static str> {
    match encoding {
        Encoding::F32 => Some("float32"),
        Encoding::F16 => Some("float16"),
        Encoding::BF16 => Some("bfloat16"),
        _ => None,
    }
}
