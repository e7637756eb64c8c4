//! Products against sums in f64 over the decoded weights.

use proptest::prelude::*;
use smoke_core::Encoding;
use smoke_quant::{Isa, PackedMatrix, Product, decode_with, multiply_all};

use crate::weights::{ENCODINGS, Random};

/// Written where nothing may write.
const UNTOUCHED: f32 = 12_345.0;

#[derive(Clone, Debug)]
struct Case {
    encoding: Encoding,
    rows: usize,
    columns: usize,
    tokens: usize,
    /// Elements between the rows of two tokens of the strided side, beyond those that are meant.
    gap: usize,
    /// Bytes before the matrix in its allocation: any address must do.
    skipped: usize,
    seed: u64,
}

/// A matrix, its decoded weights, and what multiplies it.
struct Data {
    bytes: Vec<u8>,
    weights: Vec<f64>,
    random: Random,
}

impl Case {
    fn data(&self) -> Data {
        let mut random = Random(self.seed);
        let elements = self.rows * self.columns;
        let packed = random.blocks(self.encoding, elements / self.encoding.block_elements() as usize);
        let mut decoded = vec![0.0; elements];
        decode_with(Isa::Scalar, self.encoding, &packed, &mut decoded).expect("the lengths fit");
        let mut bytes = vec![0xff; self.skipped];
        bytes.extend(packed);
        Data { bytes, weights: decoded.into_iter().map(f64::from).collect(), random }
    }

    fn matrix<'a>(&self, bytes: &'a [u8]) -> PackedMatrix<'a> {
        PackedMatrix::new(self.encoding, self.rows, self.columns, &bytes[self.skipped..]).expect("the shape fits")
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let encoding = proptest::sample::select(&ENCODINGS[..]);
    let tokens = prop_oneof![1_usize..5, 1_usize..70];
    (encoding, 1_usize..70, 1_usize..30, tokens, 0_usize..20, 0_usize..64, any::<u64>()).prop_map(
        |(encoding, rows, width, tokens, gap, skipped, seed)| {
            // Plain floats have rows of any length; of blocks of 256 a few make several panels.
            let columns = match encoding.block_elements() {
                1 => 1 + width * 37 % 1100,
                32 => width * 32,
                _ => 256 * (1 + width / 8),
            };
            Case { encoding, rows, columns, tokens, gap, skipped, seed }
        },
    )
}

/// How far a product may be from the exact one. F32 sums err by a few units in their last place, and activations may be
/// rounded as numbers as large as the largest of their block of 32 are.
fn bound(w: impl Iterator<Item = f64> + Clone, x: impl Iterator<Item = f32> + Clone) -> f64 {
    let x: Vec<f64> = x.map(f64::from).collect();
    let mut bound = 1e-12;
    let w: Vec<f64> = w.collect();
    for (w, x) in w.chunks(32).zip(x.chunks(32)) {
        let largest = x.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        for (w, x) in w.iter().zip(x) {
            bound += w.abs() * (2e-6 * x.abs() + 1.5e-7 * largest);
        }
    }
    bound
}

fn check_multiply(case: &Case, isa: Isa) {
    let Data { bytes, weights, mut random } = case.data();
    let (rows, columns, tokens) = (case.rows, case.columns, case.tokens);
    let x = random.activations(tokens * columns);
    let stride = rows + case.gap;
    let mut y = vec![UNTOUCHED; tokens * stride];
    case.matrix(&bytes).multiply_with(isa, &x, &mut y, stride);
    for (x, y) in x.chunks(columns).zip(y.chunks(stride)) {
        for (w, &y) in weights.chunks(columns).zip(y) {
            let exact: f64 = w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
            let bound = bound(w.iter().copied(), x.iter().copied());
            assert!((f64::from(y) - exact).abs() <= bound, "{y} is not {exact} within {bound} on {isa:?} in {case:?}");
        }
        assert!(y[rows..].iter().all(|y| *y == UNTOUCHED), "wrote between tokens on {isa:?} in {case:?}");
    }
}

