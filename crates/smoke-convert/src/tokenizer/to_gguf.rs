//! From `tokenizer.json` and its neighbours to keys.

use std::path::Path;

use serde_json::Value;
use smoke_storage::header::GgufKeys;

use super::words::Words;
use super::{BYTE, CONTROL, NORMAL, SPACE_SIGN, UNKNOWN, UNUSED, USER_DEFINED, pieces};
use crate::config::Config;
use crate::conversion::read;
use crate::error::ConvertError;

/// What a `tokenizer.json` says.
struct Vocabulary {
    pieces: Vec<String>,
    types: Vec<i32>,
    merges: Vec<(String, String)>,
}

/// Adds the tokenizer that lies in `directory`, for an embedding of `rows` rows, to `keys`. Returns notes.
pub(crate) fn to_gguf(directory: &Path, rows: usize, keys: &mut GgufKeys) -> Result<Vec<String>, ConvertError> {
    let path = directory.join("tokenizer.json");
    if !path.is_file() {
        return Ok(vec!["there is no tokenizer.json, so the GGUF file has no tokenizer: give it token ids".to_owned()]);
    }
    let json: Value = serde_json::from_slice(&read(path.clone())?)
        .map_err(|error| ConvertError::Config { path: path.clone(), reason: error.to_string() })?;
    let Some((vocabulary, kind)) = Vocabulary::of_json(&json, rows).zip(Kind::of_json(&json)) else {
        let note = "the tokenizer is of a kind that GGUF has no name for, so the GGUF file has none: give it token ids";
        return Ok(vec![note.to_owned()]);
    };
    let special = SpecialTokens::read(directory, &vocabulary)?;
    let Vocabulary { pieces, types, merges } = &vocabulary;
    match kind {
        Kind::ByteLevel(words) => {
            keys.text("tokenizer.ggml.model", "gpt2");
            keys.text("tokenizer.ggml.pre", words.name());
            let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            keys.texts("tokenizer.ggml.merges", &merges);
        }
        Kind::SentencePiece { space_prefix } => {
            keys.text("tokenizer.ggml.model", "llama");
            keys.f32s("tokenizer.ggml.scores", &pieces::scores(pieces, merges));
            keys.bool("tokenizer.ggml.add_space_prefix", space_prefix);
        }
    }
    keys.texts("tokenizer.ggml.tokens", pieces);
    keys.i32s("tokenizer.ggml.token_type", types);
    let unknown = json["model"]["unk_token"].as_str().and_then(|piece| vocabulary.id(piece));
    for (name, id) in [
        ("bos", special.bos),
        ("eos", special.ends.first().copied()),
        ("eot", special.ends.get(1).copied()),
        ("padding", special.padding),
        ("unknown", unknown),
    ] {
        if let Some(id) = id {
            keys.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    let framed = framing(&json["post_processor"]);
    let is_there =
        |end: Option<&str>, id: Option<u32>| id.is_some() && end.and_then(|piece| vocabulary.id(piece)) == id;
    let adds_bos = special.adds_bos.unwrap_or_else(|| is_there(framed.0, special.bos));
    let adds_eos = special.adds_eos.unwrap_or_else(|| is_there(framed.1, special.ends.first().copied()));
    keys.bool("tokenizer.ggml.add_bos_token", adds_bos && special.bos.is_some());
    keys.bool("tokenizer.ggml.add_eos_token", adds_eos && !special.ends.is_empty());
    if let Some(template) = &special.chat_template {
        keys.text("tokenizer.chat_template", template);
    }
    Ok(Vec::new())
}

/// The two kinds that both sides know.
enum Kind {
    ByteLevel(Words),
    SentencePiece { space_prefix: bool },
}

impl Kind {
    fn of_json(json: &Value) -> Option<Self> {
        let model = &json["model"];
        if model["type"] != "BPE" {
            return None;
        }
        if model["byte_fallback"] != true {
            let words = Words::of_json(&json["pre_tokenizer"], &json["normalizer"])?;
            let ignores_merges = model["ignore_merges"] == true;
            return (ignores_merges == words.ignores_merges()).then_some(Self::ByteLevel(words));
        }
        // The space sign is put in by a normaliser or, in newer files, before words are cut.
        let (normalizer, pre_tokenizer) = (&json["normalizer"], &json["pre_tokenizer"]);
        if normalizer.is_null() && pre_tokenizer["type"] == "Metaspace" && pre_tokenizer["split"] == false {
            return Some(Self::SentencePiece { space_prefix: pre_tokenizer["prepend_scheme"] != "never" });
        }
        let steps = match normalizer["normalizers"].as_array() {
            Some(steps) => steps.clone(),
            None => vec![normalizer.clone()],
        };
        let is_prefix = |step: &Value| step["type"] == "Prepend" && step["prepend"] == SPACE_SIGN;
        let is_space = |step: &Value| {
            step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE_SIGN
        };
        match &steps[..] {
            [prefix, space] if is_prefix(prefix) && is_space(space) && pre_tokenizer.is_null() => {
                Some(Self::SentencePiece { space_prefix: true })
            }
            [space] if is_space(space) && pre_tokenizer.is_null() => Some(Self::SentencePiece { space_prefix: false }),
            _ => None,
        }
    }
}

impl Vocabulary {
    /// The pieces in the order of their ids; what has none, up to `rows`, is filled up with unused ones.
    fn of_json(json: &Value, rows: usize) -> Option<Self> {
        let model = &json["model"];
        let mut tokens: Vec<(usize, String, i32)> = Vec::new();
        let is_byte = |piece: &str| model["byte_fallback"] == true && piece.len() == 6 && piece.starts_with("<0x");
        for (piece, id) in model["vocab"].as_object()? {
            let kind = match piece.as_str() {
                piece if model["unk_token"] == piece => UNKNOWN,
                piece if is_byte(piece) => BYTE,
                _ => NORMAL,
            };
            tokens.push((id.as_u64()? as usize, piece.clone(), kind));
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let piece = added["content"].as_str()?;
            let kind = match added["special"] == true {
                true if model["unk_token"] == piece => UNKNOWN,
                true => CONTROL,
                false => USER_DEFINED,
            };
            tokens.push((added["id"].as_u64()? as usize, piece.to_owned(), kind));
        }
        let count = tokens.iter().map(|(id, ..)| id + 1).max()?.max(rows);
        // An id that no vocabulary has would fill the memory with pieces that are not there.
        if count > tokens.len().max(rows).saturating_mul(2) {
            return None;
        }
        let mut pieces: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; count];
        for (id, piece, kind) in tokens {
            pieces[id] = piece;
            types[id] = kind;
        }
        let merges = model["merges"].as_array()?.iter().map(merge).collect::<Option<_>>()?;
        Some(Self { pieces, types, merges })
    }

    fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.iter().position(|there| there == piece).map(|id| id as u32)
    }
}

