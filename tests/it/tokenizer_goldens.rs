//! The tokenizers of real and tiny models against the ids that Transformers makes.

use smoke_runtime::models::text::{AddSpecial, Message, SpecialTokens, StreamDecoder, Tokenizer};
use smoke_runtime::storage::Checkpoint;
use smoke_tests::{asset, smollm2};

fn goldens() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(asset("goldens/smollm2-135m-instruct-f32.json")).unwrap()).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The tokenizer in the metadata of the GGUF file.
fn tokenizer() -> Tokenizer {
    Tokenizer::beside(&Checkpoint::open(smollm2()).unwrap()).unwrap()
}

#[test]
fn a_tokenizer_from_gguf_gives_the_golden_ids() {
    let tokenizer = tokenizer();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos_id(), tokenizer.end_ids()), (49_152, Some(1), &[2][..]));
    for case in goldens()["tokenizer"].as_array().unwrap() {
        let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        for special in [AddSpecial::Yes, AddSpecial::No] {
            assert_eq!(tokenizer.encode(text, special).unwrap(), expected, "{text:?}");
        }
        assert_eq!(tokenizer.decode(&expected, SpecialTokens::Keep).unwrap(), text);

        let mut decoder = StreamDecoder::new(&tokenizer);
        let mut pieces: Vec<String> = expected.iter().map(|&id| decoder.push(id).unwrap()).collect();
        pieces.push(decoder.finish().unwrap());
        assert_eq!(pieces.concat(), text);
    }
}

#[test]
fn a_chat_template_from_gguf_gives_the_golden_prompt() {
    let (tokenizer, goldens) = (tokenizer(), goldens());
    let messages: Vec<Message> = serde_json::from_value(goldens["chat"].clone()).unwrap();
    let prompt = tokenizer.chat_template().unwrap().render(&messages).unwrap();
    assert_eq!(prompt, goldens["prompt"].as_str().unwrap());
    assert_eq!(tokenizer.encode(&prompt, AddSpecial::No).unwrap(), ids(&goldens["input_ids"]));
}

#[test]
fn tokenizers_in_directories_open() {
    for model in ["llama", "gpt2"] {
        let tokenizer = Tokenizer::open(&asset(&format!("tiny/{model}"))).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.bos_id(), tokenizer.end_ids()), (320, Some(1), &[2][..]));
        assert_eq!(tokenizer.pad_id(), Some(0));
        let text = "the quick brown fox é";
        let ids = tokenizer.encode(text, AddSpecial::Yes).unwrap();
        assert_eq!(tokenizer.decode(&ids, SpecialTokens::Keep).unwrap(), text);
    }
}

/// As T5 has it: `</s>` after every text, and none before.
#[test]
fn a_unigram_tokenizer_gives_the_ids_of_sentencepiece() {
    let tokenizer = Tokenizer::open(&asset("tiny/unigram")).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.end_ids(), tokenizer.pad_id()), (None, &[1][..], Some(0)));
    let cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(asset("tiny/unigram/goldens.json")).unwrap()).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 8);
    for case in cases {
        let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        assert_eq!(tokenizer.encode(text, AddSpecial::Yes).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.encode(text, AddSpecial::No).unwrap(), expected[..expected.len() - 1], "{text:?}");
        let cut = tokenizer.encode_at_most(text, AddSpecial::Yes, 4).unwrap();
        assert_eq!(cut, [&expected[..3.min(expected.len() - 1)], &[1]].concat(), "{text:?}");
        assert_eq!(tokenizer.decode(&expected, SpecialTokens::Skip).unwrap(), case["decoded"].as_str().unwrap());

        let mut decoder = StreamDecoder::new(&tokenizer);
        let mut pieces: Vec<String> = expected.iter().map(|&id| decoder.push(id).unwrap()).collect();
        pieces.push(decoder.finish().unwrap());
        assert_eq!(pieces.concat(), tokenizer.decode(&expected, SpecialTokens::Keep).unwrap());
    }
}

/// The same tokenizer, once in a GGUF file and once as `tokenizer.json`.
#[test]
fn both_forms_of_a_tokenizer_agree() {
    let gguf = Tokenizer::beside(&Checkpoint::open(asset("quant/llama-f32.gguf")).unwrap()).unwrap();
    let directory = Tokenizer::open(&asset("tiny/llama")).unwrap();
    for text in ["the quick brown fox", "It's 2024,  <s>jumps\n\tover</s> Grüße 東京", ""] {
        for special in [AddSpecial::Yes, AddSpecial::No] {
            assert_eq!(gguf.encode(text, special).unwrap(), directory.encode(text, special).unwrap(), "{text:?}");
        }
    }
}
