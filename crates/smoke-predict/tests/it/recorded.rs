//! The predictors on the recorded routing of a trained mixture of experts, which they did not learn from.

use std::path::Path;

use smoke_predict::experts::{
    ExpertPredictor, LearnedExperts, LearnedShape, PopularExperts, PreviousToken, RouterLookahead, Scoreboard,
    Transitions,
};

use crate::trace::Trace;

fn trace(split: &str, tokens: usize) -> Trace {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/assets/moe-traces")
        .join(format!("{split}.safetensors"));
    Trace::read(&path, tokens).unwrap()
}

fn recall(board: &Scoreboard, name: &str, ahead: usize) -> f64 {
    board.score(name, ahead).unwrap().slot_recall()
}

/// Fitted by others' code on more text, the study of `cargo xtask train-moe` finds the same order.
#[test]
fn each_predictor_that_knows_more_is_better() {
    let (train, held_out) = (trace("train", usize::MAX), trace("held-out", usize::MAX));
    let shape = held_out.shape;
    let mut board = Scoreboard::new(shape)
        .with("popularity", PopularExperts::new(shape))
        .with("previous", PreviousToken::new(shape))
        .with("transitions", Transitions::new(shape))
        .with("lookahead", RouterLookahead::new(shape))
        .with("learned", LearnedExperts::new(LearnedShape { experts: shape, inputs: 0, model: 0 }));
    train.play(|routed| board.observe(routed));
    board.clear_scores();
    held_out.play(|routed| board.observe(routed));
    for ahead in [1, 2] {
        let names = ["popularity", "transitions", "lookahead", "learned"];
        let recalls = names.map(|name| recall(&board, name, ahead));
        assert!(recalls.is_sorted(), "{ahead} ahead: {recalls:?}\n{board}");
        let chance = shape.used as f64 / shape.experts as f64;
        assert!(recall(&board, "previous", ahead) > 1.3 * chance && recalls[0] > 1.2 * chance, "{board}");
        for name in names {
            let error = board.score(name, ahead).unwrap().calibration_error();
            assert!(error < 0.05, "{name}, {ahead} ahead: {error}\n{board}");
        }
    }
}

/// The recall of lookahead does not depend on anything learnt: counted here a second time from the file's own numbers.
#[test]
fn the_scoreboard_counts_lookahead_as_a_plain_count_does() {
    let held_out = trace("held-out", 512);
    let shape = held_out.shape;
    let (mut found, mut slots) = (0, 0);
    let mut early: Option<Vec<f32>> = None;
    held_out.play(|routed| {
        if let Some(scores) = early.take().filter(|_| routed.layer > 0) {
            let better = |expert: u32| scores.iter().filter(|&&score| score > scores[expert as usize]).count();
            found += routed.chosen.iter().filter(|&&expert| better(expert) < shape.used).count();
            slots += routed.chosen.len();
        }
        early = routed.lookahead.first().map(|scores| scores.to_vec());
    });
    let mut board = Scoreboard::new(shape).with("lookahead", RouterLookahead::new(shape));
    held_out.play(|routed| board.observe(routed));
    // Equal scores may be counted either way.
    let counted = found as f64 / slots as f64;
    assert!((recall(&board, "lookahead", 1) - counted).abs() < 0.005, "{counted}\n{board}");
}

/// 256 tokens hold the routers' inputs; learning from them over and over beats running the router early on those tokens.
#[test]
fn the_input_can_be_learnt_from() {
    let held_out = trace("held-out", 256);
    assert!(held_out.hidden > 0);
    let shape = held_out.shape;
    let mut learned = LearnedExperts::new(LearnedShape { experts: shape, inputs: held_out.hidden, model: 0 });
    for _ in 0..20 {
        held_out.play(|routed| learned.observe(routed));
    }
    learned.set_rate(0.0);
    let mut board = Scoreboard::new(shape).with("lookahead", RouterLookahead::new(shape)).with("learned", learned);
    held_out.play(|routed| board.observe(routed));
    assert!(recall(&board, "learned", 1) > recall(&board, "lookahead", 1) + 0.05, "{board}");
}
