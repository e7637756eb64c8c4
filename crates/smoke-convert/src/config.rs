//! `config.json`, with errors that name the key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::conversion::read;
use crate::error::ConvertError;

/// The keys and values of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    /// Reads a file with a JSON object.
    pub(crate) fn read(path: &Path) -> Result<Self, ConvertError> {
        let path = path.to_owned();
        match serde_json::from_slice(&read(path.clone())?) {
            Ok(Value::Object(values)) => Ok(Self { path, values }),
            Ok(_) => Err(ConvertError::Config { path, reason: "it is no JSON object".to_owned() }),
            Err(error) => Err(ConvertError::Config { path, reason: error.to_string() }),
        }
    }

    /// Reads a file that may be absent: then it has no keys.
    pub(crate) fn read_if_there(path: &Path) -> Result<Self, ConvertError> {
        if path.is_file() { Self::read(path) } else { Ok(Self { path: path.to_owned(), values: Map::new() }) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The object at a key.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Self>, ConvertError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self { path: self.path.clone(), values: values.clone() })),
            Some(_) => Err(self.invalid(key, "is no object")),
        }
    }

    /// A number from 1 to 2²⁴, as sizes of models are.
    pub(crate) fn count(&self, key: &str) -> Result<u64, ConvertError> {
        let value = self.get(key).ok_or_else(|| self.invalid(key, "is missing"))?;
        value
            .as_u64()
            .filter(|count| (1..=1 << 24).contains(count))
            .ok_or_else(|| self.invalid(key, "is no plausible size"))
    }

    pub(crate) fn count_or(&self, key: &str, default: u64) -> Result<u64, ConvertError> {
        if self.has(key) { self.count(key) } else { Ok(default) }
    }

    pub(crate) fn float(&self, key: &str) -> Result<f64, ConvertError> {
        let value = self.get(key).ok_or_else(|| self.invalid(key, "is missing"))?;
        value.as_f64().ok_or_else(|| self.invalid(key, "is no number"))
    }

    pub(crate) fn float_or(&self, key: &str, default: f64) -> Result<f64, ConvertError> {
        if self.has(key) { self.float(key) } else { Ok(default) }
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ConvertError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.invalid(key, "is neither true nor false"))
    }

    pub(crate) fn text(&self, key: &str) -> Result<String, ConvertError> {
        let value = self.get(key).ok_or_else(|| self.invalid(key, "is missing"))?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.invalid(key, "is no text"))
    }

    pub(crate) fn text_or(&self, key: &str, default: &str) -> Result<String, ConvertError> {
        if self.has(key) { self.text(key) } else { Ok(default.to_owned()) }
    }

    fn invalid(&self, key: &str, what: &str) -> ConvertError {
        ConvertError::Config { path: self.path.clone(), reason: format!("key `{key}` {what}") }
    }
}