fn check_transposed(case: &Case, isa: Isa) {
    let Data { bytes, weights, mut random } = case.data();
    let (rows, columns, tokens) = (case.rows, case.columns, case.tokens);
    let stride = rows + case.gap;
    let x = random.activations(tokens * stride);
    let before = random.activations(tokens * columns);
    let mut y = before.clone();
    case.matrix(&bytes).multiply_transposed_with(isa, &x, stride, &mut y);
    for t in 0..tokens {
        let x = &x[t * stride..][..rows];
        for c in 0..columns {
            let w = weights[c..].iter().step_by(columns).copied();
            let (before, y) = (f64::from(before[t * columns + c]), f64::from(y[t * columns + c]));
            let exact = before + w.clone().zip(x).map(|(w, x)| w * f64::from(*x)).sum::<f64>();
            let bound = bound(w, x.iter().copied()) + 2e-6 * before.abs();
            assert!((y - exact).abs() <= bound, "{y} is not {exact} within {bound} on {isa:?} in {case:?}");
        }
    }
}

proptest! {
    // Twice as many as usual; PROPTEST_CASES says what is usual.
    #![proptest_config(ProptestConfig { cases: 2 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn products_are_those_of_the_decoded_weights(case in any_case()) {
        Isa::available().iter().for_each(|&isa| check_multiply(&case, isa));
    }

    #[test]
    fn transposed_products_are_those_of_the_decoded_weights(case in any_case()) {
        Isa::available().iter().for_each(|&isa| check_transposed(&case, isa));
    }
}

/// Every encoding, number of tokens around the sizes of tiles, and rows around those of panels: what random cases may miss.
#[test]
fn products_hold_at_the_edges_of_tiles() {
    for encoding in ENCODINGS {
        for (tokens, rows) in [(1, 1), (2, 15), (3, 16), (4, 17), (5, 32), (8, 33), (9, 31), (64, 48), (97, 5)] {
            let case = Case { encoding, rows, columns: 768, tokens, gap: 0, skipped: 1, seed: tokens as u64 };
            Isa::available().iter().for_each(|&isa| check_multiply(&case, isa));
            Isa::available().iter().for_each(|&isa| check_transposed(&case, isa));
        }
    }
}

/// Large enough for several threads, and for more than one pass over the tokens.
#[test]
fn products_do_not_depend_on_the_number_of_threads() {
    for encoding in ENCODINGS {
        for tokens in [1, 2, 3, 7, 130] {
            let case = Case { encoding, rows: 203, columns: 1024, tokens, gap: 3, skipped: 5, seed: 11 };
            let Data { bytes, mut random, .. } = case.data();
            let x = random.activations(tokens * (case.columns + 3));
            let run = |threads: usize, isa: Isa| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut y = vec![UNTOUCHED; tokens * (case.rows + 3)];
                let mut transposed = vec![0.0; tokens * case.columns];
                pool.install(|| {
                    let matrix = case.matrix(&bytes);
                    matrix.multiply_with(isa, &x[..tokens * case.columns], &mut y, case.rows + 3);
                    matrix.multiply_transposed_with(isa, &x, case.columns + 3, &mut transposed);
                });
                (y, transposed)
            };
            for &isa in Isa::available() {
                assert!(run(1, isa) == run(3, isa), "{encoding} on {isa:?} with {tokens} tokens");
            }
        }
        check_multiply(
            &Case { encoding, rows: 203, columns: 1024, tokens: 5, gap: 3, skipped: 5, seed: 12 },
            Isa::best(),
        );
    }
}