/// Two pieces: a pair in newer files, a text with a space between in older ones.
fn merge(json: &Value) -> Option<(String, String)> {
    if let Some(text) = json.as_str() {
        return text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()));
    }
    match &json.as_array()?[..] {
        [left, right] => Some((left.as_str()?.to_owned(), right.as_str()?.to_owned())),
        _ => None,
    }
}

/// The special tokens before and after a text, as the post-processor adds them.
fn framing(post_processor: &Value) -> (Option<&str>, Option<&str>) {
    if post_processor["type"] == "Sequence" {
        let steps = post_processor["processors"].as_array().into_iter().flatten().map(framing);
        return steps.fold((None, None), |(before, after), (b, a)| (before.or(b), after.or(a)));
    }
    let single = post_processor["single"].as_array().map(Vec::as_slice).unwrap_or_default();
    let special =
        |step: Option<&'_ Value>| step.and_then(|step| step["SpecialToken"]["id"].as_str().map(str::to_owned));
    let find = |wanted: Option<String>| {
        single.iter().filter_map(|step| step["SpecialToken"]["id"].as_str()).find(|id| Some(*id) == wanted.as_deref())
    };
    (find(special(single.first())), find(special(single.last())))
}

/// What the files beside `tokenizer.json` say.
struct SpecialTokens {
    bos: Option<u32>,
    padding: Option<u32>,
    ends: Vec<u32>,
    adds_bos: Option<bool>,
    adds_eos: Option<bool>,
    chat_template: Option<String>,
}

impl SpecialTokens {
    /// Names come before ids, and those for generation before the model's.
    fn read(directory: &Path, vocabulary: &Vocabulary) -> Result<Self, ConvertError> {
        let file = |name: &str| Config::read_if_there(&directory.join(name));
        let (config, map) = (file("tokenizer_config.json")?, file("special_tokens_map.json")?);
        let (generation, model) = (file("generation_config.json")?, file("config.json")?);
        let named = |key: &str| {
            let value = config.get(key).or(map.get(key))?;
            vocabulary.id(value.as_str().or(value["content"].as_str())?)
        };
        let ids = |key: &str| -> Vec<u32> {
            let value = generation.get(key).or(model.get(key));
            let ids = match value {
                Some(Value::Array(ids)) => ids.iter().collect(),
                Some(id) => vec![id],
                None => Vec::new(),
            };
            let ids = ids.into_iter().filter_map(|id| u32::try_from(id.as_i64()?).ok());
            ids.filter(|&id| (id as usize) < vocabulary.pieces.len()).collect()
        };
        let mut ends: Vec<u32> = Vec::new();
        for id in named("eos_token").into_iter().chain(ids("eos_token_id")) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        let stated = |key: &str| config.has(key).then(|| config.flag_or(key, false)).transpose();
        Ok(Self {
            bos: named("bos_token").or_else(|| ids("bos_token_id").first().copied()),
            padding: named("pad_token").or_else(|| ids("pad_token_id").first().copied()),
            ends,
            adds_bos: stated("add_bos_token")?,
            adds_eos: stated("add_eos_token")?,
            chat_template: chat_template(directory, &config)?,
        })
    }
}

/// A file of its own replaces the template in the configuration; of several templates the one called default counts.
fn chat_template(directory: &Path, config: &Config) -> Result<Option<String>, ConvertError> {
    let path = directory.join("chat_template.jinja");
    if path.is_file() {
        let text = String::from_utf8(read(path.clone())?);
        return text.map(Some).map_err(|error| ConvertError::Config { path, reason: error.to_string() });
    }
    Ok(match config.get("chat_template") {
        Some(Value::Array(named)) => {
            let default = named.iter().find(|each| each["name"] == "default").or(named.first());
            default.and_then(|each| each["template"].as_str()).map(str::to_owned)
        }
        other => other.and_then(Value::as_str).map(str::to_owned),
    })
}
