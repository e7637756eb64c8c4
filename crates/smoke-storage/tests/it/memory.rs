//! What a header claims is not allocated before it is compared with the file.

use std::io::Cursor;

use smoke_storage::format::{parse_gguf, parse_pytorch, parse_safetensors};

use crate::allocations::largest_in;
use crate::files::{Gguf, gguf_text};
use crate::pickles::{Pickle, Saved, Width, entries, legacy_head, saved, state_dict, zip};

/// Parses a file that claims a lot, and wants an error at the cost of about the file's own size.
fn check<T, E>(what: &str, file: &[u8], parse: impl FnOnce(&[u8]) -> Result<T, E>) {
    let (result, largest) = largest_in(|| parse(file).is_ok());
    assert!(!result, "{what}: it was believed");
    assert!(largest < 16 << 10, "{what}: {largest} bytes were allocated for a file of {}", file.len());
}

#[test]
fn absurd_lengths_of_safetensors() {
    for claim in [1 << 20, 99_999_999, 100_000_000, 100_000_001, 1 << 40, i64::MAX as u64, u64::MAX - 7, u64::MAX] {
        let file = [&u64::to_le_bytes(claim)[..], b"{}"].concat();
        check(&format!("a header of {claim} bytes"), &file, |file| parse_safetensors(file, file.len() as u64));
    }
}

#[test]
fn absurd_lengths_of_gguf() {
    let parse = |file: &[u8]| parse_gguf(file, file.len() as u64);
    let header =
        |tensors: u64, keys: u64| [b"GGUF\x03\0\0\0", &tensors.to_le_bytes()[..], &keys.to_le_bytes()].concat();
    for claim in [1 << 20, 15 << 20, 17 << 20, 1 << 40, i64::MAX as u64, u64::MAX - 7, u64::MAX] {
        check(&format!("{claim} tensors"), &header(claim, 0), parse);
        check(&format!("{claim} keys"), &header(0, claim), parse);
        let key = [&header(0, 1), &claim.to_le_bytes()[..], b"name"].concat();
        check(&format!("a key of {claim} bytes"), &key, parse);
        let text = Gguf::new(3, 32).key("k", 8, &claim.to_le_bytes()).header();
        check(&format!("a text of {claim} bytes"), &text, parse);
        for kind in 0..13_u32 {
            let array = [&kind.to_le_bytes()[..], &claim.to_le_bytes()].concat();
            let array = Gguf::new(3, 32).key("k", 9, &array).header();
            check(&format!("an array of {claim} values of type {kind}"), &array, parse);
        }
        let name = [&header(1, 0), &claim.to_le_bytes()[..], &[0; 20]].concat();
        check(&format!("a tensor's name of {claim} bytes"), &name, parse);
        let shape = Gguf::new(3, 32).describe("t", 0, &[claim, claim, claim, claim], 0).bytes();
        check(&format!("a tensor of {claim}^4 elements"), &shape, parse);
    }
    let rank = [&header(1, 0)[..], &gguf_text("t"), &u32::MAX.to_le_bytes(), &[0; 32]].concat();
    check("a tensor of four thousand million dimensions", &rank, parse);
    let nested = [9_u32.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()].concat().repeat(4000);
    check("arrays in arrays", &Gguf::new(3, 32).key("k", 9, &nested).header(), parse);
}

#[test]
fn absurd_lengths_of_pickles() {
    let parse = |file: &[u8]| parse_pytorch(Cursor::new(file), file.len() as u64);
    for claim in [1_u64 << 20, 63 << 20, 65 << 20, 1 << 31, 1 << 40, i64::MAX as u64, u64::MAX] {
        let (wide, narrow) = (claim.to_le_bytes(), (claim.min(u32::MAX.into()) as u32).to_le_bytes());
        // Integers, texts and bytes, a frame, and a place in the memo.
        for (opcode, len) in [
            (b'\x8b', &narrow[..]),
            (b'X', &narrow),
            (b'T', &narrow),
            (b'\x8d', &wide),
            (b'B', &narrow),
            (b'\x8e', &wide),
            (b'\x96', &wide),
            (b'\x95', &wide),
            (b'j', &narrow),
        ] {
            let pickle = Pickle::new().op(b"N").op(&[opcode]).op(len).op(b"0");
            let file = [legacy_head(true), pickle.stop()].concat();
            check(&format!("{claim} after opcode {opcode:#x}"), &file, parse);
        }
        let file = [legacy_head(true), Pickle::new().op(b"}Nr").op(&narrow).op(b"00").stop()].concat();
        check(&format!("entry {claim} of the memo"), &file, parse);
        let shape = vec![claim as i64; 4];
        let tensor =
            Saved { elements: claim as i64, strides: shape.clone(), shape, ..saved("w", "FloatStorage", "0", &[]) };
        check(&format!("a tensor of {claim}^4 elements"), &[legacy_head(true), state_dict(&[tensor])].concat(), parse);
    }
}

#[test]
fn absurd_lengths_of_archives() {
    // The end of an archive is read with the longest comment that there may be.
    const TAIL: usize = 80 << 10;
    let good = zip(&entries(&state_dict(&[saved("w", "ByteStorage", "0", &[4])]), &[("0", b"abcd")]), Width::Bits64);
    let end = good.len() - 22 - 20 - 56;
    for claim in [1_u64 << 20, 63 << 20, 1 << 40, i64::MAX as u64, u64::MAX] {
        // The number of entries, the directory's length, its place.
        for field in [32, 40, 48] {
            let mut file = good.clone();
            file[end + field..][..8].copy_from_slice(&claim.to_le_bytes());
            let (result, largest) = largest_in(|| parse_pytorch(Cursor::new(&file), file.len() as u64).is_ok());
            assert!(!result && largest < TAIL, "{claim} in field {field}: {largest} bytes were allocated");
        }
        let mut bomb = entries(&state_dict(&[saved("w", "ByteStorage", "0", &[4])]), &[("0", b"abcd")]);
        bomb[0].lens = [claim; 2];
        let file = zip(&bomb, Width::Bits64);
        let (result, largest) = largest_in(|| parse_pytorch(Cursor::new(&file), file.len() as u64).is_ok());
        assert!(!result && largest < TAIL, "an entry of {claim} bytes: {largest} bytes were allocated");
    }
}