/// Matrices of several encodings, small and large, some of them one below another: bit for bit what each gives by itself.
#[test]
fn products_at_once_are_those_one_by_one() {
    for tokens in [1, 2, 9, 64] {
        let cases: Vec<Case> = ENCODINGS
            .into_iter()
            .flat_map(|encoding| [1, 3, 40, 203].map(|rows| (encoding, rows)))
            .map(|(encoding, rows)| Case {
                encoding,
                rows,
                columns: 768,
                tokens,
                gap: 0,
                skipped: 3,
                seed: rows as u64,
            })
            .collect();
        let data: Vec<Data> = cases.iter().map(Case::data).collect();
        let matrices: Vec<PackedMatrix<'_>> =
            cases.iter().zip(&data).map(|(case, data)| case.matrix(&data.bytes)).collect();
        let x = Random(23).activations(tokens * 768);
        // Three to an output, so that encodings meet within outputs and across them; the last has fewer.
        let groups: Vec<&[PackedMatrix<'_>]> = matrices.chunks(3).collect();
        let stride = |group: &[PackedMatrix<'_>]| 2 + group.iter().map(PackedMatrix::rows).sum::<usize>();
        let results = || groups.iter().map(|group| vec![UNTOUCHED; tokens * stride(group)]).collect::<Vec<_>>();
        let (mut apart, mut at_once) = (results(), results());
        for (group, y) in groups.iter().zip(&mut apart) {
            let mut first = 0;
            for matrix in *group {
                matrix.multiply(&x, &mut y[first..], stride(group));
                first += matrix.rows();
            }
        }
        let products = groups.iter().zip(&mut at_once);
        let mut products: Vec<Product<'_>> =
            products.map(|(group, y)| Product::new(group, tokens, y, stride(group))).collect();
        multiply_all(&x, &mut products);
        drop(products);
        assert!(at_once == apart, "{tokens} tokens");
    }
}

/// What a token gives may depend on the tokens beside it by rounding only, and in integers not at all: a speculated token
/// that is verified in a batch must not be judged by other numbers than it would have had alone.
#[test]
fn integer_products_do_not_depend_on_the_number_of_tokens() {
    let Some(isa) = Isa::available().iter().find(|isa| format!("{isa:?}") == "Avx512") else { return };
    let in_floats = [Encoding::Q2_K, Encoding::Q3_K, Encoding::IQ4_NL, Encoding::IQ4_XS];
    for encoding in ENCODINGS.into_iter().filter(|e| e.block_elements() > 1 && !in_floats.contains(e)) {
        let case = Case { encoding, rows: 37, columns: 1280, tokens: 21, gap: 0, skipped: 0, seed: 14 };
        let Data { bytes, mut random, .. } = case.data();
        let x = random.activations(case.tokens * case.columns);
        let run = |x: &[f32]| {
            let mut y = vec![0.0; x.len() / case.columns * case.rows];
            case.matrix(&bytes).multiply_with(*isa, x, &mut y, case.rows);
            y
        };
        let together = run(&x);
        for tokens in 1..9 {
            let apart: Vec<f32> = x.chunks(tokens * case.columns).flat_map(run).collect();
            assert!(apart == together, "{encoding}, {tokens} at a time");
        }
    }
}

/// Rounding of activations must stay noise: far below what the bound of single results allows.
#[test]
fn products_of_normal_tokens_are_exact_to_six_digits() {
    for encoding in ENCODINGS {
        for tokens in [1, 4, 64] {
            let case = Case { encoding, rows: 64, columns: 2048, tokens, gap: 0, skipped: 0, seed: 13 };
            let Data { bytes, weights, mut random } = case.data();
            let x: Vec<f32> = (0..tokens * case.columns).map(|_| random.normal()).collect();
            for &isa in Isa::available() {
                let mut y = vec![0.0; tokens * case.rows];
                case.matrix(&bytes).multiply_with(isa, &x, &mut y, case.rows);
                let (mut error, mut size) = (0.0, 0.0);
                for (x, y) in x.chunks(case.columns).zip(y.chunks(case.rows)) {
                    for (w, &y) in weights.chunks(case.columns).zip(y) {
                        let exact: f64 = w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
                        error += (f64::from(y) - exact).powi(2);
                        size += exact.powi(2);
                    }
                }
                let relative = (error / size).sqrt();
                assert!(relative < 5e-7, "{encoding} on {isa:?} with {tokens} tokens errs by {relative}");
            }
        }
    }
}

#[test]
fn nothing_times_anything_is_nothing() {
    let bytes = [0_u8; 34];
    let matrix = PackedMatrix::new(Encoding::Q8_0, 1, 32, &bytes).unwrap();
    matrix.multiply(&[], &mut [], 1);
    let empty = PackedMatrix::new(Encoding::Q8_0, 0, 32, &[]).unwrap();
    let mut y = [UNTOUCHED; 3];
    empty.multiply(&[1.0; 96], &mut y, 1);
    empty.multiply_transposed(&[], 0, &mut []);
    assert_eq!(y, [UNTOUCHED; 3]);
}

#[test]
fn zero_tokens_and_zero_weights_give_zero() {
    for encoding in ENCODINGS {
        let bytes = vec![0; encoding.bytes_for(20 * 256).unwrap() as usize];
        let zeros = PackedMatrix::new(encoding, 20, 256, &bytes).unwrap();
        let mut random = Random(5);
        let bytes = random.blocks(encoding, 20 * 256 / encoding.block_elements() as usize);
        let weights = PackedMatrix::new(encoding, 20, 256, &bytes).unwrap();
        for tokens in [1, 2, 9] {
            let x = random.activations(256 * tokens);
            for &isa in Isa::available() {
                let mut y = vec![UNTOUCHED; 20 * tokens];
                zeros.multiply_with(isa, &x, &mut y, 20);
                assert!(y.iter().all(|y| *y == 0.0), "zero weights of {encoding} on {isa:?}");
                weights.multiply_with(isa, &vec![0.0; 256 * tokens], &mut y, 20);
                assert!(y.iter().all(|y| *y == 0.0), "zero tokens, {encoding} on {isa:?}");
            }
        }
    }
}

/// A NaN or an infinity in a token must be seen in that token's results, and in no other's.
#[test]
fn what_is_not_finite_is_not_hidden() {
    for encoding in ENCODINGS {
        let mut random = Random(6);
        let bytes = random.blocks(encoding, 20 * 512 / encoding.block_elements() as usize);
        let matrix = PackedMatrix::new(encoding, 20, 512, &bytes).unwrap();
        for (tokens, bad) in [(1, f32::NAN), (2, f32::INFINITY), (9, f32::NAN), (9, f32::NEG_INFINITY)] {
            let mut x = random.activations(512 * tokens);
            x[70] = bad;
            for &isa in Isa::available() {
                let mut y = vec![0.0; 20 * tokens];
                matrix.multiply_with(isa, &x, &mut y, 20);
                assert!(y[..20].iter().all(|y| !y.is_finite()), "{encoding} on {isa:?}: {bad} became {:?}", &y[..20]);
                assert!(y[20..].iter().all(|y| y.is_finite()), "{encoding} on {isa:?}: {bad} spread");
            }
        }
    }
}

#[test]
#[should_panic(expected = "no whole number of tokens")]
fn a_partial_token_panics() {
    let matrix = PackedMatrix::new(Encoding::F32, 1, 2, &[0; 8]).unwrap();
    matrix.multiply(&[0.0; 3], &mut [0.0; 2], 1);
}

#[test]
#[should_panic(expected = "do not hold 2 tokens")]
fn a_short_output_panics() {
    let matrix = PackedMatrix::new(Encoding::F32, 2, 1, &[0; 8]).unwrap();
    matrix.multiply(&[0.0; 2], &mut [0.0; 3], 2);
}

#[test]
#[should_panic(expected = "is less than the 2 elements")]
fn overlapping_outputs_panic() {
    let matrix = PackedMatrix::new(Encoding::F32, 2, 1, &[0; 8]).unwrap();
    matrix.multiply(&[0.0; 2], &mut [0.0; 8], 1);
}
