use super::tokenizer::{SpecialTokens, Tokenizer, TokenizerError};

/// Turns tokens into text as they come, in pieces that are safe to print.
///
/// A character may be spread over several tokens, and a run of single-byte tokens is decoded as one; such text is held
/// back until it is whole. The pieces and what [`finish`](Self::finish) gives, one after the other, are exactly what
/// [`Tokenizer::decode`] makes of all the tokens.
///
/// Why no decoding token by token: decoders look at their neighbours (the first piece loses its space, byte tokens join
/// to characters). So a window of tokens is decoded twice, with and without the new ones, and the difference is printed.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    special: SpecialTokens,
    /// Tokens already printed that give the new ones their context, then those not yet printed.
    window: Vec<u32>,
    printed: usize,
    /// The text of the printed part of the window.
    context: String,
}

impl<'a> StreamDecoder<'a> {
    /// A decoder at the start of a text that writes special tokens out.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        let special = SpecialTokens::Keep;
        Self { tokenizer, special, window: Vec::new(), printed: 0, context: String::new() }
    }

    /// Says what becomes of special tokens.
    pub fn with_special_tokens(mut self, special: SpecialTokens) -> Self {
        self.special = special;
        self
    }

    /// Takes the next token and returns what may be printed now; often one word, empty if nothing is whole yet.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String, TokenizerError> {
        // Tokens without text must not become context: a decoder would treat what follows them as the start of the text.
        if !self.tokenizer.shows(token, self.special) {
            return Ok(String::new());
        }
        self.window.push(token);
        if self.tokenizer.is_byte(token) {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.window, self.special)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let Some(piece) = text.strip_prefix(self.context.as_str()).filter(|piece| !piece.is_empty()) else {
            return Ok(String::new());
        };
        let piece = piece.to_owned();
        self.window.drain(..self.printed);
        self.printed = self.window.len();
        self.context = self.tokenizer.decode(&self.window, self.special)?;
        Ok(piece)
    }

    /// Ends the text: returns what was held back, incomplete characters as U+FFFD, and starts anew.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.window, self.special)?;
        let piece = text.strip_prefix(self.context.as_str()).unwrap_or_default().to_owned();
        self.window.clear();
        self.printed = 0;
        self.context.clear();
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::super::AddSpecial;
    use super::super::gguf_tokenizer::tests::{byte_level_tokenizer, sentence_piece_tokenizer};
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_pieces(tokenizer: &Tokenizer, ids: &[u32], expected: &[&str]) {
        let mut decoder = StreamDecoder::new(tokenizer);
        let mut pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
        pieces.push(decoder.finish().unwrap());
        assert_eq!(pieces, expected);
        assert_eq!(pieces.concat(), tokenizer.decode(ids, SpecialTokens::Keep).unwrap());
    }

    #[test]
    fn a_character_in_several_byte_level_tokens_is_held_back() {
        let tokenizer = byte_level_tokenizer();
        let ids = tokenizer.encode("a€b", AddSpecial::No).unwrap();
        assert_eq!(ids.len(), 5);
        check_pieces(&tokenizer, &ids, &["a", "", "", "€", "b", ""]);
        // Cut within the character.
        check_pieces(&tokenizer, &ids[..2], &["a", "", "\u{fffd}"]);
    }

    #[test]
    fn a_run_of_byte_tokens_is_held_back() {
        let tokenizer = sentence_piece_tokenizer();
        let ids = tokenizer.encode("hi €ö hi", AddSpecial::No).unwrap();
        let pieces = ["hi", " ", "", "", "", "", "", "€ö hi", ""];
        check_pieces(&tokenizer, &ids, &pieces);
    }

    #[test]
    fn the_first_space_is_dropped_once() {
        let tokenizer = sentence_piece_tokenizer();
        let hi = tokenizer.token_id("▁hi").unwrap();
        let space = tokenizer.token_id("▁").unwrap();
        let end = tokenizer.token_id("</s>").unwrap();
        check_pieces(&tokenizer, &[hi, hi, hi], &["hi", " hi", " hi", ""]);
        check_pieces(&tokenizer, &[space, space, hi], &["", " ", " hi", ""]);
        let mut decoder = StreamDecoder::new(&tokenizer).with_special_tokens(SpecialTokens::Skip);
        let pieces: Vec<String> = [hi, end, hi].iter().map(|&id| decoder.push(id).unwrap()).collect();
        assert_eq!(pieces, ["hi", "", " hi"]);
    }

    #[test]
    fn a_finished_decoder_starts_anew() {
        let tokenizer = sentence_piece_tokenizer();
        let hi = tokenizer.token_id("▁hi").unwrap();
        let mut decoder = StreamDecoder::new(&tokenizer);
        for _ in 0..2 {
            assert_eq!(decoder.push(hi).unwrap(), "hi");
            assert_eq!(decoder.finish().unwrap(), "");
        }
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_whole(ids in proptest::collection::vec(0_u32..300, 0..60), all: bool, byte_level: bool) {
            let tokenizer = if byte_level { byte_level_tokenizer() } else { sentence_piece_tokenizer() };
            let special = if all { SpecialTokens::Keep } else { SpecialTokens::Skip };
            let mut decoder = StreamDecoder::new(&tokenizer).with_special_tokens(special);
            let mut text = String::new();
            for &id in &ids {
                text += &decoder.push(id).unwrap();
            }
            text += &decoder.finish().unwrap();
            prop_assert_eq!(text, tokenizer.decode(&ids, special).unwrap());
        }
    }
}
