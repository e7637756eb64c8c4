use smoke_storage::GgufMetadata;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, BpeBuilder, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper};

use super::chat::ChatTemplate;
use super::pre_tokenizers::Words;
use super::tokenizer::{Framing, Parts, TokenizerError, without_repeats};

const MODEL: &str = "tokenizer.ggml.model";
const PIECES: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// The sign that SentencePiece writes for a space.
const SPACE_SIGN: &str = "▁";

/// Tokens that end a turn, for files older than the key that names it.
const ENDS_OF_TURN: &[&str] =
    &["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>", "<|endofturn|>"];

/// What the metadata says about the tokenizer, borrowed.
#[derive(Default)]
struct Fields<'a> {
    model: &'a str,
    pre: Option<&'a str>,
    pieces: Vec<&'a str>,
    /// Empty, or one per piece.
    types: Vec<i32>,
    /// Empty, or one per piece.
    scores: Vec<f32>,
    merges: Vec<&'a str>,
    bos: Option<u64>,
    eos: Option<u64>,
    eot: Option<u64>,
    eom: Option<u64>,
    unknown: Option<u64>,
    padding: Option<u64>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    add_space_prefix: Option<bool>,
    chat_template: Option<&'a str>,
}

/// Builds the tokenizer that the metadata describes.
pub(super) fn read(metadata: &GgufMetadata) -> Result<Parts, TokenizerError> {
    let strings = |key: &str| metadata.strings(key);
    build(&Fields {
        model: metadata.str(MODEL).ok_or(TokenizerError::MissingField { key: MODEL })?,
        pre: metadata.str("tokenizer.ggml.pre"),
        pieces: strings(PIECES).ok_or(TokenizerError::MissingField { key: PIECES })?,
        types: metadata.i32s(TYPES).unwrap_or_default(),
        scores: metadata.f32s(SCORES).unwrap_or_default(),
        merges: strings(MERGES).unwrap_or_default(),
        bos: metadata.u64("tokenizer.ggml.bos_token_id"),
        eos: metadata.u64("tokenizer.ggml.eos_token_id"),
        eot: metadata.u64("tokenizer.ggml.eot_token_id"),
        eom: metadata.u64("tokenizer.ggml.eom_token_id"),
        unknown: metadata.u64("tokenizer.ggml.unknown_token_id"),
        padding: metadata.u64("tokenizer.ggml.padding_token_id"),
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token"),
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token"),
        add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix"),
        chat_template: metadata.str("tokenizer.chat_template"),
    })
}

fn build(fields: &Fields<'_>) -> Result<Parts, TokenizerError> {
    let kind = Kind::of(fields)?;
    for (key, length) in [(TYPES, fields.types.len()), (SCORES, fields.scores.len())] {
        if length != 0 && length != fields.pieces.len() {
            let problem = format!("`{key}` has {length} entries for {} tokens", fields.pieces.len());
            return Err(TokenizerError::Damaged { problem });
        }
    }
    let mut tokenizer = match kind {
        Kind::ByteLevel(words) => byte_level(fields, words)?,
        Kind::SentencePiece => sentence_piece(fields)?,
    };

    // The ids that SentencePiece gives where nothing is stated.
    let by_habit = |id: usize| match kind {
        Kind::SentencePiece if fields.types.get(id) == Some(&CONTROL) => Some(id as u32),
        _ => None,
    };
    let bos = fields.id("bos", fields.bos)?.or_else(|| by_habit(1));
    let own_eos = fields.id("eos", fields.eos)?.or_else(|| by_habit(2));
    let pad = fields.id("padding", fields.padding)?;
    let ends_of_turn = fields.ends_of_turn()?;

    let mut added = Vec::new();
    for (id, &piece) in fields.pieces.iter().enumerate() {
        let named = [bos, own_eos].contains(&Some(id as u32));
        match fields.types.get(id).copied().unwrap_or(NORMAL) {
            _ if named => added.push(AddedToken::from(piece, true)),
            CONTROL => added.push(AddedToken::from(piece, true)),
            // One with the space sign is found by its merges; as an added token it would never meet a plain space.
            USER_DEFINED if !piece.contains(SPACE_SIGN) => added.push(AddedToken::from(piece, false).normalized(false)),
            _ => {}
        }
    }
    tokenizer.add_special_tokens(&added);

    let eos = without_repeats(own_eos.into_iter().chain(ends_of_turn));
    let text_of = |id: Option<u32>| id.map_or("", |id| fields.pieces[id as usize]);
    let chat_template = fields
        .chat_template
        .map(|source| ChatTemplate::new(source).with_tokens(text_of(bos), text_of(eos.first().copied())));
    let framing = Framing::Tokens {
        before: bos.filter(|_| fields.add_bos.unwrap_or_else(|| kind.begins_with_bos())),
        after: own_eos.filter(|_| fields.add_eos == Some(true)),
    };
    Ok(Parts { tokenizer, framing, bos, pad, eos, chat_template })
}

