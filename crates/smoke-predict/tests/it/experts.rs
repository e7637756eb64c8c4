//! Expert predictors on made-up routing whose right answer is known, in any order of layers, and on nonsense.

use proptest::prelude::*;
use smoke_predict::experts::{
    ExpertAdviser, ExpertForecast, ExpertPredictor, ExpertShape, LAYERS_AHEAD, LearnedExperts, LearnedShape,
    PopularExperts, PreviousToken, Routed, RouterLookahead, Scoreboard, Transitions,
};
use smoke_predict::{Access, AccessPredictor, ExpectedUse, Forecast, RoutedUnit, Step, UnitId, conformance};

const SHAPE: ExpertShape = ExpertShape { layers: 4, experts: 6, used: 2 };
const INPUTS: usize = 3;

fn learned() -> LearnedExperts {
    LearnedExperts::new(LearnedShape { experts: SHAPE, inputs: INPUTS, model: 7 })
}

fn all() -> Vec<Box<dyn ExpertPredictor>> {
    vec![
        Box::new(PopularExperts::new(SHAPE)),
        Box::new(PreviousToken::new(SHAPE)),
        Box::new(Transitions::new(SHAPE)),
        Box::new(RouterLookahead::new(SHAPE)),
        Box::new(learned()),
    ]
}

fn predicted(predictor: &dyn ExpertPredictor, ahead: usize) -> Vec<f32> {
    let mut out = vec![9.0];
    predictor.predict(ahead, &mut out);
    out
}

/// The two likeliest experts, in the order of their numbers.
fn likeliest(predictor: &dyn ExpertPredictor, ahead: usize) -> Vec<usize> {
    let probabilities = predicted(predictor, ahead);
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    order.truncate(2);
    order.sort_unstable();
    order
}

fn choose(predictor: &mut dyn ExpertPredictor, layer: usize, chosen: &[u32]) {
    predictor.observe(&Routed { layer, chosen, ..Routed::default() });
}

#[test]
fn popularity_follows_a_change_of_habits() {
    let mut predictor = PopularExperts::new(SHAPE);
    for (tokens, chosen) in [(500, [0, 1]), (300, [4, 5])] {
        for _ in 0..tokens {
            choose(&mut predictor, 0, &[2, 3]);
            choose(&mut predictor, 1, &chosen);
        }
        choose(&mut predictor, 0, &[2, 3]);
        assert_eq!(likeliest(&predictor, 1), chosen.map(|expert| expert as usize));
    }
    assert!(predicted(&predictor, 1)[4] > 0.9);
}

#[test]
fn popularity_begins_with_what_an_earlier_run_counted() {
    let rates = [(1, 4, 0.9), (1, 2, 0.8), (2, 0, 0.7), (9, 0, 1.0), (1, 6, 1.0), (1, 3, f32::INFINITY)];
    let mut predictor = PopularExperts::new(SHAPE).with_rates(rates);
    choose(&mut predictor, 0, &[0, 1]);
    assert_eq!(likeliest(&predictor, 1), [2, 4]);
    assert!((predicted(&predictor, 2)[0] - 0.7).abs() < 1e-6);
}

#[test]
fn the_previous_token_is_believed_as_far_as_it_repeats() {
    let mut predictor = PreviousToken::new(SHAPE);
    for token in 0..4000_u32 {
        choose(&mut predictor, 0, &[0, 1]);
        // One of the two stays.
        choose(&mut predictor, 1, &[5, token % 2]);
        choose(&mut predictor, 2, &[2, 3]);
    }
    choose(&mut predictor, 0, &[0, 1]);
    assert_eq!(likeliest(&predictor, 1), [1, 5]);
    let (half, always) = (predicted(&predictor, 1), predicted(&predictor, 2));
    assert!((half[5] - 0.5).abs() < 0.05 && (always[2] - 1.0).abs() < 0.05, "{half:?} {always:?}");
    // What is left of two choices is shared by the four others.
    assert!((half[0] - 0.25).abs() < 0.05, "{half:?}");
}

