//! The recorded routing of a trained mixture of experts: what the files say must follow from one another.

use half::f16;
use safetensors::{Dtype, SafeTensors};
use smoke_tests::asset;

/// A trace: T tokens, L layers, E experts of which k are chosen, hidden states of H.
struct Trace {
    bytes: Vec<u8>,
}

impl Trace {
    fn read(split: &str) -> Self {
        Self { bytes: std::fs::read(asset(&format!("moe-traces/{split}.safetensors"))).unwrap() }
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).unwrap().shape().to_vec()
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::U8 => data.iter().map(|&byte| f32::from(byte)).collect(),
            Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::I32 => data.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

#[test]
fn tokens_lie_document_by_document() {
    for split in ["train", "held-out"] {
        let positions = Trace::read(split).numbers("positions");
        assert_eq!(positions.len(), 1024);
        assert_eq!(positions[0], 0.0);
        assert!(positions.windows(2).all(|pair| pair[1] == pair[0] + 1.0 || pair[1] == 0.0));
    }
}

#[test]
fn the_chosen_experts_have_the_best_scores() {
    for split in ["train", "held-out"] {
        let trace = Trace::read(split);
        let (chosen, logits) = (trace.numbers("experts"), trace.numbers("logits"));
        let (k, experts) = (trace.shape("experts")[2], trace.shape("logits")[2]);
        assert_eq!(chosen.len() / k, logits.len() / experts);
        for (chosen, logits) in chosen.chunks_exact(k).zip(logits.chunks_exact(experts)) {
            let scores: Vec<f32> = chosen.iter().map(|&expert| logits[expert as usize]).collect();
            assert!(scores.is_sorted_by(|better, worse| better >= worse), "{chosen:?} of {logits:?}");
            assert!(chosen.windows(2).all(|pair| pair[0] != pair[1]), "{chosen:?}");
            let worse = (0..experts).filter(|expert| !chosen.contains(&(*expert as f32)));
            // Rounded to f16, a score that is a little worse may be equal.
            assert!(worse.map(|expert| logits[expert]).all(|logit| logit <= scores[k - 1]), "{chosen:?} of {logits:?}");
        }
    }
}

#[test]
fn scores_and_lookahead_are_products_of_the_inputs() {
    let trace = Trace::read("held-out");
    let shape = trace.shape("inputs");
    let [tokens, layers, hidden] = shape[..] else { panic!("{shape:?}") };
    let experts = trace.shape("logits")[2];
    let (inputs, weights, norms) =
        (trace.numbers("inputs"), trace.numbers("router.weight"), trace.numbers("router.norm"));
    for (name, ahead) in [("logits", 0), ("lookahead.1", 1), ("lookahead.2", 2)] {
        let recorded = trace.numbers(name);
        let rows = layers - ahead;
        for (token, layer) in (0..tokens).flat_map(|token| (0..rows).map(move |layer| (token, layer))) {
            let input = &inputs[(token * layers + layer) * hidden..][..hidden];
            // The norm's scales of the router that is run, in place of this layer's.
            let (own, run) = (&norms[layer * hidden..][..hidden], &norms[(layer + ahead) * hidden..][..hidden]);
            let scaled: Vec<f32> = input.iter().zip(own.iter().zip(run)).map(|(x, (own, run))| x / own * run).collect();
            for expert in 0..experts {
                let weight = &weights[((layer + ahead) * experts + expert) * hidden..][..hidden];
                let score = recorded[(token * rows + layer) * experts + expert];
                let magnitude: f32 = scaled.iter().zip(weight).map(|(a, b)| (a * b).abs()).sum();
                let difference = (dot(&scaled, weight) - score).abs();
                // Inputs and scores are f16, rounded by at most one part in 2048.
                let allowed = (magnitude + score.abs()) / 2048.0 + 1e-4;
                assert!(difference <= allowed, "{name} of {token}, {layer}, {expert}: {difference} > {allowed}");
            }
        }
    }
}