#[derive(Clone, Copy)]
enum Kind {
    ByteLevel(Words),
    SentencePiece,
}

impl Kind {
    fn of(fields: &Fields<'_>) -> Result<Self, TokenizerError> {
        match fields.model {
            "gpt2" => Words::by_name(fields.pre.unwrap_or("default")).map(Self::ByteLevel),
            "llama" => Ok(Self::SentencePiece),
            other => {
                Err(TokenizerError::Unknown { key: MODEL, found: other.to_owned(), known: "gpt2, llama".to_owned() })
            }
        }
    }

    fn begins_with_bos(self) -> bool {
        match self {
            Self::ByteLevel(words) => words.begins_with_bos(),
            Self::SentencePiece => true,
        }
    }
}

impl Fields<'_> {
    /// A token id of the metadata, if it is one.
    fn id(&self, name: &str, id: Option<u64>) -> Result<Option<u32>, TokenizerError> {
        match id {
            Some(id) if id < self.pieces.len() as u64 => Ok(Some(id as u32)),
            // Written where there is no such token.
            Some(id) if id >= u64::from(u32::MAX) => Ok(None),
            Some(id) => Err(TokenizerError::Damaged {
                problem: format!("the {name} token is {id}, but there are only {} tokens", self.pieces.len()),
            }),
            None => Ok(None),
        }
    }

    fn ends_of_turn(&self) -> Result<Vec<u32>, TokenizerError> {
        let stated: Vec<u32> = [self.id("eot", self.eot)?, self.id("eom", self.eom)?].into_iter().flatten().collect();
        if !stated.is_empty() {
            return Ok(stated);
        }
        let is_end = |id: usize| self.types[id] == CONTROL && ENDS_OF_TURN.contains(&self.pieces[id]);
        Ok((0..self.types.len()).filter(|&id| is_end(id)).map(|id| id as u32).collect())
    }

    fn vocabulary(&self) -> Result<Vocab, TokenizerError> {
        let mut vocabulary = Vocab::with_capacity(self.pieces.len());
        for (id, &piece) in self.pieces.iter().enumerate() {
            if let Some(first) = vocabulary.insert(piece.to_owned(), id as u32) {
                let problem = format!("tokens {first} and {id} are both {piece:?}");
                return Err(TokenizerError::Damaged { problem });
            }
        }
        Ok(vocabulary)
    }
}

fn byte_level(fields: &Fields<'_>, words: Words) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let mut merges = Merges::with_capacity(fields.merges.len());
    for (rank, merge) in fields.merges.iter().enumerate() {
        // Neither half contains a space: the byte alphabet writes it Ġ.
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(TokenizerError::Damaged { problem: format!("merge {rank} is {merge:?}, not two pieces") });
        };
        merges.push((left.to_owned(), right.to_owned()));
    }
    let model =
        finish(BPE::builder().vocab_and_merges(fields.vocabulary()?, merges).ignore_merges(words.ignores_merges()))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(words.normalizer());
    tokenizer.with_pre_tokenizer(Some(words.pre_tokenizer()));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// SentencePiece's byte-pair encoding joins the neighbours whose union scores best. That is the order of merges that
