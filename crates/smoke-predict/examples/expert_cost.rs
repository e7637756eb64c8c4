//! What predicting experts costs a token: every predictor, with the baselines that are scored beside it.
//!
//! ```sh
//! cargo run --release -p smoke-predict --example expert_cost
//! ```

use std::time::{Duration, Instant};

use smoke_predict::UnitId;
use smoke_predict::experts::{self, ExpertAdviser, ExpertShape, LearnedShape, Routed};

const TOKENS: u32 = 200;

fn main() {
    println!("| predictor | layers | experts | µs per token |\n|---|---|---|---|");
    for (shape, inputs) in [
        (ExpertShape { layers: 24, experts: 64, used: 4 }, 1024),
        (ExpertShape { layers: 32, experts: 8, used: 2 }, 4096),
        (ExpertShape { layers: 48, experts: 128, used: 8 }, 2048),
    ] {
        for &name in experts::NAMES {
            let shape_of_all = LearnedShape { experts: shape, inputs, model: 0 };
            let Some(predictor) = experts::by_name(name, shape_of_all) else { continue };
            let number = |layer, expert| UnitId((layer * shape.experts + expert) as u32);
            let units = |layer| (0..shape.experts).map(|expert| number(layer, expert)).collect();
            let mut adviser = ExpertAdviser::new(shape, (0..shape.layers).map(units).collect(), name, predictor);
            let took = run(&mut adviser, shape, inputs);
            let ExpertShape { layers, experts, used } = shape;
            println!(
                "| {name} | {layers} | {used} of {experts} | {:.0} |",
                took.as_secs_f64() * 1e6 / f64::from(TOKENS)
            );
        }
    }
}

fn run(adviser: &mut ExpertAdviser, shape: ExpertShape, inputs: usize) -> Duration {
    let (mut scores, mut input) = (vec![0.0; shape.experts], vec![0.0; inputs]);
    let mut chosen = vec![0; shape.used];
    let mut took = Duration::ZERO;
    for token in 0..TOKENS {
        for layer in 0..shape.layers {
            let wave = |place: usize| ((token * 7 + layer as u32 * 3) as f32 + place as f32 * 0.7).sin();
            scores.iter_mut().enumerate().for_each(|(place, score)| *score = wave(place));
            input.iter_mut().enumerate().for_each(|(place, value)| *value = wave(place + 1));
            let experts = shape.experts as u32;
            chosen.iter_mut().zip(0..).for_each(|(expert, place)| *expert = (token * 5 + place * 3) % experts);
            let early: [&[f32]; 2] = [&scores, &scores];
            let start = Instant::now();
            adviser.observe(&Routed { layer, chosen: &chosen, scores: &scores, input: &input, lookahead: &early });
            took += start.elapsed();
        }
    }
    took
}
