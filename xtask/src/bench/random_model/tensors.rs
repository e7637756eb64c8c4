//! The tensors of a random model, in the order of their use.

use std::io::Write;

use anyhow::Result;

use super::RandomModel;
use super::weights::{Codes, Encoding, UNIT};

/// A tensor of the model, in the order of use; `shape` begins with the outermost dimension.
#[derive(Debug)]
pub(super) struct Tensor {
    /// As GGUF files call it.
    pub(super) gguf: String,
    /// As Transformers calls it.
    pub(super) hf: String,
    pub(super) shape: Vec<u64>,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Matrix,
    Norm,
    Router,
    /// A matrix for each expert.
    Experts,
}

const ONE_F32: [u8; 4] = 1.0_f32.to_le_bytes();
const EMBEDDING: &str = "token_embd.weight";

impl RandomModel {
    /// Bytes of all weights.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors().iter().map(|tensor| self.tensor_bytes(tensor)).sum()
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let tensor = |gguf: String, hf: String, shape: &[u64]| {
            let kind = if shape.len() == 1 { Kind::Norm } else { Kind::Matrix };
            Tensor { gguf, hf, shape: shape.to_vec(), kind }
        };
        let (hidden, inner) = (self.hidden, self.intermediate);
        let keys = hidden / self.heads * self.kv_heads;
        let table = [self.vocabulary, hidden];
        let mut tensors = vec![tensor(EMBEDDING.into(), "model.embed_tokens.weight".into(), &table)];
        for layer in 0..self.layers {
            let parts: [(&str, &str, &[u64]); 6] = [
                ("attn_norm", "input_layernorm", &[hidden]),
                ("attn_q", "self_attn.q_proj", &[hidden, hidden]),
                ("attn_k", "self_attn.k_proj", &[keys, hidden]),
                ("attn_v", "self_attn.v_proj", &[keys, hidden]),
                ("attn_output", "self_attn.o_proj", &[hidden, hidden]),
                ("ffn_norm", "post_attention_layernorm", &[hidden]),
            ];
            let head = hidden / self.heads;
            let head_norms: [(&str, &str, &[u64]); 2] =
                [("attn_q_norm", "self_attn.q_norm", &[head]), ("attn_k_norm", "self_attn.k_norm", &[head])];
            let matrices: [(&str, [u64; 2]); 3] =
                [("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])];
            let of_layer = |gguf: &str, hf: &str, shape: &[u64]| {
                tensor(format!("blk.{layer}.{gguf}.weight"), format!("model.layers.{layer}.{hf}.weight"), shape)
            };
            tensors.extend(parts.map(|(gguf, hf, shape)| of_layer(gguf, hf, shape)));
            if self.experts == 0 {
                tensors.extend(
                    matrices.map(|(part, shape)| of_layer(&format!("ffn_{part}"), &format!("mlp.{part}_proj"), &shape)),
                );
                continue;
            }
            tensors.extend(head_norms.map(|(gguf, hf, shape)| of_layer(gguf, hf, shape)));
            let router = of_layer("ffn_gate_inp", "mlp.gate", &[self.experts, hidden]);
            tensors.push(Tensor { kind: Kind::Router, ..router });
            if self.safetensors {
                // Expert after expert. The name that weights follow from is that of its part of the GGUF tensor.
                for expert in 0..self.experts {
                    tensors.extend(matrices.map(|(part, shape)| Tensor {
                        gguf: format!("blk.{layer}.ffn_{part}_exps.weight.{expert}"),
                        ..of_layer("", &format!("mlp.experts.{expert}.{part}_proj"), &shape)
                    }));
                }
            } else {
                tensors.extend(matrices.map(|(part, [rows, columns])| Tensor {
                    kind: Kind::Experts,
                    ..of_layer(&format!("ffn_{part}_exps"), "", &[self.experts, rows, columns])
                }));
            }
        }
        tensors.push(tensor("output_norm.weight".into(), "model.norm.weight".into(), &[hidden]));
        tensors.push(tensor("output.weight".into(), "lm_head.weight".into(), &table));
        tensors
    }

    /// Norms and routers are always `f32`: GGUF files have them so.
    pub(super) fn encoding_of(&self, tensor: &Tensor) -> Encoding {
        let is_small = matches!(tensor.kind, Kind::Norm | Kind::Router);
        if is_small && !self.safetensors { Encoding::F32 } else { self.encoding }
    }

    pub(super) fn tensor_bytes(&self, tensor: &Tensor) -> u64 {
        self.encoding_of(tensor).bytes(tensor.shape.iter().product())
    }

    pub(super) fn write_tensor(&self, tensor: &Tensor, out: &mut impl Write) -> Result<u64> {
        let elements: u64 = tensor.shape.iter().product();
        let encoding = self.encoding_of(tensor);
        if tensor.kind == Kind::Norm {
            let one: &[u8] = match encoding {
                Encoding::F16 => &[0, 0x3C],
                Encoding::Bf16 => &[0x80, 0x3F],
                _ => &ONE_F32,
            };
            out.write_all(&one.repeat(elements as usize))?;
        } else {
            let experts = if tensor.kind == Kind::Experts { self.experts } else { 1 };
            let is_coarse = tensor.kind == Kind::Router || self.experts > 0 && tensor.gguf == EMBEDDING;
            let unit = if is_coarse { 1.0 / 64.0 } else { UNIT };
            let mut block = Vec::with_capacity(128);
            for expert in 0..experts {
                let mut codes = match tensor.kind {
                    Kind::Experts => Codes::of(&format!("{}.{expert}", tensor.gguf)),
                    _ => Codes::of(&tensor.gguf),
                };
                for _ in 0..elements / experts / 32 {
                    block.clear();
                    encoding.encode(&codes.next_block(), unit, &mut block);
                    out.write_all(&block)?;
                }
            }
        }
        Ok(self.tensor_bytes(tensor))
    }
}