/// sorting all pieces by score gives.
fn sentence_piece(fields: &Fields<'_>) -> Result<tokenizers::Tokenizer, TokenizerError> {
    if fields.scores.is_empty() {
        return Err(TokenizerError::MissingField { key: SCORES });
    }
    let vocabulary = fields.vocabulary()?;
    let merges = merges_by_score(fields, &vocabulary);
    let unknown = fields.id("unknown", fields.unknown)?.unwrap_or(0);
    let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges).byte_fallback(true).fuse_unk(true);
    if let Some(&piece) = fields.pieces.get(unknown as usize) {
        builder = builder.unk_token(piece.to_owned());
    }

    let replace = |from: &str, to: &str| Replace::new(from, to).expect("a plain string is a valid pattern");
    let mut normalizers: Vec<NormalizerWrapper> = vec![replace(" ", SPACE_SIGN).into()];
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(SPACE_SIGN, " ").into(), ByteFallback::new().into(), Fuse::new().into()];
    if fields.add_space_prefix.unwrap_or(true) {
        normalizers.insert(0, Prepend::new(SPACE_SIGN.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    let mut tokenizer = tokenizers::Tokenizer::new(finish(builder)?);
    tokenizer.with_normalizer(Some(NormalizerSequence::new(normalizers)));
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(tokenizer)
}

fn merges_by_score(fields: &Fields<'_>, vocabulary: &Vocab) -> Merges {
    // Control tokens, bytes and unused pieces take no part.
    let joins = |id: u32| matches!(fields.types.get(id as usize), None | Some(&(NORMAL | USER_DEFINED)));
    let joins_as = |piece: &str| vocabulary.get(piece).is_some_and(|&id| joins(id));
    let mut splits: Vec<(usize, usize)> = Vec::new();
    for (id, piece) in fields.pieces.iter().enumerate().filter(|&(id, _)| joins(id as u32)) {
        let inner = piece.char_indices().skip(1).map(|(at, _)| at);
        splits.extend(inner.filter(|&at| joins_as(&piece[..at]) && joins_as(&piece[at..])).map(|at| (id, at)));
    }
    // Of one score, the longer left half first, as Transformers converts these files.
    splits.sort_by(|&(a, a_at), &(b, b_at)| {
        fields.scores[b].total_cmp(&fields.scores[a]).then(b_at.cmp(&a_at)).then(a.cmp(&b))
    });
    splits
        .into_iter()
        .map(|(id, at)| {
            let (left, right) = fields.pieces[id].split_at(at);
            (left.to_owned(), right.to_owned())
        })
        .collect()
}

fn finish(builder: BpeBuilder) -> Result<BPE, TokenizerError> {
    builder.build().map_err(|cause| TokenizerError::Damaged { problem: cause.to_string() })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{AddSpecial, SpecialTokens, Tokenizer};
    use super::*;

    /// GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100.
    fn byte_alphabet() -> Vec<String> {
        let printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let others = (0..256_u32).filter(|byte| !printable(byte));
        let shifted: Vec<u32> = others.collect();
        (0..256_u32)
            .map(|byte| shifted.iter().position(|&other| other == byte).map_or(byte, |at| 256 + at as u32))
            .map(|code| char::from_u32(code).unwrap().to_string())
            .collect()
    }

    /// Special tokens 0 to 2, then 256 bytes, then merges of "the" and " the".
    fn byte_level_fields<'a>(alphabet: &'a [String]) -> Fields<'a> {
        let mut pieces = vec!["<|pad|>", "<|im_start|>", "<|im_end|>"];
        pieces.extend(alphabet.iter().map(String::as_str));
        pieces.extend(["th", "the", "Ġthe", "Ġ\u{120}", "<tool>"]);
        let mut types = vec![NORMAL; pieces.len()];
        types[..3].fill(CONTROL);
        *types.last_mut().unwrap() = USER_DEFINED;
        Fields {
            model: "gpt2",
            pre: Some("smollm"),
            types,
            pieces,
            merges: vec!["t h", "th e", "Ġ the", "Ġ Ġ"],
            bos: Some(1),
            eos: Some(2),
            padding: Some(0),
            chat_template: Some("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"),
            ..Fields::default()
        }
    }

    pub(in super::super) fn byte_level_tokenizer() -> Tokenizer {
        Tokenizer::new(build(&byte_level_fields(&byte_alphabet())).unwrap())
    }

    fn byte_pieces() -> Vec<String> {
        (0..256).map(|byte| format!("<0x{byte:02X}>")).collect()
    }

    /// `<unk>`, `<s>`, `</s>`, 256 bytes, then pieces with scores.
    fn sentence_piece_fields<'a>(bytes: &'a [String]) -> Fields<'a> {
        let scored = [
            ("▁h", -1.0),
            ("hi", -2.0),
            ("▁hi", -3.0),
            ("it", -0.5),
            ("▁", -10.0),
            ("h", -11.0),
            ("i", -12.0),
            ("t", -13.0),
            ("<tool>", 0.0),
        ];
        let mut pieces = vec!["<unk>", "<s>", "</s>"];
        pieces.extend(bytes.iter().map(String::as_str));
        pieces.extend(scored.iter().map(|&(piece, _)| piece));
        let mut types = vec![2, CONTROL, CONTROL];
        types.extend([6; 256]);
        types.extend([NORMAL; 8]);
        types.push(USER_DEFINED);
        let mut scores = vec![0.0; 259];
        scores.extend(scored.iter().map(|&(_, score)| score));
        Fields { model: "llama", pieces, types, scores, ..Fields::default() }
    }

    pub(in super::super) fn sentence_piece_tokenizer() -> Tokenizer {
        Tokenizer::new(build(&sentence_piece_fields(&byte_pieces())).unwrap())
    }

    #[track_caller]
    fn check(tokenizer: &Tokenizer, text: &str, expected: &[&str]) {
        let ids = tokenizer.encode(text, AddSpecial::No).unwrap();
        let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
        assert_eq!(pieces, expected);
        assert_eq!(tokenizer.decode(&ids, SpecialTokens::Keep).unwrap(), text);
    }

    #[test]
    fn byte_level_text() {
        let tokenizer = byte_level_tokenizer();
        check(&tokenizer, "the the", &["the", "Ġthe"]);
        check(&tokenizer, "a\n  \té", &["a", "Ċ", "ĠĠ", "ĉ", "Ã", "©"]);
        check(
            &tokenizer,
            "<|im_start|>12<tool>the<|im_end|>",
            &["<|im_start|>", "1", "2", "<tool>", "the", "<|im_end|>"],
        );
        assert_eq!(tokenizer.bos_id(), Some(1));
        assert_eq!(tokenizer.end_ids(), [2]);
        assert_eq!(tokenizer.pad_id(), Some(0));
        assert_eq!(tokenizer.vocab_size(), 264);
        let ids = tokenizer.encode("<tool><|im_end|>", AddSpecial::Yes).unwrap();
        assert_eq!(tokenizer.decode(&ids, SpecialTokens::Skip).unwrap(), "<tool>");
    }

    #[test]
    fn sentence_piece_text() {
        let tokenizer = sentence_piece_tokenizer();
        // "▁hit": "it" scores best and leaves "▁h".
        check(&tokenizer, "hit", &["▁h", "it"]);
        check(&tokenizer, "hi  hi", &["▁hi", "▁", "▁hi"]);
        check(&tokenizer, "é", &["▁", "<0xC3>", "<0xA9>"]);
        assert_eq!((tokenizer.bos_id(), tokenizer.end_ids()), (Some(1), &[2][..]));
        let hi = tokenizer.token_id("▁hi").unwrap();
        assert_eq!(tokenizer.encode("hi", AddSpecial::Yes).unwrap(), [1, hi]);
        let ids = tokenizer.encode("hi<tool>hi", AddSpecial::No).unwrap();
        assert_eq!(ids, [hi, tokenizer.token_id("<tool>").unwrap(), hi]);
    }

    /// A tokenizer trained by SentencePiece, and what SentencePiece itself makes of some texts.
    #[derive(serde::Deserialize)]
    struct Trained {
        pieces: Vec<String>,
        scores: Vec<f32>,
        types: Vec<i32>,
        cases: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }

    #[test]
    fn sentence_piece_agrees_with_the_original() {
        let trained: Trained = serde_json::from_str(include_str!("testdata/sentencepiece.json")).unwrap();
        let pieces = trained.pieces.iter().map(String::as_str).collect();
        let fields =
            Fields { model: "llama", pieces, types: trained.types, scores: trained.scores, ..Fields::default() };
        let tokenizer = Tokenizer::new(build(&fields).unwrap());
        for Case { text, ids } in &trained.cases {
            assert_eq!(tokenizer.encode(text, AddSpecial::No).unwrap(), *ids, "{text:?}");
            assert_eq!(tokenizer.decode(ids, SpecialTokens::Keep).unwrap(), *text);
        }
        assert_eq!(trained.cases.len(), 37);
    }

    #[test]
    fn sentence_piece_without_the_first_space() {
        let bytes = byte_pieces();
        let fields = Fields { add_space_prefix: Some(false), ..sentence_piece_fields(&bytes) };
        let tokenizer = Tokenizer::new(build(&fields).unwrap());
        check(&tokenizer, "hi", &["hi"]);
        check(&tokenizer, " hi", &["▁hi"]);
    }

    #[test]
    fn what_frames_a_text_follows_the_metadata() {
        let alphabet = byte_alphabet();
        for (pre, add_bos, add_eos, expected) in [
            ("smollm", None, None, "t"),
            ("smollm", Some(true), None, "<|im_start|>t"),
            ("smollm", None, Some(true), "t<|im_end|>"),
            ("llama-bpe", None, None, "<|im_start|>t"),
            ("llama-bpe", Some(false), None, "t"),
        ] {
            let fields = Fields { pre: Some(pre), add_bos, add_eos, ..byte_level_fields(&alphabet) };
            let tokenizer = Tokenizer::new(build(&fields).unwrap());
            let ids = tokenizer.encode("t", AddSpecial::Yes).unwrap();
            assert_eq!(tokenizer.decode(&ids, SpecialTokens::Keep).unwrap(), expected);
        }
    }

    #[test]
    fn a_word_of_the_vocabulary_stays_whole_for_llama3_alone() {
        let alphabet = byte_alphabet();
        for (pre, expected) in [("llama-bpe", 1), ("smaug-bpe", 3)] {
            let mut fields = byte_level_fields(&alphabet);
            fields.pre = Some(pre);
            fields.merges.clear();
            let tokenizer = Tokenizer::new(build(&fields).unwrap());
            assert_eq!(tokenizer.encode("the", AddSpecial::No).unwrap().len(), expected);
        }
    }

    #[test]
    fn ends_of_turn_are_stated_or_known_by_name() {
        let alphabet = byte_alphabet();
        for (eos, eot, expected) in [
            (Some(0), None, vec![0, 2]),
            (Some(0), Some(1), vec![0, 1]),
            (None, None, vec![2]),
            (Some(2), Some(2), vec![2]),
        ] {
            let fields = Fields { eos, eot, ..byte_level_fields(&alphabet) };
            assert_eq!(build(&fields).unwrap().eos, expected);
        }
    }

    #[test]
    fn the_chat_template_knows_the_tokens() {
        let tokenizer = byte_level_tokenizer();
        let messages = [super::super::Message::user("x")];
        let prompt = tokenizer.chat_template().unwrap().render(&messages).unwrap();
        assert_eq!(prompt, "<|im_start|>x<|im_end|>");
    }

    #[test]
    fn a_damaged_or_unknown_tokenizer_is_an_error() {
        type Damage = fn(&mut Fields<'_>);
        let damages: [(Damage, &str); 9] = [
            (|fields| fields.model = "rwkv", "rwkv"),
            (|fields| fields.pre = Some("klingon"), "klingon"),
            (|fields| fields.types.truncate(7), "7 entries"),
            (|fields| fields.scores.push(0.0), "1 entries"),
            (|fields| fields.merges.push("the"), "merge 4"),
            (|fields| fields.merges.push("the the"), "thethe"),
            (|fields| fields.pieces[4] = "the", "both \"the\""),
            (|fields| fields.bos = Some(264), "264"),
            (|fields| fields.model = "llama", "tokenizer.ggml.scores"),
        ];
        let alphabet = byte_alphabet();
        for (damage, expected) in damages {
            let mut fields = byte_level_fields(&alphabet);
            damage(&mut fields);
            let message = build(&fields).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
