//! Measures the kernels beside the rate at which this machine's memory can be read at all.
//!
//! `cargo run --release -p smoke-quant --example kernel_speed -- [--json] [--rounds N] [--threads N] [--isa NAME]
//! [--encodings NAME,NAME] [--kibibytes N]`
//!
//! For one token the figure is GB/s of packed weights and its share of the rate of a plain sum over the same memory, by
//! the same number of threads, right before: the median of the rounds. For 2 to 8 tokens it is the time in units of that of one token, for 64
//! it is 10⁹ multiplications and additions per second. Other figures are the best of the rounds; rounds go over all encodings
//! in turn, so that a machine busy with something else for a while disturbs no single one.
//!
//! With `--kibibytes` few tokens are multiplied by so small a matrix, again and again. Where it stays in a cache, its share of
//! the rate of memory tells how much time the instructions leave: below 1.3 they hold memory up.

use std::hint::black_box;
use std::time::Instant;

use smoke_core::Encoding;
use smoke_quant::{Isa, PackedMatrix};

const COLUMNS: usize = 4096;
/// Far beyond any cache that a few cores have.
const STREAMED_BYTES: usize = 256 << 20;
/// Smaller matrices are multiplied again and again until so many bytes were read.
const LEAST_BYTES: usize = 64 << 20;
/// Rows of the matrix for many tokens: what matters there is arithmetic.
const SHARED_ROWS: usize = 2048;
const SHARED_TOKENS: usize = 64;
/// How far ahead the plain sum asks for memory, in bytes; the fastest counts. With 0 it leaves that to the processor.
const AHEAD: [usize; 3] = [0, 1 << 10, 32 << 10];
/// Bytes of a page, where pages are smallest.
const PAGE: usize = 4096;
/// Tokens that stream the whole matrix.
const FEW: [usize; 4] = [1, 2, 4, 8];
const ENCODINGS: [Encoding; 13] = [
    Encoding::F64,
    Encoding::F32,
    Encoding::F16,
    Encoding::BF16,
    Encoding::Q8_0,
    Encoding::I8_1,
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Q5_0,
    Encoding::Q5_1,
    Encoding::Q4_K,
    Encoding::Q5_K,
    Encoding::Q6_K,
];

struct Options {
    json: bool,
    rounds: usize,
    threads: usize,
    isa: Isa,
    encodings: Vec<Encoding>,
    /// Of the matrix for few tokens.
    bytes: usize,
}

impl Options {
    fn rows(&self, encoding: Encoding) -> usize {
        self.bytes / row_bytes(encoding)
    }
}

/// The best of an encoding, in seconds.
struct Best {
    few: [f64; FEW.len()],
    shared: f64,
    /// What a plain sum took of the time of one token, in each round.
    shares: Vec<f64>,
}

fn main() {
    let options = options();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().expect("threads can be started");
    let (memory, best) = pool.install(|| measure(&options));
    if options.json { print_json(&options, memory, &best) } else { print_table(&options, memory, &best) }
}

fn options() -> Options {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let encodings = ENCODINGS.to_vec();
    let mut options = Options { json: false, rounds: 7, threads, isa: Isa::best(), encodings, bytes: STREAMED_BYTES };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} wants a value"));
        match argument.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
            "--kibibytes" => {
                let kibibytes: usize = value().parse().expect("a number of KiB");
                options.bytes = (kibibytes << 10).min(STREAMED_BYTES);
            }
            "--threads" => options.threads = value().parse().expect("a number of threads"),
            "--isa" => {
                let name = value();
                let isa = Isa::available().iter().find(|isa| format!("{isa:?}") == name);
                options.isa = *isa.unwrap_or_else(|| panic!("{name} is none of {:?}", Isa::available()));
            }
            "--encodings" => {
                let names = value();
                options.encodings.retain(|e| names.split(',').any(|name| name == e.to_string()));
            }
            other => panic!("{other} is no option; see the head of this example"),
        }
    }
    options
}

/// The seconds that a plain sum over [`STREAMED_BYTES`] takes, and those of each encoding.
fn measure(options: &Options) -> (f64, Vec<Best>) {
    // Bytes from 0x20 to 0x37 make small numbers of whatever they are read as, scales included, and no subnormal ones, of
    // which one in a register makes some processors ten times slower.
    let bytes: Vec<u8> =
        (0..STREAMED_BYTES as u32).map(|i| 0x20 + (i.wrapping_mul(2_654_435_761) >> 16) as u8 % 0x18).collect();
    let x: Vec<f32> = (0..COLUMNS * SHARED_TOKENS).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
    let mut y = vec![0.0; STREAMED_BYTES / 1024 * FEW[FEW.len() - 1]];
    let mut memory = f64::INFINITY;
    let mut best: Vec<Best> = options
        .encodings
        .iter()
        .map(|_| Best { few: [f64::INFINITY; FEW.len()], shared: f64::INFINITY, shares: Vec::new() })
        .collect();
    for _ in 0..options.rounds {
        for (&encoding, best) in options.encodings.iter().zip(&mut best) {
            let sum = |ahead| seconds(|| _ = black_box(plain_sum(&bytes, options.threads, ahead)));
            let sums = AHEAD.map(sum).into_iter().fold(f64::INFINITY, f64::min);
            memory = memory.min(sums);
            let row_bytes = row_bytes(encoding);
            let mut time = |rows: usize, tokens: usize| {
                let matrix = PackedMatrix::new(encoding, rows, COLUMNS, &bytes[..rows * row_bytes]);
                let matrix = matrix.expect("the shape fits");
                let (x, y) = (&x[..tokens * COLUMNS], &mut y[..tokens * rows]);
                seconds(|| matrix.multiply_with(options.isa, x, black_box(y), rows))
            };
            let rows = options.rows(encoding);
            let times = LEAST_BYTES.div_ceil(options.bytes);
            for (tokens, few) in FEW.into_iter().zip(&mut best.few) {
                let time = (0..times).map(|_| time(rows, tokens)).sum::<f64>() / times as f64;
                *few = few.min(time);
                if tokens == 1 {
                    best.shares.push(sums / STREAMED_BYTES as f64 * (rows * row_bytes) as f64 / time);
                }
            }
            best.shared = best.shared.min(time(SHARED_ROWS, SHARED_TOKENS));
        }
    }
    (memory, best)
}

