use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::tokenizer::TokenizerError;

/// How a byte-level tokenizer cuts text into words before it merges bytes: GGUF states it by name, `tokenizer.ggml.pre`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// As GPT-2: contractions, words, numbers and punctuation, each with the space before it.
    Gpt2,
    /// As GPT-2, with each digit by itself.
    SingleDigits,
    /// As Llama 3: numbers of up to three digits, contractions of either case; a word in the vocabulary needs no merges.
    Llama3,
    /// As [`Words::Llama3`], but by merges alone.
    Llama3MergesOnly,
    /// As Llama 3 with each digit by itself, on composed characters (NFC).
    Qwen2,
    /// What llama.cpp does where a file states nothing.
    Default,
}

const NAMES: &[(&str, Words)] = &[
    ("default", Words::Default),
    ("gpt-2", Words::Gpt2),
    ("phi-2", Words::Gpt2),
    ("mpt", Words::Gpt2),
    ("olmo", Words::Gpt2),
    ("jais", Words::Gpt2),
    ("smollm", Words::SingleDigits),
    ("starcoder", Words::SingleDigits),
    ("refact", Words::SingleDigits),
    ("command-r", Words::SingleDigits),
    ("codeshell", Words::SingleDigits),
    ("llama-bpe", Words::Llama3),
    ("llama3", Words::Llama3),
    ("llama-v3", Words::Llama3),
    ("dbrx", Words::Llama3MergesOnly),
    ("smaug-bpe", Words::Llama3MergesOnly),
    ("qwen2", Words::Qwen2),
    ("stablelm2", Words::Qwen2),
    ("deepseek-r1-qwen", Words::Qwen2),
];

/// GPT-2's published pattern.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

impl Words {
    /// The way of that name.
    pub(super) fn by_name(name: &str) -> Result<Self, TokenizerError> {
        NAMES.iter().find(|(known, _)| *known == name).map(|&(_, words)| words).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
            TokenizerError::Unknown { key: "tokenizer.ggml.pre", found: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Whether a word that is a token stays whole, whatever the merges say.
    pub(super) fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }

    /// Whether a text begins with the beginning-of-sequence token where the file states nothing.
    pub(super) fn begins_with_bos(self) -> bool {
        self == Self::Llama3
    }

    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        (self == Self::Qwen2).then(|| NFC.into())
    }

    pub(super) fn pre_tokenizer(self) -> PreTokenizerWrapper {
        match self {
            Self::Gpt2 => byte_level(ByteLevelWords::Split).into(),
            Self::SingleDigits => sequence([Digits::new(true).into(), byte_level(ByteLevelWords::Split).into()]),
            Self::Llama3 | Self::Llama3MergesOnly => {
                sequence([split(&tiktoken_pattern(r"\p{N}{1,3}")), byte_level(ByteLevelWords::Keep).into()])
            }
            Self::Qwen2 => sequence([split(&tiktoken_pattern(r"\p{N}")), byte_level(ByteLevelWords::Keep).into()]),
            Self::Default => sequence([
                split(r"[\p{P}\$\+<=>\^~\|]+"),
                split(GPT2),
                split(r"\p{N}+"),
                split("[0-9][0-9][0-9]"),
                byte_level(ByteLevelWords::Keep).into(),
            ]),
        }
    }
}

/// OpenAI's published cl100k pattern, with `numbers` for how numbers are cut.
fn tiktoken_pattern(numbers: &str) -> String {
    let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    format!(
        r"{contractions}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// Whether the byte alphabet comes with GPT-2's words.
enum ByteLevelWords {
    Split,
    Keep,
}

fn byte_level(words: ByteLevelWords) -> ByteLevel {
    ByteLevel::new(false, true, matches!(words, ByteLevelWords::Split))
}

fn split(pattern: &str) -> PreTokenizerWrapper {
    Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .expect("the patterns of this file are valid")
        .into()
}

fn sequence<const N: usize>(steps: [PreTokenizerWrapper; N]) -> PreTokenizerWrapper {
    Sequence::new(steps.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    #[track_caller]
    fn check(name: &str, text: &str, expected: &[&str]) {
        let mut string = PreTokenizedString::from(text);
        Words::by_name(name).unwrap().pre_tokenizer().pre_tokenize(&mut string).unwrap();
        let words: Vec<&str> = string
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| &text[start..end])
            .collect();
        assert_eq!(words, expected, "{name}");
    }

    #[test]
    fn words_are_cut_as_each_model_learned_them() {
        let text = "I'm  HE'S 2024?!\n\n x";
        check("gpt-2", text, &["I", "'m", " ", " HE", "'", "S", " 2024", "?!", "\n\n", " x"]);
        check("smollm", text, &["I", "'m", " ", " HE", "'", "S", " ", "2", "0", "2", "4", "?!", "\n\n", " x"]);
        check("llama-bpe", text, &["I", "'m", " ", " HE", "'S", " ", "202", "4", "?!\n\n", " x"]);
        check("qwen2", text, &["I", "'m", " ", " HE", "'S", " ", "2", "0", "2", "4", "?!\n\n", " x"]);
        check("default", text, &["I", "'", "m", " ", " HE", "'", "S", " ", "202", "4", "?!", "\n\n", " x"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = Words::by_name("klingon").unwrap_err().to_string();
        assert!(message.contains("klingon") && message.contains("smollm") && message.contains("tokenizer.json"));
    }
}
