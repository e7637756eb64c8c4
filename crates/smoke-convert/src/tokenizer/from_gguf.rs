//! From keys to `tokenizer.json` and `tokenizer_config.json`.

use serde_json::{Map, Value, json};
use smoke_storage::GgufMetadata;

use super::words::Words;
use super::{CONTROL, SPACE_SIGN, UNKNOWN, UNUSED, USER_DEFINED, pieces};
use crate::side_files::SideFile;

/// The tokenizer's files, and notes where it cannot be had.
pub(crate) fn from_gguf(metadata: &GgufMetadata) -> (Vec<SideFile>, Vec<String>) {
    match Tokenizer::read(metadata).and_then(|tokenizer| tokenizer.json().map(|json| (tokenizer, json))) {
        Ok((tokenizer, json)) => {
            let config = tokenizer.config();
            let files = [("tokenizer.json", &json), ("tokenizer_config.json", &config)];
            (files.map(|(name, json)| SideFile::json(name, json)).into(), Vec::new())
        }
        Err(reason) => (
            Vec::new(),
            vec![format!(
                "no tokenizer.json: {reason}; copy it from the original model, or give token ids instead of text"
            )],
        ),
    }
}

/// What the keys say.
struct Tokenizer<'a> {
    metadata: &'a GgufMetadata,
    pieces: Vec<&'a str>,
    types: Vec<i32>,
    scores: Vec<f32>,
}

impl<'a> Tokenizer<'a> {
    fn read(metadata: &'a GgufMetadata) -> Result<Self, String> {
        let pieces = metadata.strings("tokenizer.ggml.tokens").ok_or("the GGUF file has no vocabulary")?;
        let types = metadata.i32s("tokenizer.ggml.token_type").unwrap_or_default();
        let scores = metadata.f32s("tokenizer.ggml.scores").unwrap_or_default();
        if [types.len(), scores.len()].into_iter().any(|len| len != 0 && len != pieces.len()) {
            return Err("the types or scores of its tokens are not as many as the tokens".to_owned());
        }
        Ok(Self { metadata, pieces, types, scores })
    }

    fn json(&self) -> Result<Value, String> {
        let metadata = self.metadata;
        let vocabulary = self.vocabulary()?;
        let (model, normalizer, pre_tokenizer, decoder) = match metadata.str("tokenizer.ggml.model") {
            Some("gpt2") => {
                let words = self.words()?;
                let merges = metadata.strings("tokenizer.ggml.merges").ok_or("the GGUF file has no merges")?;
                let merges: Vec<Value> = merges
                    .iter()
                    .map(|merge| merge.split_once(' ').map(|(left, right)| json!([left, right])))
                    .collect::<Option<_>>()
                    .ok_or("a merge is not of two pieces")?;
                let decoder =
                    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
                let model = bpe(vocabulary, json!(merges), None, false, words.ignores_merges());
                (model, words.normalizer(), words.pre_tokenizer(), decoder)
            }
            Some("llama") if !self.scores.is_empty() => self.sentence_piece(vocabulary),
            other => return Err(format!("tokenizers of the kind {other:?} cannot be converted")),
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor()?,
            "decoder": decoder,
            "model": model,
        }))
    }

    fn words(&self) -> Result<Words, String> {
        let name = self.metadata.str("tokenizer.ggml.pre").unwrap_or("default");
        Words::by_name(name).ok_or_else(|| format!("words are cut in the way `{name}`, which cannot be converted"))
    }

    /// Model, normaliser, pre-tokenizer and decoder.
    fn sentence_piece(&self, vocabulary: Map<String, Value>) -> (Value, Value, Value, Value) {
        let merges = pieces::merges(&self.pieces, &self.scores, &self.types);
        let unknown = self.id("unknown").or_else(|| self.types.iter().position(|&kind| kind == UNKNOWN)).unwrap_or(0);
        let unknown = self.pieces.get(unknown).copied();
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let mut normalizers = vec![replace(" ", SPACE_SIGN)];
        let mut decoders = vec![replace(SPACE_SIGN, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if self.metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true) {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE_SIGN}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        (
            bpe(vocabulary, json!(merges), unknown, true, false),
            json!({"type": "Sequence", "normalizers": normalizers}),
            Value::Null,
            json!({"type": "Sequence", "decoders": decoders}),
        )
    }

    fn kind(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or(super::NORMAL)
    }

    fn vocabulary(&self) -> Result<Map<String, Value>, String> {
        let mut vocabulary = Map::new();
        for (id, &piece) in self.pieces.iter().enumerate().filter(|&(id, _)| self.kind(id) != UNUSED) {
            if vocabulary.insert(piece.to_owned(), id.into()).is_some() {
                return Err(format!("two of its tokens are {piece:?}"));
            }
        }
        Ok(vocabulary)
    }

    fn added_tokens(&self) -> Vec<Value> {
        let named = ["bos", "eos"].map(|name| self.id(name));
        let mut added = Vec::new();
        for (id, &piece) in self.pieces.iter().enumerate() {
            let is_special = matches!(self.kind(id), CONTROL) || named.contains(&Some(id));
            // One with the space sign is found by its merges; as an added token it would never meet a plain space.
            let is_defined = self.kind(id) == USER_DEFINED && !piece.contains(SPACE_SIGN);
            if is_special || is_defined {
                added.push(json!({
                    "id": id,
                    "content": piece,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": is_special,
                }));
            }
        }
        added
    }

    /// The id of a special token, if it is one of the vocabulary's.
    fn id(&self, name: &str) -> Option<usize> {
        let id = self.metadata.u64(&format!("tokenizer.ggml.{name}_token_id"))?;
        usize::try_from(id).ok().filter(|&id| id < self.pieces.len())
    }

    /// What frames a text: the two special tokens, as far as they are wanted.
    fn post_processor(&self) -> Result<Value, String> {
        let is_sentence_piece = self.metadata.str("tokenizer.ggml.model") == Some("llama");
        let habit = is_sentence_piece || self.words()?.begins_with_bos();
        let adds_bos = self.metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(habit);
        let adds_eos = self.metadata.bool("tokenizer.ggml.add_eos_token").unwrap_or(false);
        let (bos, eos) = (self.id("bos").filter(|_| adds_bos), self.id("eos").filter(|_| adds_eos));
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let special = |id: Option<usize>| id.map(|id| json!({"SpecialToken": {"id": self.pieces[id], "type_id": 0}}));
        let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        let framed =
            |name: &str| -> Vec<Value> { special(bos).into_iter().chain([text(name)]).chain(special(eos)).collect() };
        let describe = |id: usize| {
            let piece = self.pieces[id];
            (piece.to_owned(), json!({"id": piece, "ids": [id], "tokens": [piece]}))
        };
        let tokens: Map<String, Value> = bos.into_iter().chain(eos).map(describe).collect();
        let pair = [framed("A"), framed("B")].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": framed("A"),
            "pair": pair,
            "special_tokens": tokens,
        }))
    }

    fn config(&self) -> Value {
        let mut config = Map::new();
        config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
        for (key, name) in
            [("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")]
        {
            if let Some(id) = self.id(name) {
                config.insert(key.to_owned(), self.pieces[id].into());
            }
        }
        config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
        if let Some(template) = self.metadata.str("tokenizer.chat_template") {
            config.insert("chat_template".to_owned(), template.into());
        }
        Value::Object(config)
    }
}

fn bpe(
    vocabulary: Map<String, Value>,
    merges: Value,
    unknown: Option<&str>,
    byte_fallback: bool,
    ignore_merges: bool,
) -> Value {
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    })
}