fn row_bytes(encoding: Encoding) -> usize {
    encoding.bytes_for(COLUMNS as u64).expect("whole blocks") as usize
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Rates of an encoding with `rows` rows for few tokens: GB/s and share of memory's rate for one token, times of few tokens, GMAC/s of many.
fn rates(encoding: Encoding, rows: usize, best: &Best) -> (f64, f64, [f64; FEW.len()], f64) {
    let used = (rows * row_bytes(encoding)) as f64;
    let multiplications = (SHARED_ROWS * COLUMNS * SHARED_TOKENS) as f64 / best.shared / 1e9;
    let mut shares = best.shares.clone();
    shares.sort_by(f64::total_cmp);
    (used / best.few[0] / 1e9, shares[shares.len() / 2], best.few.map(|few| few / best.few[0]), multiplications)
}

fn print_table(options: &Options, memory: f64, best: &[Best]) {
    let memory = STREAMED_BYTES as f64 / memory / 1e9;
    let Options { isa, threads, rounds, .. } = options;
    println!("{isa:?}, {threads} threads, {COLUMNS} columns, best of {rounds}; memory reads at {memory:.1} GB/s\n");
    println!("encoding   1 token, GB/s   of memory   2, 4, 8 tokens: times 1 token   64 tokens, GMAC/s");
    for (&encoding, best) in options.encodings.iter().zip(best) {
        let (rate, share, [_, two, four, eight], many) = rates(encoding, options.rows(encoding), best);
        let name = encoding.to_string();
        let few = format!("{two:.2}  {four:.2}  {eight:.2}");
        println!("{name:8} {rate:15.1} {:9.0} % {few:>31} {many:19.1}", 100.0 * share);
    }
}

fn print_json(options: &Options, memory: f64, best: &[Best]) {
    let memory = STREAMED_BYTES as f64 / memory / 1e9;
    let encodings = options.encodings.iter().zip(best).map(|(&encoding, best)| {
        let (rate, share, few, many) = rates(encoding, options.rows(encoding), best);
        serde_json::json!({
            "encoding": encoding.to_string(),
            "one_token_gigabytes_per_second": rate,
            "share_of_memory": share,
            "tokens": FEW,
            "times_one_token": few,
            "many_tokens": SHARED_TOKENS,
            "many_tokens_gigamacs_per_second": many,
        })
    });
    let report = serde_json::json!({
        "isa": format!("{:?}", options.isa),
        "threads": options.threads,
        "columns": COLUMNS,
        "rounds": options.rounds,
        "memory_gigabytes_per_second": memory,
        "encodings": encodings.collect::<Vec<_>>(),
    });
    println!("{report:#}");
}

/// Reads everything once and does next to nothing with it, on `threads` threads with a piece of their own each.
fn plain_sum(bytes: &[u8], threads: usize, ahead: usize) -> u64 {
    let piece = bytes.len().div_ceil(threads).next_multiple_of(4096);
    std::thread::scope(|scope| {
        let sums: Vec<_> = bytes.chunks(piece).map(|piece| scope.spawn(move || sum_lines(piece, ahead))).collect();
        sums.into_iter().map(|sum| sum.join().expect("sums do not panic")).fold(0, u64::wrapping_add)
    })
}

/// A sum of words in eight lanes, which the compiler makes vectors of. Memory is asked for so many bytes ahead, as the
/// kernels do it: lines into the second-level cache, which is not done where the address of their page is not at hand, and
/// for that once a page a line of the next one into the first.
fn sum_lines(bytes: &[u8], ahead: usize) -> u64 {
    let mut sums = [[0_u64; 8]; 4];
    for page in bytes.chunks(PAGE) {
        prefetch::<true>(page.as_ptr().wrapping_byte_add(ahead + PAGE));
        for lines in page.as_chunks::<8>().0.as_chunks::<8>().0.as_chunks::<4>().0 {
            for (sums, line) in sums.iter_mut().zip(lines) {
                if ahead == 0 {
                    prefetch::<true>(line.as_ptr());
                } else {
                    prefetch::<false>(line.as_ptr().wrapping_byte_add(ahead));
                }
                for (sum, word) in sums.iter_mut().zip(line) {
                    *sum = sum.wrapping_add(u64::from_le_bytes(*word));
                }
            }
        }
    }
    sums.into_iter().flatten().fold(0_u64, u64::wrapping_add)
}

/// Asks for a line of memory where the target has an instruction for that: in the first-level cache or the second.
fn prefetch<const FIRST_LEVEL: bool>(line: *const impl Sized) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see, and any address will do.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if FIRST_LEVEL { _mm_prefetch::<_MM_HINT_T0>(line.cast()) } else { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
