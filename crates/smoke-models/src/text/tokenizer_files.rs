use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::chat::ChatTemplate;
use super::tokenizer::{Framing, Parts, TokenizerError, without_repeats};

/// Reads a tokenizer and what belongs to it from a Hugging Face directory.
pub(super) fn read(directory: &Path) -> Result<Parts, TokenizerError> {
    let tokenizer = read_tokenizer(directory)?;
    let config: TokenizerConfig = read_json(&directory.join("tokenizer_config.json"))?.unwrap_or_default();
    let map: SpecialTokensMap = read_json(&directory.join("special_tokens_map.json"))?.unwrap_or_default();
    let generation: Ids = read_json(&directory.join("generation_config.json"))?.unwrap_or_default();
    let model: Ids = read_json(&directory.join("config.json"))?.unwrap_or_default();

    // Names come first: ids in config.json are known to be stale in some models.
    let id_of = |token: Option<&SpecialToken>| tokenizer.token_to_id(token?.text());
    let own_eos = id_of(config.eos_token.as_ref().or(map.eos_token.as_ref()));
    let bos = id_of(config.bos_token.as_ref().or(map.bos_token.as_ref()))
        .or_else(|| generation.bos_token_id.first())
        .or_else(|| model.bos_token_id.first());
    let pad = id_of(config.pad_token.as_ref().or(map.pad_token.as_ref()))
        .or_else(|| generation.pad_token_id.first())
        .or_else(|| model.pad_token_id.first());
    // generation_config.json replaces config.json, as in Transformers; the tokenizer's own end counts in any case.
    let configured = if generation.eos_token_id.is_empty() { &model.eos_token_id } else { &generation.eos_token_id };
    let eos = without_repeats(own_eos.into_iter().chain(configured.iter()));

    let framing = framing(&tokenizer, &config, bos, eos.first().copied());
    let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default();
    let chat_template = read_chat_template(directory, config.chat_template)?
        .map(|source| ChatTemplate::new(source).with_tokens(text_of(bos), text_of(eos.first().copied())));
    Ok(Parts { framing, bos, pad, eos, chat_template, tokenizer })
}

fn read_tokenizer(directory: &Path) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let path = directory.join("tokenizer.json");
    let Some(bytes) = read_if_there(&path)? else {
        let remedy = if directory.join("tokenizer.model").is_file() || directory.join("vocab.json").is_file() {
            "the directory has the tokenizer in an older form: convert it by Python's \
             `transformers.AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)`, or give token ids \
             instead of text"
        } else {
            "copy it from where the model came from, or give token ids instead of text"
        };
        return Err(TokenizerError::Missing { looked_for: path, remedy });
    };
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes)
        .map_err(|cause| TokenizerError::Parse { path: path.clone(), cause: cause.into() })?;
    // The file may carry the settings of its training; a prompt is neither to be cut nor padded.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|cause| TokenizerError::Parse { path, cause: cause.into() })?;
    Ok(tokenizer)
}

/// `add_bos_token` and `add_eos_token`, where stated, overrule the post-processor.
fn framing(tokenizer: &tokenizers::Tokenizer, config: &TokenizerConfig, bos: Option<u32>, eos: Option<u32>) -> Framing {
    if config.add_bos_token.is_none() && config.add_eos_token.is_none() {
        return Framing::PostProcessor;
    }
    // For the one of the two that is not stated: what does the post-processor add to nothing?
    let added = tokenizer.encode_fast("", true).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
    let adds_bos = config.add_bos_token.unwrap_or_else(|| bos.is_some() && added.first() == bos.as_ref());
    let adds_eos = config.add_eos_token.unwrap_or_else(|| eos.is_some() && added.last() == eos.as_ref());
    Framing::Tokens { before: bos.filter(|_| adds_bos), after: eos.filter(|_| adds_eos) }
}

