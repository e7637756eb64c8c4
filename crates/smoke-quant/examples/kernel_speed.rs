//! Measures the kernels: GB/s of packed weights for one token, beside the rate of a plain sum over the same memory, and
//! GFLOP/s for 64 tokens.
//!
//! `cargo run --release -p smoke-quant --example kernel_speed [-- ROUNDS [TOKENS [ENCODING]]]`
//!
//! Each figure is the best of ROUNDS rounds (default 7); rounds go over all encodings in turn, so that a machine busy with
//! something else for a while disturbs no single one.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use smoke_core::Encoding;
use smoke_quant::{Isa, PackedMatrix};

const COLUMNS: usize = 4096;
/// Far beyond any cache that a few cores have.
const STREAMED_BYTES: usize = 256 << 20;
/// Rows of the matrix for many tokens: what matters there is arithmetic.
const SHARED_ROWS: usize = 1024;
const ENCODINGS: [Encoding; 12] = [
    Encoding::F64,
    Encoding::F32,
    Encoding::F16,
    Encoding::BF16,
    Encoding::Q8_0,
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Q5_0,
    Encoding::Q5_1,
    Encoding::Q4_K,
    Encoding::Q5_K,
    Encoding::Q6_K,
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| arguments.get(i).map_or(default, |a| a.parse().expect("a number"));
    let (rounds, tokens) = (number(0, 7), number(1, 64));
    let wanted = |e: &Encoding| arguments.get(2).is_none_or(|name| e.to_string() == *name);
    let encodings: Vec<Encoding> = ENCODINGS.into_iter().filter(wanted).collect();

    // Bytes below 0x38 make small finite numbers of whatever they are read as, scales included.
    let bytes: Vec<u8> =
        (0..STREAMED_BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8 % 0x38).collect();
    let x: Vec<f32> = (0..COLUMNS * tokens).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
    println!("{:?}, {COLUMNS} columns, best of {rounds}", Isa::best());

    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
        let mut streamed = vec![0.0_f64; encodings.len()];
        let mut computed = vec![0.0_f64; encodings.len()];
        let mut memory = 0.0_f64;
        pool.install(|| {
            for _ in 0..rounds {
                memory = memory.max(bytes.len() as f64 / seconds(|| _ = black_box(plain_sum(&bytes))));
                for (i, &encoding) in encodings.iter().enumerate() {
                    let row_bytes = encoding.bytes_for(COLUMNS as u64).expect("whole blocks") as usize;
                    let rows = bytes.len() / row_bytes;
                    let used = &bytes[..rows * row_bytes];
                    let matrix = PackedMatrix::new(encoding, rows, COLUMNS, used).expect("the shape fits");
                    let mut y = vec![0.0; rows];
                    let time = seconds(|| matrix.multiply(&x[..COLUMNS], black_box(&mut y), rows));
                    streamed[i] = streamed[i].max(used.len() as f64 / time);

                    let used = &bytes[..SHARED_ROWS * row_bytes];
                    let matrix = PackedMatrix::new(encoding, SHARED_ROWS, COLUMNS, used).expect("the shape fits");
                    let mut y = vec![0.0; SHARED_ROWS * tokens];
                    let time = seconds(|| matrix.multiply(&x, black_box(&mut y), SHARED_ROWS));
                    computed[i] = computed[i].max((2 * SHARED_ROWS * COLUMNS * tokens) as f64 / time);
                }
            }
        });
        println!("\n{threads} thread(s); plain sum over memory: {:.1} GB/s", memory / 1e9);
        println!("encoding   1 token, GB/s   of memory   Gweights/s   {tokens} tokens, GFLOP/s");
        for (i, encoding) in encodings.iter().enumerate() {
            let per_weight = encoding.block_bytes() as f64 / encoding.block_elements() as f64;
            let (rate, flops) = (streamed[i] / 1e9, computed[i] / 1e9);
            let share = 100.0 * streamed[i] / memory;
            println!("{:8} {rate:15.1} {share:9.0} % {:12.1} {flops:20.1}", encoding.to_string(), rate / per_weight);
        }
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Reads everything once and does next to nothing with it.
fn plain_sum(bytes: &[u8]) -> u64 {
    let piece = |bytes: &[u8]| {
        let mut sums = [0_u64; 16];
        for line in bytes.as_chunks::<8>().0.as_chunks::<16>().0 {
            for (sum, word) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        sums.into_iter().fold(0_u64, u64::wrapping_add)
    };
    bytes.par_chunks(1 << 20).map(piece).reduce(|| 0, u64::wrapping_add)
}
