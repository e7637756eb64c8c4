//! `model.safetensors.index.json`: which shard has which tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::FormatError;

/// The index of a sharded checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// The names of the tensors in each shard, by the shard's file name.
    pub shards: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Json {
    #[serde(deserialize_with = "without_duplicates")]
    weight_map: BTreeMap<String, String>,
}

/// A name that stands twice has two shards, and only one of them can be right.
fn without_duplicates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Unique;
    impl<'de> Visitor<'de> for Unique {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tensor names and shards")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut shards = BTreeMap::new();
            while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
                if shards.contains_key(&tensor) {
                    return Err(A::Error::custom(format!("tensor `{tensor}` stands twice")));
                }
                shards.insert(tensor, shard);
            }
            Ok(shards)
        }
    }
    deserializer.deserialize_map(Unique)
}

/// Parses the text of an index.
///
/// # Errors
/// [`FormatError::Header`] if it is no such JSON, or a shard is not simply a file's name: an index must not reach files
/// elsewhere.
pub fn parse_shard_index(text: &[u8]) -> Result<ShardIndex, FormatError> {
    let invalid = |error: &dyn fmt::Display| FormatError::header(error.to_string());
    let text = std::str::from_utf8(text).map_err(|error| invalid(&error))?;
    // The derived reading would take an array of the fields, too.
    if !text.trim_start().starts_with('{') {
        return Err(FormatError::header("it is no JSON object"));
    }
    let Json { weight_map } = serde_json::from_str(text).map_err(|error| invalid(&error))?;
    let mut index = ShardIndex::default();
    for (tensor, shard) in weight_map {
        let mut components = Path::new(&shard).components();
        let is_name = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !is_name || shard.contains(['/', '\\', '\0']) {
            return Err(FormatError::header(format!("tensor `{tensor}` is in `{shard}`, which is not a file's name")));
        }
        index.shards.entry(shard).or_default().push(tensor);
    }
    if index.shards.is_empty() {
        return Err(FormatError::header("it names no shard"));
    }
    Ok(index)
}
