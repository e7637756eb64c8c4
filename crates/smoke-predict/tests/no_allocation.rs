//! What a predictor of experts allocates for each token once every layer was seen: nothing, by the count of an allocator.
//! A binary of its own, with one test, for the count is global.

#![allow(clippy::unwrap_used, reason = "a test, and what it is made of")]

#[path = "../../../tests/counting_allocator.rs"]
mod counting_allocator;

use std::sync::atomic::{AtomicU64, Ordering};

use smoke_predict::UnitId;
use smoke_predict::experts::{self, ExpertAdviser, ExpertShape, LearnedShape, Routed};

use counting_allocator::Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting(|_| _ = ALLOCATIONS.fetch_add(1, Ordering::SeqCst));

const SHAPE: ExpertShape = ExpertShape { layers: 5, experts: 16, used: 3 };
const INPUTS: usize = 300;

fn token(adviser: &mut ExpertAdviser, number: u32, scores: &mut [f32], input: &mut [f32]) -> usize {
    let mut hints = 0;
    for layer in 0..SHAPE.layers {
        let wave = |place: usize| ((number * 7 + layer as u32 * 3) as f32 + place as f32 * 0.7).sin();
        scores.iter_mut().enumerate().for_each(|(place, score)| *score = wave(place));
        input.iter_mut().enumerate().for_each(|(place, value)| *value = wave(place + 1));
        let chosen = [0, 5, 11].map(|expert| (expert + number) % SHAPE.experts as u32);
        let early: [&[f32]; 2] = [scores, scores];
        hints += adviser.observe(&Routed { layer, chosen: &chosen, scores, input, lookahead: &early }).len();
    }
    hints
}

#[test]
fn a_token_allocates_nothing() {
    let units: Vec<Vec<UnitId>> =
        (0..5).map(|layer| (0..16).map(|expert| UnitId(layer * 16 + expert)).collect()).collect();
    let (mut scores, mut input) = (vec![0.0; SHAPE.experts], vec![0.0; INPUTS]);
    for &name in experts::NAMES {
        let predictor = experts::by_name(name, LearnedShape { experts: SHAPE, inputs: INPUTS, model: 0 }).unwrap();
        let mut adviser = ExpertAdviser::new(SHAPE, units.clone(), name, predictor);
        for number in 0..3 {
            token(&mut adviser, number, &mut scores, &mut input);
        }
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        let hints: usize = (3..20).map(|number| token(&mut adviser, number, &mut scores, &mut input)).sum();
        assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 0, "{name}");
        // Six for each of the seven layers that follow one or two after another.
        assert_eq!(hints, if name == "none" { 0 } else { 17 * 6 * 7 }, "{name}");
    }
}
