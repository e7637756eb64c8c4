//! The order of tensors in a file, and of rows in a tensor.

use std::cmp::Ordering;

use smoke_storage::TensorInfo;

use crate::conversion::Move;

/// How the rows of a tensor are put into another order.
///
/// Rotary embeddings turn the elements of a head in pairs. Transformers pairs element `i` of `d` with `i + d/2`, GGUF files of
/// the LLaMA family `2i` with `2i + 1`: the rows of the query and key projections, which make these elements, differ in
/// their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// Not at all.
    AsStored,
    /// From halves to neighbours, within heads of so many rows.
    ToNeighbours(u64),
    /// From neighbours to halves, within heads of so many rows.
    ToHalves(u64),
}

impl RowOrder {
    /// The bytes that must be there together: those of a head.
    pub(crate) fn group_bytes(self, tensor: &TensorInfo) -> u64 {
        match self {
            Self::AsStored => 1,
            Self::ToNeighbours(rows) | Self::ToHalves(rows) => rows * row_bytes(tensor),
        }
    }

    /// The rows of whole heads in their new order: `bytes` themselves, or a copy in `ordered`.
    pub(crate) fn put_in_order<'a>(self, tensor: &TensorInfo, bytes: &'a [u8], ordered: &'a mut Vec<u8>) -> &'a [u8] {
        let (head_rows, to_neighbours) = match self {
            Self::AsStored => return bytes,
            Self::ToNeighbours(rows) => (rows as usize, true),
            Self::ToHalves(rows) => (rows as usize, false),
        };
        let row_bytes = row_bytes(tensor) as usize;
        ordered.clear();
        for head in bytes.chunks(head_rows * row_bytes) {
            for row in 0..head_rows {
                let from = if to_neighbours {
                    row % 2 * (head_rows / 2) + row / 2
                } else {
                    row % (head_rows / 2) * 2 + row / (head_rows / 2)
                };
                ordered.extend(&head[from * row_bytes..(from + 1) * row_bytes]);
            }
        }
        ordered
    }
}

fn row_bytes(tensor: &TensorInfo) -> u64 {
    tensor.extent.len / tensor.shape.first().copied().unwrap_or(1).max(1)
}

/// Sorts tensors by name, with numbers by their value: about the order in which a pass uses them. Those of odd lengths come
/// last, so that all others begin on a multiple of 8.
pub(crate) fn in_natural_order(moves: &mut [Move]) {
    moves.sort_by(|a, b| {
        let key = |each: &Move| {
            let is_odd = !each.tensor.extent.len.is_multiple_of(8);
            let element_bytes = if is_odd { each.tensor.encoding.block_bytes() } else { 0 };
            (is_odd, std::cmp::Reverse(element_bytes))
        };
        key(a).cmp(&key(b)).then_with(|| compare_naturally(&a.tensor.name, &b.tensor.name))
    });
}

fn compare_naturally(a: &str, b: &str) -> Ordering {
    let number = |part: &str| part.parse::<u64>().ok();
    for (a, b) in a.split('.').zip(b.split('.')) {
        let ordering = match (number(a), number(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)),
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    a.cmp(b)
}

/// Embeddings come before the layers and the head after them, whatever they are called.
fn rank(part: &str) -> u8 {
    match part {
        "embed_tokens" | "token_embd" | "wte" => 0,
        "model" | "transformer" | "layers" | "blk" | "h" => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoke_core::Encoding;
    use smoke_storage::Extent;

    #[test]
    fn names_are_in_the_order_of_use() {
        let mut names = vec![
            "lm_head.weight",
            "model.layers.10.mlp.weight",
            "model.layers.2.mlp.weight",
            "model.norm.weight",
            "model.embed_tokens.weight",
        ];
        names.sort_by(|a, b| compare_naturally(a, b));
        assert_eq!(
            names,
            [
                "model.embed_tokens.weight",
                "model.layers.2.mlp.weight",
                "model.layers.10.mlp.weight",
                "model.norm.weight",
                "lm_head.weight"
            ]
        );
    }

    #[test]
    fn rows_of_heads_go_to_neighbours_and_back() {
        let extent = Extent { file: 0, offset: 0, len: 24 };
        let tensor = TensorInfo { name: String::new(), encoding: Encoding::U8, shape: vec![12, 2], extent };
        let bytes: Vec<u8> = (0..12).flat_map(|row| [row, 100 + row]).collect();
        let (mut there, mut back) = (Vec::new(), Vec::new());
        let neighbours = RowOrder::ToNeighbours(6).put_in_order(&tensor, &bytes, &mut there);
        let rows: Vec<u8> = neighbours.iter().step_by(2).copied().collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(RowOrder::ToHalves(6).put_in_order(&tensor, neighbours, &mut back), bytes);
        assert_eq!(RowOrder::ToHalves(6).group_bytes(&tensor), 12);
    }
}
