use half::slice::HalfFloatSliceExt;
use smoke_core::Encoding;

use crate::PackedError;
use crate::error::bytes_for;

/// Appends `values` to `out`, encoded: F32, F16, BF16 (nearest value), Q8_0, I8_1, Q4_0 and Q4_1 (nearest codes under the scale
/// that the block's extremes give).
///
/// For conversions, keys and values, and test models: it is not threaded and does not search for better scales. Values that are not
/// finite give a block that is not finite or zero; they never panic.
///
/// # Errors
/// [`PackedError`] if there is no encoder for `encoding`, or the values are no whole number of blocks. Nothing is appended
/// then.
pub fn encode(encoding: Encoding, values: &[f32], out: &mut Vec<u8>) -> Result<(), PackedError> {
    let append: fn(&[f32], &mut Vec<u8>) = match encoding {
        Encoding::F32 => f32,
        Encoding::F16 => |values, out| values.chunks(64).for_each(|values| f16(values, out)),
        Encoding::BF16 => |values, out| out.extend(values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())),
        Encoding::Q8_0 => |values, out| values.as_chunks().0.iter().for_each(|block| q8_0(block, out)),
        Encoding::I8_1 => |values, out| values.as_chunks().0.iter().for_each(|block| i8_1(block, out)),
        Encoding::Q4_0 => |values, out| values.as_chunks().0.iter().for_each(|block| q4_0(block, out)),
        Encoding::Q4_1 => |values, out| values.as_chunks().0.iter().for_each(|block| q4_1(block, out)),
        _ => return Err(PackedError::NotEncodable { encoding }),
    };
    out.reserve(bytes_for(encoding, values.len())?);
    append(values, out);
    Ok(())
}

/// What is little-endian already is copied.
fn f32(values: &[f32], out: &mut Vec<u8>) {
    if cfg!(target_endian = "little") {
        out.extend_from_slice(bytemuck::cast_slice(values));
    } else {
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
}

/// Many at once, for which the processor has instructions.
fn f16(values: &[f32], out: &mut Vec<u8>) {
    let mut halves = [half::f16::ZERO; 64];
    let halves = &mut halves[..values.len()];
    halves.convert_from_f32_slice(values);
    out.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
}

fn q8_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let scale = block.iter().fold(0.0_f32, |most, v| most.max(v.abs())) / 127.0;
    let inverse = inverse(scale);
    out.extend(half::f16::from_f32(scale).to_le_bytes());
    out.extend(block.map(|v| (v * inverse).round() as i8 as u8));
}

/// The code of 0 is 8, so one side reaches further than the other: the value furthest from zero gets code 0, whatever its
/// sign.
fn q4_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let furthest = block.iter().fold(0.0_f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let scale = furthest / -8.0;
    let inverse = inverse(scale);
    out.extend(half::f16::from_f32(scale).to_le_bytes());
    extend_nibbles(block.map(|v| v * inverse + 8.0), out);
}

fn q4_1(block: &[f32; 32], out: &mut Vec<u8>) {
    let (least, most) = extremes(block);
    let scale = (most - least) / 15.0;
    let inverse = inverse(scale);
    out.extend(half::f16::from_f32(scale).to_le_bytes());
    out.extend(half::f16::from_f32(least).to_le_bytes());
    extend_nibbles(block.map(|v| (v - least) * inverse), out);
}

fn i8_1(block: &[f32; 32], out: &mut Vec<u8>) {
    let (least, most) = extremes(block);
    let scale = (most - least) / 255.0;
    let inverse = inverse(scale);
    out.extend(half::f16::from_f32(scale).to_le_bytes());
    out.extend(half::f16::from_f32(least).to_le_bytes());
    out.extend(block.map(|v| ((v - least) * inverse).round() as u8));
}

fn extremes(block: &[f32; 32]) -> (f32, f32) {
    block.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), &v| (least.min(v), most.max(v)))
}

fn extend_nibbles(codes: [f32; 32], out: &mut Vec<u8>) {
    let nibble = |code: f32| ((code + 0.5) as u8).min(15);
    out.extend((0..16).map(|i| nibble(codes[i]) | nibble(codes[i + 16]) << 4));
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}
