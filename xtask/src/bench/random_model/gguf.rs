//! The model as a GGUF file, with a tokenizer whose tokens mean nothing.

use std::io::Write;
use std::path::Path;

use anyhow::Result;

use super::{ALIGNMENT, RandomModel, finish, output};

impl RandomModel {
    /// Writes the file.
    pub(super) fn write_gguf(&self, path: &Path) -> Result<()> {
        let mut values = Vec::new();
        let mut count = 0_u64;
        let mut value = |key: &str, kind: u32, bytes: &[u8]| {
            text(&mut values, key.as_bytes());
            values.extend(kind.to_le_bytes());
            values.extend(bytes);
            count += 1;
        };
        let (u32s, f32s, texts, arrays) = (4, 6, 8, 9);
        let counted = |bytes: &str| {
            let mut out = Vec::new();
            text(&mut out, bytes.as_bytes());
            out
        };
        let architecture = if self.experts > 0 { "qwen3moe" } else { "llama" };
        let head = self.hidden / self.heads;
        value("general.architecture", texts, &counted(architecture));
        value("general.alignment", u32s, &(ALIGNMENT as u32).to_le_bytes());
        let sizes = [
            ("block_count", self.layers),
            ("context_length", 2048),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.intermediate),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("rope.dimension_count", head),
            ("vocab_size", self.vocabulary),
        ];
        let of_experts = [
            ("attention.key_length", head),
            ("attention.value_length", head),
            ("expert_count", self.experts),
            ("expert_used_count", self.experts_used),
            ("expert_feed_forward_length", self.intermediate),
        ];
        let of_experts = of_experts.into_iter().filter(|_| self.experts > 0);
        for (key, number) in sizes.into_iter().chain(of_experts) {
            value(&format!("{architecture}.{key}"), u32s, &(number as u32).to_le_bytes());
        }
        value(&format!("{architecture}.attention.layer_norm_rms_epsilon"), f32s, &1e-5_f32.to_le_bytes());
        value(&format!("{architecture}.rope.freq_base"), f32s, &self.rope_theta().to_le_bytes());
        value("tokenizer.ggml.model", texts, &counted("llama"));
        let array = |kind: u32, elements: Vec<Vec<u8>>| {
            [&kind.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes(), &elements.concat()].concat()
        };
        let special = ["<unk>", "<s>", "</s>"].map(String::from).into_iter();
        let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
        let words = (0..self.vocabulary - 259).map(|word| format!("t{word}"));
        let tokens = special.chain(bytes).chain(words).map(|token| counted(&token)).collect();
        // Unknown, control, byte and normal tokens, as llama.cpp numbers them.
        let kinds = (0..self.vocabulary).map(|id| {
            if id == 0 {
                2_i32
            } else if id < 3 {
                3
            } else if id < 259 {
                6
            } else {
                1
            }
        });
        value("tokenizer.ggml.tokens", arrays, &array(texts, tokens));
        value(
            "tokenizer.ggml.scores",
            arrays,
            &array(f32s, vec![0.0_f32.to_le_bytes().to_vec(); self.vocabulary as usize]),
        );
        value("tokenizer.ggml.token_type", arrays, &array(5, kinds.map(|kind| kind.to_le_bytes().to_vec()).collect()));
        value("tokenizer.ggml.bos_token_id", u32s, &1_u32.to_le_bytes());
        value("tokenizer.ggml.eos_token_id", u32s, &2_u32.to_le_bytes());

        let tensors = self.tensors();
        let mut header = b"GGUF".to_vec();
        header.extend(3_u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend(count.to_le_bytes());
        header.extend(values);
        let mut offset = 0_u64;
        for tensor in &tensors {
            text(&mut header, tensor.gguf.as_bytes());
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|n| header.extend(n.to_le_bytes()));
            header.extend(self.encoding_of(tensor).gguf_type().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = (offset + self.tensor_bytes(tensor)).next_multiple_of(ALIGNMENT);
        }
        let mut out = output(path)?;
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        out.write_all(&header)?;
        for tensor in &tensors {
            let bytes = self.write_tensor(tensor, &mut out)?;
            out.write_all(&vec![0; (bytes.next_multiple_of(ALIGNMENT) - bytes) as usize])?;
        }
        finish(out)
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}