/// A file of its own replaces the template in the configuration, as in Transformers.
fn read_chat_template(directory: &Path, configured: Option<ChatTemplates>) -> Result<Option<String>, TokenizerError> {
    let path = directory.join("chat_template.jinja");
    if let Some(bytes) = read_if_there(&path)? {
        let source =
            String::from_utf8(bytes).map_err(|cause| TokenizerError::Parse { path, cause: Arc::new(cause) })?;
        return Ok(Some(source));
    }
    Ok(match configured {
        None => None,
        Some(ChatTemplates::One(source)) => Some(source),
        // Others than the default are for tools and documents.
        Some(ChatTemplates::Named(mut templates)) => {
            let default = templates.iter().position(|template| template.name == "default").unwrap_or(0);
            (default < templates.len()).then(|| templates.swap_remove(default).template)
        }
    })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TokenizerError> {
    let Some(bytes) = read_if_there(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|cause| TokenizerError::Parse { path: path.to_owned(), cause: Arc::new(cause) })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(TokenizerError::Read { path: path.to_owned(), cause: Arc::new(cause) }),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    chat_template: Option<ChatTemplates>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SpecialTokensMap {
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Described { content: String },
}

impl SpecialToken {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Described { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// The ids that `config.json` and `generation_config.json` have in common.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Ids {
    bos_token_id: OneOrMore,
    eos_token_id: OneOrMore,
    pad_token_id: OneOrMore,
}

#[derive(Default, Deserialize)]
#[serde(from = "OneOrMoreForm")]
struct OneOrMore(Vec<u32>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMoreForm {
    None(()),
    // Signed, for -1 is written where there is none.
    One(i64),
    More(Vec<i64>),
}

impl From<OneOrMoreForm> for OneOrMore {
    fn from(form: OneOrMoreForm) -> Self {
        let ids = match form {
            OneOrMoreForm::None(()) => Vec::new(),
            OneOrMoreForm::One(id) => vec![id],
            OneOrMoreForm::More(ids) => ids,
        };
        Self(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
    }
}

impl OneOrMore {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AddSpecial, Message, SpecialTokens, Tokenizer, TokenizerError};
    use std::fs;

    /// Ids: `<s>` 0, `</s>` 1, `<pad>` 2, `<turn>` 3, a 4, b 5, ab 6.
    const TOKENIZER: &str = r#"{
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2,
                    "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": [
            {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 2, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 3, "content": "<turn>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": POST_PROCESSOR,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<s>": 0, "</s>": 1, "<pad>": 2, "<turn>": 3, "a": 4, "b": 5, "ab": 6}, "merges": [["a", "b"]]}
    }"#;

    const ADDS_BOS: &str = r#"{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}"#;

    fn open(post_processor: &str, files: &[(&str, &str)]) -> Result<Tokenizer, TokenizerError> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("tokenizer.json"), TOKENIZER.replace("POST_PROCESSOR", post_processor))
            .unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Tokenizer::open(directory.path())
    }

    #[test]
    fn special_tokens_are_found_wherever_they_are_stated() {
        for (files, bos, eos, pad) in [
            (vec![], None, vec![], None),
            (
                vec![(
                    "tokenizer_config.json",
                    r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null}"#,
                )],
                Some(0),
                vec![1],
                None,
            ),
            (
                vec![("special_tokens_map.json", r#"{"bos_token": {"content": "<s>"}, "pad_token": "<pad>"}"#)],
                Some(0),
                vec![],
                Some(2),
            ),
            (
                vec![("config.json", r#"{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}"#)],
                Some(0),
                vec![1],
                None,
            ),
            (
                vec![
                    ("tokenizer_config.json", r#"{"eos_token": "<turn>"}"#),
                    ("generation_config.json", r#"{"eos_token_id": [1, 3], "bos_token_id": null}"#),
                    ("config.json", r#"{"eos_token_id": 2}"#),
                ],
                None,
                vec![3, 1],
                None,
            ),
        ] {
            let tokenizer = open("null", &files).unwrap();
            assert_eq!(
                (tokenizer.bos_id(), tokenizer.end_ids(), tokenizer.pad_id()),
                (bos, &eos[..], pad),
                "{files:?}"
            );
        }
    }

    #[test]
    fn the_configuration_overrules_the_post_processor() {
        for (post_processor, stated, expected) in [
            ("null", "", vec![6, 4]),
            ("null", r#", "add_bos_token": true"#, vec![0, 6, 4]),
            ("null", r#", "add_bos_token": true, "add_eos_token": true"#, vec![0, 6, 4, 1]),
            (ADDS_BOS, "", vec![0, 6, 4]),
            (ADDS_BOS, r#", "add_bos_token": true"#, vec![0, 6, 4]),
            (ADDS_BOS, r#", "add_bos_token": false"#, vec![6, 4]),
            (ADDS_BOS, r#", "add_eos_token": true"#, vec![0, 6, 4, 1]),
        ] {
            let config = format!(r#"{{"bos_token": "<s>", "eos_token": "</s>"{stated}}}"#);
            let tokenizer = open(post_processor, &[("tokenizer_config.json", &config)]).unwrap();
            assert_eq!(tokenizer.encode("aba", AddSpecial::Yes).unwrap(), expected, "{post_processor} {stated}");
            assert_eq!(tokenizer.encode("aba", AddSpecial::No).unwrap(), [6, 4]);
        }
    }

    #[test]
    fn text_and_tokens_convert_both_ways() {
        let tokenizer = open("null", &[]).unwrap();
        assert_eq!(tokenizer.vocab_size(), 7);
        // Neither cut to 2 nor padded to 8, as the file would have it.
        let ids = tokenizer.encode("<turn>abab</s>", AddSpecial::No).unwrap();
        assert_eq!(ids, [3, 6, 6, 1]);
        assert_eq!(tokenizer.decode(&ids, SpecialTokens::Keep).unwrap(), "<turn>abab</s>");
        assert_eq!(tokenizer.decode(&ids, SpecialTokens::Skip).unwrap(), "abab");
        assert_eq!(tokenizer.decode(&[6, 99, 4], SpecialTokens::Keep).unwrap(), "aba");
        assert!(tokenizer.encode("", AddSpecial::Yes).unwrap().is_empty());
    }

    #[test]
    fn chat_templates_are_found_in_every_form() {
        let one = r#"{"bos_token": "<s>", "chat_template": "{{ bos_token }}one"}"#;
        let named =
            r#"{"chat_template": [{"name": "tool_use", "template": "tool"}, {"name": "default", "template": "two"}]}"#;
        for (files, expected) in [
            (vec![], None),
            (vec![("tokenizer_config.json", one)], Some("<s>one")),
            (vec![("tokenizer_config.json", named)], Some("two")),
            (vec![("tokenizer_config.json", one), ("chat_template.jinja", "three")], Some("three")),
        ] {
            let tokenizer = open("null", &files).unwrap();
            let text = tokenizer.chat_template().map(|template| template.render(&[Message::user("x")]).unwrap());
            assert_eq!(text.as_deref(), expected, "{files:?}");
        }
    }

    #[test]
    fn a_missing_tokenizer_names_file_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let message = Tokenizer::open(directory.path()).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json") && message.contains("copy it"), "{message}");
        fs::write(directory.path().join("tokenizer.model"), "").unwrap();
        let message = Tokenizer::open(directory.path()).unwrap_err().to_string();
        assert!(message.contains("save_pretrained"), "{message}");
    }

    #[test]
    fn damaged_files_are_named() {
        for (name, text) in [
            ("tokenizer.json", "{\"version\": \"1.0\"}"),
            ("tokenizer.json", ""),
            ("tokenizer_config.json", "[1"),
            ("tokenizer_config.json", "{\"bos_token\": 7}"),
            ("generation_config.json", "{\"eos_token_id\": \"one\"}"),
        ] {
            let error = open("null", &[(name, text)]).unwrap_err();
            assert!(matches!(&error, TokenizerError::Parse { path, .. } if path.ends_with(name)), "{error:?}");
        }
    }
}
