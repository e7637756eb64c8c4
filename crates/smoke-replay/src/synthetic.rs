//! Traces that nobody recorded: for tests, and to see what a policy does where the answer is known.

use smoke_core::{UnitId, UnitInfo, UnitKind};

use crate::trace::Trace;

/// A dense model: all units in turn, once per token.
pub fn dense(units: u32, unit_bytes: u64, tokens: u32) -> Trace {
    let unit = UnitInfo { bytes: unit_bytes, layer: None, kind: UnitKind::Shared };
    let units_ = (0..units).map(|layer| UnitInfo { layer: Some(layer), ..unit }).collect();
    let mut trace = Trace::new("synthetic: dense", units_);
    for _ in 0..tokens {
        (0..units).for_each(|unit| trace.push_step(&[UnitId(unit)]));
        trace.end_pass(1);
    }
    trace
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeShape {
    /// Layers, each with one shared unit and its experts.
    pub layers: u32,
    /// Experts of a layer.
    pub experts: u32,
    /// Experts that a token uses in each layer.
    pub top_k: u32,
    /// Bytes of an expert.
    pub expert_bytes: u64,
    /// Bytes of what every token uses of a layer; 0 for none.
    pub shared_bytes: u64,
}

impl MoeShape {
    fn units_per_layer(self) -> u32 {
        self.experts + u32::from(self.shared_bytes > 0)
    }

    /// The trace of tokens whose experts `route` chooses, by layer and the experts of the token before.
    fn trace(self, model: &str, tokens: u32, mut route: impl FnMut(usize, &[u32]) -> Vec<u32>) -> Trace {
        assert!(self.top_k <= self.experts, "a token uses some of the experts");
        let mut units = Vec::new();
        for layer in (0..self.layers).map(Some) {
            if self.shared_bytes > 0 {
                units.push(UnitInfo { bytes: self.shared_bytes, layer, kind: UnitKind::Shared });
            }
            let expert = UnitInfo { bytes: self.expert_bytes, layer, kind: UnitKind::Expert };
            units.extend(std::iter::repeat_n(expert, self.experts as usize));
        }
        let mut trace = Trace::new(model, units);
        let mut routes = vec![Vec::new(); self.layers as usize];
        for _ in 0..tokens {
            for (layer, before) in routes.iter_mut().enumerate() {
                let first = layer as u32 * self.units_per_layer();
                let shared = u32::from(self.shared_bytes > 0);
                if shared > 0 {
                    trace.push_step(&[UnitId(first)]);
                }
                *before = route(layer, before);
                let units: Vec<UnitId> = before.iter().map(|expert| UnitId(first + shared + expert)).collect();
                if !units.is_empty() {
                    trace.push_step(&units);
                }
            }
            trace.end_pass(1);
        }
        trace
    }
}

/// A mixture of experts whose tokens choose apart from one another, some experts more often: the *n*th favourite of a
/// layer with a weight of *n* to the power of −`exponent` (Zipf). At 0 all are alike.
///
/// # Panics
/// If a token uses more experts than there are.
pub fn zipf_moe(shape: MoeShape, exponent: f64, tokens: u32, seed: u64) -> Trace {
    let mut random = Random(seed);
    let weights = favourites(shape, exponent, &mut random);
    shape.trace("synthetic: zipf MoE", tokens, |layer, _| draw(&weights[layer], shape.top_k, &[], &mut random))
}

/// A mixture of experts in which each expert that a token uses is used by the next one, too, with probability `stay`;
/// otherwise another is drawn as in [`zipf_moe`].
///
/// # Panics
/// If a token uses more experts than there are.
pub fn markov_moe(shape: MoeShape, exponent: f64, stay: f64, tokens: u32, seed: u64) -> Trace {
    let mut random = Random(seed);
    let weights = favourites(shape, exponent, &mut random);
    shape.trace("synthetic: Markov MoE", tokens, |layer, before| {
        let kept: Vec<u32> = before.iter().copied().filter(|_| random.unit() < stay).collect();
        draw(&weights[layer], shape.top_k, &kept, &mut random)
    })
}

/// For each layer the weights of its experts, of which others are the favourites in each.
fn favourites(shape: MoeShape, exponent: f64, random: &mut Random) -> Vec<Vec<f64>> {
    let ranked: Vec<f64> = (1..=shape.experts).map(|rank| f64::from(rank).powf(-exponent)).collect();
    let shuffled = |random: &mut Random| {
        let mut weights = ranked.clone();
        // Fisher and Yates.
        for at in (1..weights.len()).rev() {
            weights.swap(at, random.below(at as u64 + 1) as usize);
        }
        weights
    };
    (0..shape.layers).map(|_| shuffled(random)).collect()
}

/// `kept` and further experts, drawn by weight without putting back, until there are `count`; in order.
fn draw(weights: &[f64], count: u32, kept: &[u32], random: &mut Random) -> Vec<u32> {
    let mut drawn = kept.to_vec();
    while drawn.len() < count as usize {
        let left = |drawn: &[u32]| {
            let all = (0..).zip(weights).map(|(expert, &weight)| (expert, weight));
            all.filter(|(expert, _)| !drawn.contains(expert)).collect::<Vec<(u32, f64)>>()
        };
        let left = left(&drawn);
        let mut point = random.unit() * left.iter().map(|(_, weight)| weight).sum::<f64>();
        let chosen = left.iter().find(|(_, weight)| {
            point -= weight;
            point < 0.0
        });
        // Rounding may leave a little beyond the last.
        drawn.extend(chosen.or(left.last()).map(|(expert, _)| *expert));
    }
    drawn.sort_unstable();
    drawn
}

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_those_of_the_reference() {
        // From the reference implementation, seed 1234567.
        let mut random = Random(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn experts_of_a_token_are_distinct_and_drawn_by_weight() {
        let mut random = Random(7);
        let weights = [4.0, 2.0, 1.0, 1.0];
        let mut counts = [0_u32; 4];
        for _ in 0..8000 {
            let drawn = draw(&weights, 2, &[3], &mut random);
            assert!(drawn.len() == 2 && drawn[1] == 3 && drawn[0] < 3, "{drawn:?}");
            counts[drawn[0] as usize] += 1;
        }
        // 4 : 2 : 1, with a deviation of sqrt(8000 · 4/7 · 3/7), 44.
        assert!(counts[0].abs_diff(4571) < 220 && counts[1].abs_diff(2286) < 220, "{counts:?}");
    }
}
