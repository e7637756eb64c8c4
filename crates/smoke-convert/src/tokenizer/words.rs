//! How a byte-level tokenizer cuts text into words before it merges bytes: steps in `tokenizer.json`, a name in GGUF.

use serde_json::{Value, json};

/// One way of cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// As GPT-2: contractions, words, numbers and punctuation, each with the space before it.
    Gpt2,
    /// As GPT-2, with each digit by itself.
    SingleDigits,
    /// As Llama 3: numbers of up to three digits, contractions of either case; a word in the vocabulary needs no merges.
    Llama3,
    /// As Llama 3 with each digit by itself, on composed characters (NFC).
    Qwen2,
}

/// Every name of each, the one that is written first.
const NAMES: [(Words, &[&str]); 4] = [
    (Words::Gpt2, &["gpt-2", "phi-2", "mpt", "olmo", "jais"]),
    (Words::SingleDigits, &["smollm", "starcoder", "refact", "command-r", "codeshell"]),
    (Words::Llama3, &["llama-bpe", "llama3", "llama-v3"]),
    (Words::Qwen2, &["qwen2", "stablelm2", "deepseek-r1-qwen"]),
];

impl Words {
    /// The way that GGUF calls so.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, names)| names.contains(&name)).map(|&(words, _)| words)
    }

    /// What GGUF calls it.
    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(words, _)| *words == self).map_or("", |(_, names)| names[0])
    }

    /// The way that the steps of a `tokenizer.json` are, if it is one of these.
    pub(super) fn of_json(pre_tokenizer: &Value, normalizer: &Value) -> Option<Self> {
        let steps = significant(pre_tokenizer);
        let is = |words: &Words| significant(&words.pre_tokenizer()) == steps && words.normalizer() == *normalizer;
        NAMES.iter().map(|&(words, _)| words).find(is)
    }

    /// Whether a word that is a token stays whole, whatever the merges say.
    pub(super) fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }

    /// Whether a text begins with the beginning-of-sequence token where a GGUF file states nothing.
    pub(super) fn begins_with_bos(self) -> bool {
        self == Self::Llama3
    }

    pub(super) fn normalizer(self) -> Value {
        if self == Self::Qwen2 { json!({"type": "NFC"}) } else { Value::Null }
    }

    pub(super) fn pre_tokenizer(self) -> Value {
        match self {
            Self::Gpt2 => byte_level(true),
            Self::SingleDigits => sequence([json!({"type": "Digits", "individual_digits": true}), byte_level(true)]),
            Self::Llama3 => sequence([split(r"\p{N}{1,3}"), byte_level(false)]),
            Self::Qwen2 => sequence([split(r"\p{N}"), byte_level(false)]),
        }
    }
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn sequence<const N: usize>(steps: [Value; N]) -> Value {
    json!({"type": "Sequence", "pretokenizers": steps.to_vec()})
}

/// OpenAI's published cl100k pattern, with `numbers` for how numbers are cut.
fn split(numbers: &str) -> Value {
    let pattern = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// The steps one by one, without what does not change words, and with what may be left out.
fn significant(steps: &Value) -> Vec<Value> {
    if steps["type"] == "Sequence" {
        return steps["pretokenizers"].as_array().into_iter().flatten().flat_map(significant).collect();
    }
    let mut step = steps.clone();
    if let Some(step) = step.as_object_mut() {
        step.remove("trim_offsets");
        if step.get("type").is_some_and(|kind| kind == "ByteLevel") {
            step.entry("use_regex").or_insert(Value::Bool(true));
        }
    }
    vec![step]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_tell_their_name_and_names_their_steps() {
        for (words, names) in NAMES {
            assert_eq!(Words::of_json(&words.pre_tokenizer(), &words.normalizer()), Some(words));
            assert!(names.iter().all(|name| Words::by_name(name) == Some(words)));
            assert_eq!(words.name(), names[0]);
        }
        let old = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false});
        assert_eq!(Words::of_json(&old, &Value::Null), Some(Words::Gpt2));
        assert_eq!(Words::of_json(&old, &json!({"type": "NFC"})), None);
        let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false});
        assert_eq!(Words::of_json(&prefixed, &Value::Null), None);
        assert_eq!(Words::by_name("klingon"), None);
    }
}
