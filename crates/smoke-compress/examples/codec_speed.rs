//! What each codec makes of a checkpoint's bytes: `cargo run --release -p smoke-compress --example codec_speed -- MODEL [bf16]`.
//!
//! With `bf16`, weights in `f32` are rounded to it first.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use half::bf16;
use smoke_compress::codec::{self, CODEC_NAMES};
use smoke_compress::{Codec, Pass, Sample};
use smoke_core::Encoding;
use smoke_storage::{Checkpoint, ReaderKind, WeightSource};

/// Compressed by itself, as in the tier.
const PIECE: usize = 1 << 20;

/// Enough of a large model.
const MOST: usize = 256 << 20;

/// Disks to compare with, in bytes per second.
const DISKS: [f64; 3] = [1.0e9, 2.0e9, 2.8e9];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("which model?")?;
    let weights = weights(Path::new(&model), arguments.next().as_deref() == Some("bf16"))?;
    println!("{model}: {:.1} MB\n", weights.len() as f64 / 1e6);
    println!("| codec | ratio | compress GB/s | decode GB/s | gain at 1.0, 2.0, 2.8 GB/s |\n|---|---:|---:|---:|---|");
    for codec in CODEC_NAMES.iter().filter_map(|name| codec::by_name(name)) {
        let (ratio, compress, decode) = measure(&*codec, &weights)?;
        let sample = Sample { ratio, compress_bytes_per_second: compress, decode_bytes_per_second: decode };
        let gains = DISKS.map(|disk| gain(weights.len() as u64, disk, &sample));
        let name = codec.name();
        println!("| {name} | {ratio:.3} | {:.2} | {:.2} | {} |", compress / 1e9, decode / 1e9, gains.join(", "));
    }
    Ok(())
}

/// How much faster a model of so many bytes would be in half its size, where two cores compute without effort.
fn gain(bytes: u64, disk_bytes_per_second: f64, sample: &Sample) -> String {
    let pass = Pass {
        streamed_bytes: bytes / 2,
        room_bytes: bytes / 2,
        disk_bytes_per_second,
        compute_seconds: 0.0,
        readers: 2,
        cores: 2,
    };
    pass.offer(sample)
        .map_or_else(|| "none".to_owned(), |offer| format!("{:.2}", offer.seconds_without / offer.seconds_with))
}

/// Ratio, and bytes per second of compressing and of decoding on one thread, the best of three rounds.
fn measure(codec: &dyn Codec, weights: &[u8]) -> Result<(f64, f64, f64), Box<dyn Error>> {
    let start = Instant::now();
    let pieces: Vec<Vec<u8>> = weights.chunks(PIECE).map(|piece| codec.compress(piece)).collect();
    let compress = weights.len() as f64 / start.elapsed().as_secs_f64();
    let mut raw = vec![1; PIECE];
    let mut decode = 0.0_f64;
    for _ in 0..3 {
        let mut seconds = 0.0;
        for (piece, expected) in pieces.iter().zip(weights.chunks(PIECE)) {
            let start = Instant::now();
            codec.decompress(piece, &mut raw[..expected.len()])?;
            seconds += start.elapsed().as_secs_f64();
            assert!(raw.starts_with(expected), "{} is not lossless", codec.name());
        }
        decode = decode.max(weights.len() as f64 / seconds);
    }
    let compressed: usize = pieces.iter().map(Vec::len).sum();
    Ok((compressed as f64 / weights.len() as f64, compress, decode))
}

fn weights(model: &Path, is_rounded: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let source = Checkpoint::open_with(model, ReaderKind::Pread)?;
    let mut weights = Vec::new();
    for tensor in source.index().iter() {
        let mut bytes = vec![0; usize::try_from(tensor.extent.len)?];
        source.read_at(tensor.extent, &mut bytes)?;
        match tensor.encoding {
            Encoding::F32 if is_rounded => {
                let (values, _) = bytes.as_chunks::<4>();
                weights
                    .extend(values.iter().flat_map(|&value| bf16::from_f32(f32::from_le_bytes(value)).to_le_bytes()));
            }
            _ => weights.append(&mut bytes),
        }
        if weights.len() >= MOST {
            break;
        }
    }
    weights.truncate(MOST);
    Ok(weights)
}
