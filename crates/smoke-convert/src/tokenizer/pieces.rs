//! SentencePiece's byte-pair encoding, which joins the neighbours whose union scores best, by merges and by scores.

use std::collections::HashMap;

use super::{NORMAL, USER_DEFINED};

/// Scores that order pieces as their merges do: each is made by its first merge, and what no merge makes comes last.
pub(super) fn scores(pieces: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    // Ranks are far below 2²⁴, where f32 stops counting.
    pieces.iter().map(|piece| -(ranks.get(piece).copied().unwrap_or(merges.len()) as f32)).collect()
}

/// The merges that scores mean: every way to split a piece into two, the best piece first.
pub(super) fn merges(pieces: &[&str], scores: &[f32], types: &[i32]) -> Vec<(String, String)> {
    // Control tokens, bytes and unused pieces take no part.
    let joins = |id: usize| matches!(types.get(id), None | Some(&(NORMAL | USER_DEFINED)));
    let known: HashMap<&str, usize> = pieces.iter().enumerate().map(|(id, piece)| (*piece, id)).collect();
    let joins_as = |piece: &str| known.get(piece).is_some_and(|&id| joins(id));
    let mut splits: Vec<(usize, usize)> = Vec::new();
    for (id, piece) in pieces.iter().enumerate().filter(|&(id, _)| joins(id)) {
        let inner = piece.char_indices().skip(1).map(|(at, _)| at);
        splits.extend(inner.filter(|&at| joins_as(&piece[..at]) && joins_as(&piece[at..])).map(|at| (id, at)));
    }
    // Of one score, the longer left half first, as Transformers converts these files.
    let score = |id: usize| scores.get(id).copied().unwrap_or(f32::MIN);
    splits.sort_by(|&(a, a_at), &(b, b_at)| score(b).total_cmp(&score(a)).then(b_at.cmp(&a_at)).then(a.cmp(&b)));
    let halves = |(id, at): (usize, usize)| {
        let (left, right) = pieces[id].split_at(at);
        (left.to_owned(), right.to_owned())
    };
    splits.into_iter().map(halves).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_become_scores_and_come_back() {
        let pieces = ["<s>", "a", "b", "c", "ab", "bc", "abc"];
        let types = [3, 1, 1, 1, 1, 1, 1];
        let pair = |left: &str, right: &str| (left.to_owned(), right.to_owned());
        let expected = [pair("b", "c"), pair("a", "b"), pair("ab", "c"), pair("a", "bc")];
        let owned = pieces.map(str::to_owned);
        let scores = scores(&owned, &expected);
        assert_eq!(scores, [-4.0, -4.0, -4.0, -4.0, -1.0, -0.0, -2.0]);
        assert_eq!(merges(&pieces, &scores, &types), expected);
    }
}
