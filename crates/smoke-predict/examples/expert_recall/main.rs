//! How well are the experts of the next layers known? Every predictor on a model's recorded routing, as a table.
//!
//! ```sh
//! cargo run --release -p smoke-predict --example expert_recall -- [TRACE [TRAIN [PASSES]]]
//! ```
//!
//! With TRAIN, predictors learn from that trace first, PASSES times (once); then they are scored on TRACE, on which they
//! go on learning. Unless given, TRACE is the held-out one of `tests/assets/moe-traces`. The traces there hold too few router inputs to learn from: those in
//! `models/train-moe/traces` after `cargo xtask train-moe` hold all.

use std::error::Error;
use std::path::Path;

use smoke_predict::experts::{
    ExpertPredictor, LearnedExperts, LearnedShape, PopularExperts, PreviousToken, RouterLookahead, Scoreboard,
    Transitions,
};

use crate::trace::Trace;

mod trace;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/assets/moe-traces/held-out.safetensors");
    let scored = Trace::read(Path::new(arguments.first().map_or(kept, String::as_str)), usize::MAX)?;
    let train = arguments.get(1).map(|path| Trace::read(Path::new(path), usize::MAX)).transpose()?;
    let passes = arguments.get(2).map_or(Ok(1), |passes| passes.parse::<u32>())?;
    if train.as_ref().is_some_and(|train| train.shape != scored.shape) {
        return Err("the two traces are of different models".into());
    }

    let shape = scored.shape;
    let learned = |inputs| LearnedExperts::new(LearnedShape { experts: shape, inputs, model: 0 });
    // The learned one goes over its trace more than once, by smaller and smaller steps.
    let mut studied = learned(scored.hidden);
    if let Some(train) = &train {
        for pass in 0..passes {
            studied.set_rate(0.1 * 0.5_f32.powi(pass as i32));
            train.play(|routed| studied.observe(routed));
        }
        studied.set_rate(0.1);
    }
    let mut frozen = studied.clone();
    frozen.set_rate(0.0);

    let mut board = Scoreboard::new(shape)
        .with("popularity", PopularExperts::new(shape))
        .with("previous token", PreviousToken::new(shape))
        .with("transition table", Transitions::new(shape))
        .with("router lookahead", RouterLookahead::new(shape));
    if let Some(train) = &train {
        train.play(|routed| board.observe(routed));
        board.clear_scores();
    }
    board = board.with("learned on the way", learned(scored.hidden)).with("learned without inputs", learned(0));
    if train.is_some() {
        board = board.with("learned before", frozen).with("learned before and on the way", studied);
    }
    scored.play(|routed| board.observe(routed));

    let inputs = if scored.hidden == 0 { "no router inputs" } else { "router inputs" };
    println!(
        "{} tokens of {} layers, {} of {} experts, {inputs}\n",
        scored.tokens, shape.layers, shape.used, shape.experts
    );
    print!("{board}");
    Ok(())
}