#[test]
fn transitions_are_counted_one_and_two_layers_on() {
    let mut predictor = Transitions::new(SHAPE);
    for token in 0..200_u32 {
        let first = token % 3;
        choose(&mut predictor, 0, &[first, first + 3]);
        choose(&mut predictor, 1, &[5 - first, 2 - first]);
        choose(&mut predictor, 2, &[first, 5]);
    }
    choose(&mut predictor, 0, &[1, 4]);
    assert_eq!(likeliest(&predictor, 1), [1, 4]);
    assert_eq!(likeliest(&predictor, 2), [1, 5]);
    assert!(predicted(&predictor, 1)[4] > 0.9 && predicted(&predictor, 1)[0] < 0.1);
}

#[test]
fn lookahead_says_what_the_router_said_and_learns_how_sure_it_may_be() {
    let mut predictor = RouterLookahead::new(SHAPE);
    let (next, after) = ([0.1, 0.5, 0.4, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0, 0.0, 4.0]);
    let mut before = Vec::new();
    for token in 0..3000 {
        predictor.observe(&Routed { layer: 0, chosen: &[0, 1], lookahead: &[&next, &after], ..Routed::default() });
        if token == 0 {
            before = predicted(&predictor, 1);
        }
        choose(&mut predictor, 1, &[1, 2]);
        choose(&mut predictor, 2, &[0, 1]);
    }
    predictor.observe(&Routed { layer: 0, chosen: &[0, 1], lookahead: &[&next, &after], ..Routed::default() });
    assert_eq!((likeliest(&predictor, 1), likeliest(&predictor, 2)), (vec![1, 2], vec![3, 5]));
    assert!(before[2] < 0.6 && predicted(&predictor, 1)[2] > 0.75, "scores close together that are right every time");
    assert!(predicted(&predictor, 2)[5] < 0.4, "scores far apart that are never right");
}

/// The next layer's scores follow from the input by a map that the early router does not have.
fn teach(predictor: &mut dyn ExpertPredictor, tokens: usize, with_scores: bool) -> usize {
    let mut hits = 0;
    for token in 0..tokens {
        let input = [(token as f32 * 0.7).sin(), (token as f32 * 1.3).cos(), (token as f32 * 2.1).sin()];
        let actual: Vec<f32> = (0..6)
            .map(|expert| {
                input.iter().enumerate().map(|(place, x)| x * ((expert * 3 + place) as f32 * 1.7).sin() * 3.0).sum()
            })
            .collect();
        let mut order: Vec<u32> = (0..6).collect();
        order.sort_by(|&a, &b| actual[b as usize].total_cmp(&actual[a as usize]));
        predictor.observe(&Routed { layer: 0, chosen: &[0, 1], input: &input, ..Routed::default() });
        let found = likeliest(predictor, 1);
        hits +=
            if token * 2 >= tokens { order[..2].iter().filter(|&&e| found.contains(&(e as usize))).count() } else { 0 };
        let scores: &[f32] = if with_scores { &actual } else { &[] };
        predictor.observe(&Routed { layer: 1, chosen: &order[..2], scores, ..Routed::default() });
    }
    hits
}

#[test]
fn the_learned_one_learns_from_scores_and_from_choices() {
    // 2000 slots in the second half; a third of them by chance.
    let (mut by_scores, mut by_choice) = (learned(), learned());
    assert!(teach(&mut by_scores, 2000, true) > 1950);
    assert!(teach(&mut by_choice, 2000, false) > 1500);
    let mut still = learned();
    still.set_rate(0.0);
    assert!(teach(&mut still, 2000, true) < 1000, "nothing is learnt at a rate of 0");
}

#[test]
fn without_anything_learnt_the_learned_one_is_the_lookahead() {
    let (mut learned, mut lookahead) = (learned(), RouterLookahead::new(SHAPE));
    let scores = [0.3, -1.0, 2.0, 0.0, 5.0, 1.0];
    let routed = Routed { layer: 1, chosen: &[3], lookahead: &[&scores], ..Routed::default() };
    learned.observe(&routed);
    lookahead.observe(&routed);
    let (learned, lookahead) = (predicted(&learned, 1), predicted(&lookahead, 1));
    assert!(learned.iter().zip(&lookahead).all(|(a, b)| (a - b).abs() < 1e-6), "{learned:?} {lookahead:?}");
}

