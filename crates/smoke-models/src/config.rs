//! Reads a model's configuration from `config.json` or from the metadata of a GGUF file.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use smoke_storage::{Checkpoint, GgufValue, WeightSource};

use crate::error::ModelError;

/// The keys and values of a configuration, with errors that name the key.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` beside the checkpoint.
    ///
    /// # Errors
    /// [`ModelError`] if the file is absent or no JSON object.
    pub fn beside(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let path = checkpoint.metadata().directory.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|cause| ModelError::File { path: path.clone(), cause })?;
        Self::parse(&path, &text)
    }

    /// The single values in a GGUF file's metadata; `None` for other formats.
    pub fn of_gguf(checkpoint: &Checkpoint) -> Option<Self> {
        let gguf = checkpoint.metadata().gguf.as_ref()?;
        let values = gguf.iter().filter_map(|(key, value)| Some((key.to_owned(), scalar(value)?))).collect();
        let path = checkpoint.index().files().first().map(|file| file.path.clone()).unwrap_or_default();
        Some(Self { path, values })
    }

    /// Reads the text of a `config.json`; `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is no JSON object.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ModelError> {
        let path = path.to_owned();
        match serde_json::from_str(text) {
            Ok(Value::Object(values)) => Ok(Self { path, values }),
            Ok(_) => Err(ModelError::Config { path, reason: "not a JSON object".to_owned() }),
            Err(error) => Err(ModelError::Config { path, reason: error.to_string() }),
        }
    }

    /// The value of `key`, or `None` where it is absent or null.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it has another type.
    pub fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ModelError> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                T::deserialize(value).map(Some).map_err(|error| self.invalid(format!("key `{key}`: {error}")))
            }
        }
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is absent or has another type.
    pub fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T, ModelError> {
        self.optional(key)?.ok_or_else(|| self.invalid(format!("key `{key}` is missing")))
    }

    /// The value of `key`, or `default` where it is absent.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it has another type.
    pub fn or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T, ModelError> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// A count that must be at least 1.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is absent, zero, or absurdly large.
    pub fn count(&self, key: &str) -> Result<usize, ModelError> {
        let count = self.required(key)?;
        self.plausible(key, count)
    }

    /// A count that must be at least 1, or `default` where it is absent.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is zero or absurdly large.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        let count = self.or(key, default)?;
        self.plausible(key, count)
    }

    /// The object at `key`, as a configuration of its own; `None` where it is absent or null.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is no object.
    pub fn section(&self, key: &str) -> Result<Option<Self>, ModelError> {
        let values = self.optional::<Map<String, Value>>(key)?;
        Ok(values.map(|values| Self { path: self.path.clone(), values }))
    }

    /// An error about this file.
    pub fn invalid(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Config { path: self.path.clone(), reason: reason.into() }
    }

    /// Sizes above 2²⁴ are no model's; refusing them keeps products of sizes from overflowing.
    fn plausible(&self, key: &str, count: usize) -> Result<usize, ModelError> {
        if (1..=1 << 24).contains(&count) { Ok(count) } else { Err(self.invalid(format!("key `{key}` is {count}"))) }
    }
}

fn scalar(value: &GgufValue) -> Option<Value> {
    if let Some(text) = value.as_str() {
        return Some(text.into());
    }
    if let Some(flag) = value.as_bool() {
        return Some(flag.into());
    }
    value.as_u64().map(Value::from).or_else(|| value.as_f64().map(Value::from))
}
