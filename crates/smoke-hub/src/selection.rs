//! Which of a repository's files make the model. Nothing here reads or writes.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;

use crate::error::HubError;
use crate::id::is_inner_path;

/// What is fetched beside the weights, if it is there.
const COMPANIONS: [&str; 19] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    // Sentence embeddings: how token vectors are pooled.
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
];

const INDEX: &str = ".index.json";

/// The file of weights that is opened: all of them, or the index of their shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Weights<'a>(pub(crate) &'a str);

impl<'a> Weights<'a> {
    /// Takes the file that was asked for, or the one that a reader of such a directory would look for first. `page` is
    /// for messages.
    pub(crate) fn choose(names: &'a [String], asked: Option<&str>, page: &str) -> Result<Self, HubError> {
        let named = |wanted: &str| names.iter().map(String::as_str).find(|&name| name == wanted);
        let page = page.to_owned();
        if let Some(asked) = asked {
            let files = || names.iter().filter(|name| is_weights(name)).cloned().collect();
            let error = || HubError::NoFile { page: page.clone(), file: asked.to_owned(), files: files() };
            let found = named(asked).ok_or_else(error)?;
            return Self(found).unsplit(page);
        }
        for usual in ["model.safetensors", "model.safetensors.index.json"] {
            if let Some(name) = named(usual) {
                return Ok(Self(name));
            }
        }
        let kinds: [fn(&str) -> bool; 2] = [is_other_safetensors, is_language_model_gguf];
        for is_kind in kinds {
            let found: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_kind(name)).collect();
            match found[..] {
                [] => {}
                [only] => return Self(only).unsplit(page),
                _ => {
                    let files = found.into_iter().map(str::to_owned).collect();
                    return Err(HubError::SeveralWeights { page, files });
                }
            }
        }
        for usual in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
            if let Some(name) = named(usual) {
                return Ok(Self(name));
            }
        }
        Err(HubError::NoWeights { page })
    }

    /// Whether it is an index, and the weights are in the shards that it names.
    pub(crate) fn is_index(&self) -> bool {
        self.0.ends_with(INDEX)
    }

    /// What is to be fetched beside it: what lies in the same directory.
    pub(crate) fn companions<'b>(&self, names: &'b [String]) -> impl Iterator<Item = &'b str> {
        let directory = directory(self.0).to_owned();
        let names = names.iter().map(String::as_str);
        names.filter(move |name| name.strip_prefix(&*directory).is_some_and(|name| COMPANIONS.contains(&name)))
    }

    /// The shards that the text of this index names, as paths within the repository.
    ///
    /// # Errors
    /// The reason why it is no index.
    pub(crate) fn shards(&self, index: &[u8]) -> Result<Vec<String>, String> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: HashMap<String, String>,
        }
        let index: Index = serde_json::from_slice(index).map_err(|error| error.to_string())?;
        let shards: BTreeSet<String> = index.weight_map.into_values().collect();
        if let Some(shard) = shards.iter().find(|shard| !is_inner_path(shard)) {
            return Err(format!("it names a shard `{shard}`, which is not beside it"));
        }
        Ok(shards.into_iter().map(|shard| format!("{}{shard}", directory(self.0))).collect())
    }

    fn unsplit(self, page: String) -> Result<Self, HubError> {
        if is_part_of_gguf(self.0) {
            return Err(HubError::SplitGguf { page, file: self.0.to_owned() });
        }
        Ok(self)
    }
}

/// The directory of a path with its slash, or nothing.
fn directory(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..=slash])
}

/// Whether a file of this name may be asked for.
pub(crate) fn is_weights(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin", ".pt", INDEX].iter().any(|ending| name.ends_with(ending))
}

/// Safetensors of an unusual name. Adapters are additions to weights; what lies deeper belongs to something else.
fn is_other_safetensors(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains('/') && !name.starts_with("adapter_")
}

/// Files named `mmproj` bring images into a model's inputs, and are no model of their own.
fn is_language_model_gguf(name: &str) -> bool {
    name.ends_with(".gguf") && !name[directory(name).len()..].starts_with("mmproj")
}

/// Whether the name is like `model-00001-of-00003.gguf`.
fn is_part_of_gguf(name: &str) -> bool {
    let parts = name.strip_suffix(".gguf").and_then(|stem| stem.rsplit_once("-of-"));
    parts.is_some_and(|(front, count)| {
        let number = front.rsplit_once('-').map_or("", |(_, number)| number);
        [number, count].iter().all(|text| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(names: &[&str], asked: Option<&str>) -> Result<String, HubError> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Weights::choose(&names, asked, "page").map(|weights| weights.0.to_owned())
    }

    #[test]
    fn safetensors_go_before_gguf_before_pickles() {
        let all = ["pytorch_model.bin", "model-q4.gguf", "config.json", "model.safetensors"];
        for (names, chosen) in [
            (&all[..], "model.safetensors"),
            (&all[..3], "model-q4.gguf"),
            (&all[..1], "pytorch_model.bin"),
            (&["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], "pytorch_model.bin.index.json"),
            (
                &["model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"],
                "model.safetensors.index.json",
            ),
            (&["tiny.safetensors", "adapter_model.safetensors", "onnx/x.safetensors"], "tiny.safetensors"),
            (&["Q4/model.gguf", "mmproj-model.gguf"], "Q4/model.gguf"),
        ] {
            assert_eq!(choose(names, None).unwrap(), chosen, "{names:?}");
        }
    }

    #[test]
    fn what_is_not_clear_is_an_error_that_lists() {
        let names = ["a-q4.gguf", "a-q8.gguf", "README.md"];
        let error = choose(&names, None).unwrap_err().to_string();
        assert!(error.contains("a-q4.gguf, a-q8.gguf") && error.contains("--file"), "{error}");
        assert_eq!(choose(&names, Some("a-q8.gguf")).unwrap(), "a-q8.gguf");
        let error = choose(&names, Some("a-q5.gguf")).unwrap_err().to_string();
        assert!(error.contains("a-q5.gguf") && error.contains("a-q4.gguf, a-q8.gguf"), "{error}");
        assert!(matches!(choose(&["README.md"], None), Err(HubError::NoWeights { .. })));
        let part = "m-00001-of-00003.gguf";
        assert!(matches!(choose(&[part], None), Err(HubError::SplitGguf { .. })));
        assert!(matches!(choose(&[part, "m.gguf"], Some(part)), Err(HubError::SplitGguf { .. })));
    }

    #[test]
    fn companions_and_shards_lie_beside_the_weights() {
        let names = ["config.json", "sub/config.json", "sub/tokenizer.json", "sub/x.py", "1_Pooling/config.json"];
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let companions = |weights| Weights(weights).companions(&names).collect::<Vec<_>>();
        assert_eq!(companions("model.safetensors"), ["config.json", "1_Pooling/config.json"]);
        assert_eq!(companions("sub/model.safetensors"), ["sub/config.json", "sub/tokenizer.json"]);

        let index = Weights("sub/model.safetensors.index.json");
        let shards =
            index.shards(br#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#);
        assert_eq!(shards.unwrap(), ["sub/1.safetensors", "sub/2.safetensors"]);
        assert!(index.shards(br#"{"weight_map": {"a": "../../x"}}"#).unwrap_err().contains("../../x"));
        assert!(index.shards(b"{").is_err());
    }
}
