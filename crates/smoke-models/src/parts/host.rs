//! Arithmetic on slices, for activations on the host.

use rayon::prelude::*;

/// Elements that are worth a thread.
const CHUNK: usize = 16 << 10;

/// Calls `f` for parts of `x`, on several threads where there are many elements.
pub(super) fn for_each_chunk(x: &mut [f32], f: impl Fn(&mut [f32]) + Sync + Send) {
    if x.len() <= 2 * CHUNK { f(x) } else { x.par_chunks_mut(CHUNK).for_each(f) }
}

/// Calls `f` for equal parts of `x` and `y`.
pub(super) fn for_each_chunk_pair(x: &mut [f32], y: &[f32], f: impl Fn(&mut [f32], &[f32]) + Sync) {
    if x.len() <= 2 * CHUNK {
        f(x, y);
    } else {
        x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| f(x, y));
    }
}

/// Calls `f` for each row of `x`, of `x_len` elements, with the row of `y` in its place, of `y_len`.
pub(super) fn for_each_row_pair(
    x: &mut [f32],
    x_len: usize,
    y: &[f32],
    y_len: usize,
    f: impl Fn(&mut [f32], &[f32]) + Sync,
) {
    if x.len() <= 2 * CHUNK {
        x.chunks_exact_mut(x_len).zip(y.chunks_exact(y_len)).for_each(|(x, y)| f(x, y));
    } else {
        x.par_chunks_exact_mut(x_len).zip(y.par_chunks_exact(y_len)).for_each(|(x, y)| f(x, y));
    }
}

/// The exponential function with a relative error below 3 · 10⁻⁷, in operations that a compiler can make vectors of:
/// 2ⁿ · eʳ with |r| ≤ ln(2)/2, and eʳ by its Taylor polynomial of degree 7. Beyond ±87 it stays at what it is there.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // ln(2) in two parts, the first exact in products with small whole numbers (Cody and Waite, 1980).
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5 · 2²³ rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + coefficient;
    }
    let power = f32::from_bits(((n as i32 + 127) << 23) as u32);
    sum * power
}

/// Softmax in place: the exponentials less the largest, divided by their sum.
pub(super) fn softmax(x: &mut [f32]) {
    let largest = x.iter().fold(f32::NEG_INFINITY, |largest, &x| largest.max(x));
    x.iter_mut().for_each(|x| *x = exp(*x - largest));
    let factor = 1.0 / sum(x);
    x.iter_mut().for_each(|x| *x *= factor);
}

/// The sum, in eight lanes: faster than one, and no less exact.
pub(super) fn sum(x: &[f32]) -> f32 {
    sum_of(x, |x| x)
}

/// The sum of squares.
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    sum_of(x, |x| x * x)
}

#[inline(always)]
fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (eights, rest) = x.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for eight in eights {
        for (lane, &x) in lanes.iter_mut().zip(eight) {
            *lane += f(x);
        }
    }
    lanes.into_iter().chain(rest.iter().map(|&x| f(x))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_bound_of_the_exact_one() {
        for i in -87_000..=87_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
        assert_eq!((exp(0.0), exp(-1e30)), (1.0, exp(-87.0)));
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_ratios() {
        let mut x: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin() * 40.0).collect();
        let exact: Vec<f64> = x.iter().map(|&x| f64::from(x).exp()).collect();
        let total: f64 = exact.iter().sum();
        softmax(&mut x);
        assert!(x.iter().zip(exact).all(|(&x, exact)| (f64::from(x) - exact / total).abs() < 1e-6));
    }

    #[test]
    fn sums_take_every_element() {
        let x: Vec<f32> = (1..=19).map(|i| i as f32).collect();
        assert_eq!((sum(&x), sum_of_squares(&x)), (190.0, 2470.0));
    }
}
