//! A LLaMA, or a Qwen3-MoE, with random weights: the shape and the bytes of a real model, for measurements only.
//!
//! Deterministic: every weight is a whole number of 4096ths between -128 and 127 that follows from its tensor's name
//! and its place (of 64ths in routers, and in the embeddings of models with experts, so that each token has experts of
//! its own: layers add to a hidden state what tokens of one context have in common), so that the encodings that can hold it (`q8_0`, `f16`, `bf16`, `f32`) hold the same model.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

/// Which model.
#[derive(Debug, Clone, Args)]
pub(crate) struct RandomModel {
    /// Where it goes: a file that ends in `.gguf`, or a directory for `config.json` and `model.safetensors`. Unless
    /// given, a name that tells the shape, in models/.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// How weights are stored.
    #[arg(long, default_value = "q8-0")]
    pub(crate) encoding: Encoding,
    /// The number of layers.
    #[arg(long, default_value_t = 32)]
    pub(crate) layers: u64,
    /// Features of a token.
    #[arg(long, default_value_t = 2560)]
    pub(crate) hidden: u64,
    /// Features inside the MLP.
    #[arg(long, default_value_t = 6912)]
    pub(crate) intermediate: u64,
    /// Attention heads.
    #[arg(long, default_value_t = 32)]
    pub(crate) heads: u64,
    /// Heads of keys and values.
    #[arg(long, default_value_t = 32)]
    pub(crate) kv_heads: u64,
    /// Tokens in the vocabulary, at least 259.
    #[arg(long, default_value_t = 32_000)]
    pub(crate) vocabulary: u64,
    /// Experts of a layer; with any, the model is a Qwen3-MoE and `--intermediate` is the size of an expert.
    #[arg(long, default_value_t = 0)]
    pub(crate) experts: u64,
    /// Experts of a token.
    #[arg(long, default_value_t = 4)]
    pub(crate) experts_used: u64,
    /// Write safetensors instead of GGUF.
    #[arg(long)]
    pub(crate) safetensors: bool,
}

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    F32,
    F16,
    Bf16,
    #[value(name = "q8-0")]
    Q8_0,
    #[value(name = "q4-0")]
    Q4_0,
}

/// A tensor of the model, in the order of use; `shape` begins with the outermost dimension.
#[derive(Debug)]
struct Tensor {
    /// As GGUF files call it.
    gguf: String,
    /// As Transformers calls it.
    hf: String,
    shape: Vec<u64>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Matrix,
    Norm,
    Router,
    /// A matrix for each expert.
    Experts,
}

const ONE_F32: [u8; 4] = 1.0_f32.to_le_bytes();
const ALIGNMENT: u64 = 4096;
const EMBEDDING: &str = "token_embd.weight";
/// What a code stands for.
const UNIT: f32 = 1.0 / 4096.0;

