//! Reads a model's configuration from `config.json` or from the metadata of a GGUF file.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use smoke_storage::{Checkpoint, GgufValue, WeightSource};

use crate::error::ModelError;
use crate::gguf;
use crate::parts::Activation;

/// The keys and values of a configuration, with errors that name the key.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    values: Map<String, Value>,
    /// The architecture that the keys of a GGUF file begin with.
    gguf: Option<String>,
}

impl Config {
    /// The configuration of a checkpoint. Keys are those of Transformers for every format: those of a GGUF file are
    /// translated, and errors name the file's own.
    ///
    /// # Errors
    /// [`ModelError`] if there is none, or it is invalid.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let Some(mut config) = Self::of_gguf(checkpoint) else {
            return Self::beside(checkpoint);
        };
        config.gguf = Some(config.required("general.architecture")?);
        config.values.extend(gguf::implied(checkpoint.index()));
        Ok(config)
    }

    /// Adds what Transformers assumes where a `config.json` has no such key; a key that is null stays so. A GGUF file says
    /// everything.
    pub fn assume<const N: usize>(mut self, defaults: [(&str, Value); N]) -> Self {
        if !self.is_gguf() {
            for (key, value) in defaults {
                self.values.entry(key).or_insert(value);
            }
        }
        self
    }

    /// Whether this is the metadata of a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }

    /// The configuration's own name of a key.
    pub(crate) fn key<'a>(&self, key: &'a str) -> Cow<'a, str> {
        let Some(architecture) = &self.gguf else { return key.into() };
        gguf::key(key).map_or(key.into(), |ours| format!("{architecture}.{ours}").into())
    }

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
        Some(Self { path, values, gguf: None })
    }

    /// Reads the text of a `config.json`; `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is no JSON object.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ModelError> {
        let path = path.to_owned();
        match serde_json::from_str(text) {
            Ok(Value::Object(values)) => Ok(Self { path, values, gguf: None }),
            Ok(_) => Err(ModelError::Config { path, reason: "not a JSON object".to_owned() }),
            Err(error) => Err(ModelError::Config { path, reason: error.to_string() }),
        }
    }

    /// The value of `key`, or `None` where it is absent or null.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it has another type.
    pub fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ModelError> {
        let key = self.key(key);
        match self.values.get(&*key) {
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
        self.optional(key)?.ok_or_else(|| self.invalid(format!("key `{}` is missing", self.key(key))))
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

    /// A number above zero, or `None` where it is absent or null.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is not above zero, or infinite.
    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.optional::<f64>(key)? {
            Some(value) if !(value > 0.0 && value.is_finite()) => {
                Err(self.invalid(format!("key `{}` is {value}", self.key(key))))
            }
            value => Ok(value),
        }
    }

    /// A number above zero, or `default` where it is absent.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is not above zero, or infinite.
    pub fn positive_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        Ok(self.optional_positive(key)?.unwrap_or(default))
    }

    /// A number above zero.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is absent, not above zero, or infinite.
    pub fn positive(&self, key: &str) -> Result<f64, ModelError> {
        self.optional_positive(key)?.ok_or_else(|| self.invalid(format!("key `{}` is missing", self.key(key))))
    }

    /// How many tokens back a layer looks, itself among them; none where the key is absent, or 0 as GGUF files say it.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is no count.
    pub fn window(&self, key: &str) -> Result<Option<usize>, ModelError> {
        Ok(self.optional(key)?.filter(|&window| window > 0))
    }

    /// The non-linearity named by `key`, or `default` where it is absent.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the key if it is unknown.
    pub fn activation(&self, key: &str, default: &str) -> Result<Activation, ModelError> {
        let name: String = self.or(key, default.to_owned())?;
        name.parse().map_err(|error| self.invalid(format!("key `{}`: {error}", self.key(key))))
    }

    /// Refuses what is not implemented: `key` must be absent or one of `supported`.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the key and its value.
    pub fn only(&self, key: &str, supported: &[Value]) -> Result<(), ModelError> {
        match self.values.get(&*self.key(key)) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if supported.contains(value) => Ok(()),
            Some(value) => {
                let supported: Vec<String> = supported.iter().map(Value::to_string).collect();
                let (key, supported) = (self.key(key), supported.join(", "));
                Err(self.invalid(format!("key `{key}` is {value}, which is not supported; supported: {supported}")))
            }
        }
    }

    /// The object at `key`, as a configuration of its own; `None` where it is absent or null.
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is no object.
    pub fn section(&self, key: &str) -> Result<Option<Self>, ModelError> {
        let values = self.optional::<Map<String, Value>>(key)?;
        Ok(values.map(|values| Self { path: self.path.clone(), values, gguf: None }))
    }

    /// An error about this file.
    pub fn invalid(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Config { path: self.path.clone(), reason: reason.into() }
    }

    /// Sizes above 2²⁴ are no model's; refusing them keeps products of sizes from overflowing.
    fn plausible(&self, key: &str, count: usize) -> Result<usize, ModelError> {
        let plausible = (1..=1 << 24).contains(&count);
        if plausible { Ok(count) } else { Err(self.invalid(format!("key `{}` is {count}", self.key(key)))) }
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
