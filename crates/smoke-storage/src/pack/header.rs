//! The header of a packed file, and where its tensors go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;
use smoke_core::Encoding;

use crate::format::{ALIGNMENT_KEY, KeyPlaces, ggml_type, parse_gguf};
use crate::index::TensorInfo;

/// Tensors begin on multiples of this where the format allows it.
const PAGE: u64 = 4096;

/// A header, and each tensor with its place in the file.
pub(super) type LaidOut<'a> = (Vec<u8>, Vec<(&'a TensorInfo, u64)>);

/// Tensors one after another; the header is filled up with spaces to whole pages.
pub(super) fn safetensors<'a>(order: Vec<&'a TensorInfo>, texts: &BTreeMap<String, String>) -> LaidOut<'a> {
    let mut entries = serde_json::Map::new();
    if !texts.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(texts));
    }
    let (mut end, mut starts) = (0, Vec::with_capacity(order.len()));
    for tensor in &order {
        let start = end;
        end += tensor.extent.len;
        starts.push(start);
        let dtype = match tensor.encoding {
            Encoding::Bool => "BOOL".to_owned(),
            other => other.to_string(),
        };
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert(tensor.name.clone(), entry);
    }
    let json = serde_json::Value::Object(entries).to_string();
    let data_start = (8 + json.len() as u64).next_multiple_of(PAGE);
    let mut header = (data_start - 8).to_le_bytes().to_vec();
    header.extend(json.as_bytes());
    header.resize(data_start as usize, b' ');
    (header, order.into_iter().zip(starts.into_iter().map(|start| data_start + start)).collect())
}

/// The keys and values are copied byte by byte from the original, all but the alignment.
pub(super) fn gguf<'a>(order: Vec<&'a TensorInfo>, original: &Path) -> io::Result<LaidOut<'a>> {
    let file = File::open(original)?;
    let len = file.metadata()?.len();
    let KeyPlaces { count, all, alignment } = parse_gguf(BufReader::new(&file), len).map_err(io::Error::other)?.keys;
    let mut keys = vec![0; (all.end - all.start) as usize];
    file.read_exact_at(&mut keys, all.start)?;
    let others = count - u64::from(alignment.is_some());
    if let Some(alignment) = alignment {
        keys.drain((alignment.start - all.start) as usize..(alignment.end - all.start) as usize);
    }

    let mut header = [b"GGUF", &3_u32.to_le_bytes()[..]].concat();
    header.extend((order.len() as u64).to_le_bytes());
    header.extend((others + 1).to_le_bytes());
    header.extend(keys);
    push_text(&mut header, ALIGNMENT_KEY);
    header.extend(4_u32.to_le_bytes());
    header.extend((PAGE as u32).to_le_bytes());
    let (mut end, mut starts) = (0_u64, Vec::with_capacity(order.len()));
    for tensor in &order {
        let kind = ggml_type(tensor.encoding).ok_or(io::ErrorKind::Unsupported)?;
        let start = end.next_multiple_of(PAGE);
        end = start + tensor.extent.len;
        starts.push(start);
        push_text(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        header.extend(tensor.shape.iter().rev().flat_map(|n| n.to_le_bytes()));
        header.extend(kind.to_le_bytes());
        header.extend(start.to_le_bytes());
    }
    let data_start = (header.len() as u64).next_multiple_of(PAGE);
    header.resize(data_start as usize, 0);
    Ok((header, order.into_iter().zip(starts.into_iter().map(|start| data_start + start)).collect()))
}

fn push_text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}
