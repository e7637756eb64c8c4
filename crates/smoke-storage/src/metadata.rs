use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The family of a checkpoint's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Safetensors, in one file or several.
    Safetensors,
    /// GGUF, which describes the model and its tokenizer, too.
    Gguf,
    /// What PyTorch's `torch.save` writes, in one file or several.
    PyTorch,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::PyTorch => "PyTorch",
        })
    }
}

/// What a checkpoint says beside its tensors.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metadata {
    /// Where files that belong to the checkpoint lie, such as `config.json` and `tokenizer.json`.
    pub directory: PathBuf,
    /// The family of its files.
    pub format: Format,
    /// The keys and values of a GGUF file.
    pub gguf: Option<GgufMetadata>,
    /// The free texts of safetensors files.
    pub texts: BTreeMap<String, String>,
}

/// The keys and values of a GGUF file.
#[derive(Clone, Debug, Default)]
pub struct GgufMetadata {
    values: BTreeMap<String, GgufValue>,
}

/// A value in a GGUF file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GgufValue {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Any float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// An array of texts, such as a vocabulary.
    Texts(TextArray),
    /// An array of integers.
    Integers(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f32>),
    /// An array of anything else.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// The value as a number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(number) => Some(number),
            Self::Signed(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a float; integers are converted.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Float(number) => Some(number),
            Self::Unsigned(number) => Some(number as f64),
            Self::Signed(number) => Some(number as f64),
            _ => None,
        }
    }

    /// The value as a text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The value as true or false.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = *self { Some(flag) } else { None }
    }
}

impl GgufMetadata {
    pub(crate) fn new(values: BTreeMap<String, GgufValue>) -> Self {
        Self { values }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.values.get(key)
    }

    /// All keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A number that is not negative; `None` if the key is absent or something else.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A float; `None` if the key is absent or something else.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// A text; `None` if the key is absent or something else.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// True or false; `None` if the key is absent or something else.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// An array of texts; `None` if the key is absent or something else.
    pub fn strings(&self, key: &str) -> Option<Vec<&str>> {
        if let GgufValue::Texts(texts) = self.get(key)? { Some(texts.iter().collect()) } else { None }
    }

    /// An array of integers; `None` if the key is absent, something else, or an integer does not fit.
    pub fn i32s(&self, key: &str) -> Option<Vec<i32>> {
        let GgufValue::Integers(numbers) = self.get(key)? else { return None };
        numbers.iter().map(|&number| number.try_into().ok()).collect()
    }

    /// An array of floats; `None` if the key is absent or something else.
    pub fn f32s(&self, key: &str) -> Option<Vec<f32>> {
        if let GgufValue::Floats(numbers) = self.get(key)? { Some(numbers.clone()) } else { None }
    }
}

/// Many short texts in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextArray {
    bytes: String,
    ends: Vec<usize>,
}

impl TextArray {
    pub(crate) fn push(&mut self, text: &str) {
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len());
    }

    /// The texts in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}