/// Writes the model unless it is there, and says where it is. A file that was cut short is not taken for a model: the
/// last step is a rename.
pub(crate) fn make(model: &RandomModel) -> Result<PathBuf> {
    ensure!(model.vocabulary >= 259, "a vocabulary holds 256 bytes and three more tokens at least");
    ensure!(
        model.hidden.is_multiple_of(model.heads * 2) && model.hidden.is_multiple_of(32),
        "{} heads do not share {} features",
        model.heads,
        model.hidden
    );
    let path = model.out.clone().unwrap_or_else(|| crate::root().join("models").join(model.name()));
    if path.exists() {
        return Ok(path);
    }
    let directory = path.parent().context("the path has no parent")?;
    fs::create_dir_all(directory)?;
    let scratch = tempfile::Builder::new().prefix(".random-").tempdir_in(directory)?;
    let unfinished = scratch.path().join("model");
    eprintln!("writing {}: {:.2} GB", path.display(), model.bytes() as f64 / 1e9);
    if model.safetensors {
        fs::create_dir(&unfinished)?;
        fs::write(unfinished.join("config.json"), format!("{:#}\n", model.config_json()))?;
        model.write_safetensors(&unfinished.join("model.safetensors"))?;
    } else {
        model.write_gguf(&unfinished)?;
    }
    fs::rename(&unfinished, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

impl RandomModel {
    /// Bytes of all weights.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors().iter().map(|tensor| self.tensor_bytes(tensor)).sum()
    }

    /// A Qwen3-MoE of 4 GB in Q8_0.
    pub(crate) fn mixture_of_experts() -> Self {
        Self {
            out: None,
            encoding: Encoding::Q8_0,
            layers: 24,
            hidden: 1024,
            intermediate: 768,
            heads: 16,
            kv_heads: 4,
            vocabulary: 32_000,
            experts: 64,
            experts_used: 4,
            safetensors: false,
        }
    }

    fn name(&self) -> String {
        let encoding = format!("{:?}", self.encoding).to_lowercase();
        let suffix = if self.safetensors { "" } else { ".gguf" };
        let experts = if self.experts > 0 { format!("x{}", self.experts) } else { String::new() };
        format!("random-{}x{}{experts}-{encoding}{suffix}", self.layers, self.hidden)
    }

    fn tensors(&self) -> Vec<Tensor> {
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
    fn encoding_of(&self, tensor: &Tensor) -> Encoding {
        let is_small = matches!(tensor.kind, Kind::Norm | Kind::Router);
        if is_small && !self.safetensors { Encoding::F32 } else { self.encoding }
    }

    fn tensor_bytes(&self, tensor: &Tensor) -> u64 {
        self.encoding_of(tensor).bytes(tensor.shape.iter().product())
    }

    fn config_json(&self) -> Value {
        let is_moe = self.experts > 0;
        let mut config = json!({
            "architectures": [if is_moe { "Qwen3MoeForCausalLM" } else { "LlamaForCausalLM" }],
            "model_type": if is_moe { "qwen3_moe" } else { "llama" },
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta(),
            "tie_word_embeddings": false,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": match self.encoding { Encoding::F32 => "float32", Encoding::F16 => "float16", _ => "bfloat16" },
        });
        if let (true, Value::Object(config)) = (is_moe, &mut config) {
            config.insert("num_experts".to_owned(), self.experts.into());
            config.insert("num_experts_per_tok".to_owned(), self.experts_used.into());
            config.insert("moe_intermediate_size".to_owned(), self.intermediate.into());
            config.insert("norm_topk_prob".to_owned(), true.into());
        }
        config
    }

    fn rope_theta(&self) -> f32 {
        if self.experts > 0 { 1e6 } else { 1e4 }
    }

    fn write_safetensors(&self, path: &Path) -> Result<()> {
        let dtype = match self.encoding {
            Encoding::F32 => "F32",
            Encoding::F16 => "F16",
            Encoding::Bf16 => "BF16",
            Encoding::Q8_0 | Encoding::Q4_0 => bail!("safetensors files hold no {:?}", self.encoding),
        };
        let (mut header, mut end) = (Map::new(), 0);
        for tensor in self.tensors() {
            let start = end;
            end += self.tensor_bytes(&tensor);
            header.insert(tensor.hf, json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] }));
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize((header.len() + 8).next_multiple_of(ALIGNMENT as usize) - 8, b' ');
        let mut out = output(path)?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in self.tensors() {
            self.write_tensor(&tensor, &mut out)?;
        }
        finish(out)
    }

    fn write_gguf(&self, path: &Path) -> Result<()> {
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

    fn write_tensor(&self, tensor: &Tensor, out: &mut impl Write) -> Result<u64> {
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

impl Encoding {
    fn bytes(self, elements: u64) -> u64 {
        match self {
            Self::F32 => elements * 4,
            Self::F16 | Self::Bf16 => elements * 2,
            Self::Q8_0 => elements / 32 * 34,
            Self::Q4_0 => elements / 32 * 18,
        }
    }

    fn gguf_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
            Self::Bf16 => 30,
        }
    }

    /// Appends 32 weights of `code · unit`, which is a power of two; 4 bits keep the upper half of the code.
    fn encode(self, codes: &[i8; 32], unit: f32, out: &mut Vec<u8>) {
        let value = |code: i8| f32::from(code) * unit;
        match self {
            Self::F32 => codes.iter().for_each(|&code| out.extend(value(code).to_le_bytes())),
            // Eight bits are exact in both half floats: the upper half of a float, or a shift of exponent and mantissa.
            Self::Bf16 => {
                codes.iter().for_each(|&code| out.extend(((value(code).to_bits() >> 16) as u16).to_le_bytes()))
            }
            Self::F16 => codes.iter().for_each(|&code| out.extend(half(value(code)).to_le_bytes())),
            Self::Q8_0 => {
                out.extend(half(unit).to_le_bytes());
                out.extend(codes.map(|code| code as u8));
            }
            Self::Q4_0 => {
                out.extend(half(16.0 * unit).to_le_bytes());
                let nibble = |code: i8| ((code >> 4) + 8) as u8;
                out.extend((0..16).map(|i| nibble(codes[i]) | nibble(codes[i + 16]) << 4));
            }
        }
    }
}

/// The binary16 of a number that is zero or one of its normal numbers, exactly.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    if value == 0.0 { sign } else { sign | ((bits >> 13 & 0x3_FFFF) - (112 << 10)) as u16 }
}

/// Random codes, eight to a step of SplitMix64 (Steele, Lea and Flood, 2014).
struct Codes(u64);

impl Codes {
    fn of(name: &str) -> Self {
        // FNV-1a.
        Self(
            name.bytes()
                .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)),
        )
    }

    fn next_block(&mut self) -> [i8; 32] {
        let mut codes = [0; 32];
        for eight in codes.as_chunks_mut::<8>().0 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.0;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            *eight = (mixed ^ mixed >> 31).to_le_bytes().map(|byte| byte as i8);
        }
        codes
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn output(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::with_capacity(4 << 20, file))
}

fn finish(out: BufWriter<File>) -> Result<()> {
    Ok(out.into_inner().map_err(|error| error.into_error())?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_those_of_the_standard() {
        for (value, bits) in
            [(0.0, 0), (1.0, 0x3C00), (-2.0, 0xC000), (1.0 / 4096.0, 0x0C00), (-128.0 / 4096.0, 0xA800)]
        {
            assert_eq!(half(value), bits, "{value}");
        }
    }

    #[test]
    fn four_bits_keep_the_upper_half_of_a_code() {
        let mut codes = [0_i8; 32];
        (codes[0], codes[16], codes[1]) = (127, -128, -1);
        let mut block = Vec::new();
        Encoding::Q4_0.encode(&codes, UNIT, &mut block);
        assert_eq!((block[2], block[3], block.len()), (0x0F, 0x87, 18));
    }
}