#[test]
fn a_long_input_is_folded_and_memory_stays_bounded() {
    let shape = LearnedShape { experts: SHAPE, inputs: 5000, model: 0 };
    let mut learned = LearnedExperts::new(shape);
    let input: Vec<f32> = (0..5000).map(|place| (place as f32).sin()).collect();
    let target = [3.0, 0.0, 0.0, -3.0, 0.0, 1.0];
    for _ in 0..200 {
        learned.observe(&Routed { layer: 0, chosen: &[0, 1], input: &input, ..Routed::default() });
        learned.observe(&Routed { layer: 1, chosen: &[0, 5], scores: &target, ..Routed::default() });
    }
    learned.observe(&Routed { layer: 0, chosen: &[0, 1], input: &input, ..Routed::default() });
    assert_eq!(likeliest(&learned, 1), [0, 5]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(LearnedExperts::FILE_NAME);
    learned.save(&path).unwrap();
    // 8 maps of 6 experts and 256 + 6 + 1 features.
    assert!(std::fs::metadata(&path).unwrap().len() < 8 * 6 * 263 * 4 + 200);
}

/// Skip connections leave layers out, early exits end a token, branches take one layer or another.
#[test]
fn tokens_need_not_visit_every_layer() {
    for mut predictor in all() {
        let scores = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let mut see = |layer: usize| {
            let routed = Routed {
                layer,
                chosen: &[4, 5],
                scores: &scores,
                input: &[1.0, 0.0, 0.5],
                lookahead: &[&scores, &scores],
            };
            predictor.observe(&routed);
            (predicted(&predictor, 1), predicted(&predictor, 2))
        };
        for _ in 0..50 {
            // Layer 1 is skipped, or its branch is; then a token leaves after layer 1, and one after layer 0.
            for layer in [0, 2, 3, 0, 1, 0, 0, 1, 3] {
                let (next, after) = see(layer);
                assert!(next.len() == 6 * usize::from(layer < 3), "{layer}: {next:?}");
                assert!(after.len() == 6 * usize::from(layer < 2), "{layer}: {after:?}");
            }
        }
        // What follows a layer that is taken sometimes is known all the same.
        see(0);
        assert_eq!(likeliest(&predictor, 2), [4, 5], "{predictor:?}");
    }
}

#[test]
fn a_prediction_counts_for_its_token_only() {
    // Each token leaves after layer 0, so layer 1 of the next token was predicted by that token, once.
    let mut board = Scoreboard::new(SHAPE).with("popular", PopularExperts::new(SHAPE));
    for layer in [0, 0, 0, 1, 3, 0] {
        board.observe(&Routed { layer, chosen: &[0, 1], ..Routed::default() });
    }
    let counted = |ahead| board.score("popular", ahead).unwrap().routings();
    assert_eq!((counted(1), counted(2)), (1, 1));
    assert!(
        board.score("popular", 0).is_none() && board.score("popular", 3).is_none() && board.score("no", 1).is_none()
    );
    assert_eq!(board.to_string().lines().count(), 2 + LAYERS_AHEAD);
}

/// Shared units 0, 1 and 2, each followed by three experts of which a token uses one.
fn routed_units() -> (Vec<UnitId>, Vec<RoutedUnit>) {
    let experts =
        (0..9).map(|number| RoutedUnit { unit: UnitId(3 + number), place: number as usize / 3, share: 1.0 / 3.0 });
    ((0..3).map(UnitId).collect(), experts.collect())
}

fn forecast() -> ExpertForecast<Transitions> {
    let (schedule, routed) = routed_units();
    let shape = ExpertShape::of(&routed);
    assert_eq!(shape, ExpertShape { layers: 3, experts: 3, used: 1 });
    ExpertForecast::new(schedule, &routed, Transitions::new(shape))
}

#[test]
fn an_expert_predictor_is_an_access_predictor() {
    conformance::all(forecast);
    let mut forecast = forecast();
    let see = |forecast: &mut ExpertForecast<Transitions>, unit| {
        forecast.observe(Access { step: Step(0), unit: UnitId(unit) })
    };
    for token in 0..90 {
        let expert = token % 3;
        // The next layer turns the choice round, the one after it repeats it.
        for unit in [0, 3 + expert, 1, 6 + (2 - expert), 2, 9 + expert] {
            see(&mut forecast, unit);
        }
    }
    see(&mut forecast, 0);
    see(&mut forecast, 3);
    let mut soon: Vec<ExpectedUse> = Vec::new();
    forecast.upcoming(2, &mut soon);
    let likely =
        |unit| soon.iter().find(|use_| use_.unit == UnitId(unit)).map(|use_| (use_.distance, use_.probability > 0.7));
    assert_eq!((likely(8), likely(9)), (Some((1, true)), Some((2, true))), "{soon:?}");
    assert!(likely(7).is_none_or(|(_, is_likely)| !is_likely), "{soon:?}");
}

fn numbers() -> impl Strategy<Value = Vec<f32>> {
    let number = prop_oneof![4 => -5.0..5.0_f32, 1 => any::<f32>()];
    prop_oneof![3 => prop::collection::vec(number.clone(), 6), 2 => prop::collection::vec(number.clone(), 3), 1 => prop::collection::vec(number, 0..9)]
}

proptest! {
    /// Nonsense is passed over, answers are probabilities, and the same history gives the same ones.
    #[test]
    fn any_routing_is_borne(routings in prop::collection::vec(
        (0..6_usize, prop::collection::vec(0..8_u32, 0..5), numbers(), numbers(), prop::collection::vec(numbers(), 0..4)), 1..40,
    )) {
        for (mut one, mut other) in all().into_iter().zip(all()) {
            for (layer, chosen, scores, input, lookahead) in &routings {
                let lookahead: Vec<&[f32]> = lookahead.iter().map(Vec::as_slice).collect();
                let routed = Routed { layer: *layer, chosen, scores, input, lookahead: &lookahead };
                one.observe(&routed);
                other.observe(&routed);
                for ahead in [0, 1, 2, 3, usize::MAX] {
                    let probabilities = predicted(&one, ahead);
                    prop_assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{:?}: {:?}", one, probabilities);
                    prop_assert!(probabilities.is_empty() || (probabilities.len() == 6 && (1..=2).contains(&ahead)));
                    prop_assert_eq!(&probabilities, &predicted(&other, ahead));
                }
            }
        }
    }
}

#[test]
fn an_adviser_names_the_likeliest_units_and_keeps_the_score_beside_the_baselines() {
    let units: Vec<Vec<UnitId>> =
        (0..4).map(|layer| (0..6).map(|expert| UnitId(10 * layer + expert)).collect()).collect();
    let mut adviser = ExpertAdviser::new(SHAPE, units, "learned", learned());
    let mut lookahead = RouterLookahead::new(SHAPE);
    let scores = [0.3, -1.0, 2.0, 0.0, 5.0, 1.0];
    let routed = Routed { layer: 1, chosen: &[3, 4], lookahead: &[&scores], ..Routed::default() };
    // What has learnt nothing is the lookahead.
    lookahead.observe(&routed);
    let probabilities = predicted(&lookahead, 1);
    let hints = adviser.observe(&routed);
    // Of the next layer the four best; of the one after it no scores are told, so that all are alike.
    let named: Vec<u32> = hints.iter().map(|hint| hint.unit.0).collect();
    assert_eq!(named, [24, 22, 25, 20, 30, 31, 32, 33]);
    assert_eq!(hints.iter().map(|hint| hint.distance).collect::<Vec<_>>(), [1, 1, 1, 1, 2, 2, 2, 2]);
    for hint in &hints[..4] {
        assert!((hint.probability - probabilities[hint.unit.0 as usize - 20]).abs() < 1e-6, "{hint:?}");
    }
    adviser.observe(&Routed { layer: 2, chosen: &[4, 0], ..Routed::default() });
    let scores: Vec<_> =
        adviser.scores().map(|(name, [next, after])| (name, next.slot_recall(), after.routings())).collect();
    assert_eq!(scores[..2], [("learned", 0.5, 0), ("lookahead", 0.5, 0)]);
    assert_eq!(scores[2..].iter().map(|score| score.0).collect::<Vec<_>>(), ["popular", "previous"]);
    adviser.clear_scores();
    assert!(adviser.scores().all(|(_, [next, _])| next.routings() == 0));
}

#[test]
fn what_is_said_of_a_layer_that_does_not_exist_is_passed_over() {
    let mut adviser = ExpertAdviser::new(SHAPE, Vec::new(), "lookahead", RouterLookahead::new(SHAPE));
    assert!(adviser.observe(&Routed { layer: 4, chosen: &[1], ..Routed::default() }).is_empty());
    assert!(adviser.observe(&Routed { layer: 0, chosen: &[1], ..Routed::default() }).is_empty(), "no units are known");
    assert_eq!(adviser.scores().count(), 3);
}
